"""Reads pieces as documents: each file in one pass. A file that can't be read does not cost another one.

Memory: the documents of one split; the other rows of a file are not kept. If several files share a split, it
is all their documents, up to a bound.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from pipeline.config.sections import Config
from pipeline.config.source import Source, shard_column
from pipeline.errors import (
    CredentialsError,
    DeniedError,
    ExitCode,
    MissingError,
    ReplacedError,
    SourceChangedError,
    SourceError,
    UnseenError,
)
from pipeline.ragged import unchecked_strings
from pipeline.source import formats
from pipeline.source.formats import Documents, Piece
from pipeline.source.formats.bounds import MAX_READ
from pipeline.source.piece import RawRows

UNSEEN = (SourceChangedError, MissingError, DeniedError, ReplacedError)
"""The errors that only this node may see, or that may pass."""
NONE: Mapping[str, SourceChangedError] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """The result of reading one piece: its documents and the range consumed, or the error."""

    piece: Piece
    documents: Documents | None = None
    start: int = 0
    stop: int = 0
    error: Exception | None = None

    @property
    def size(self) -> int:
        """The approximate bytes of memory that its documents take."""
        documents = self.documents
        return documents.texts.nbytes + documents.rows.nbytes + documents.rejects.nbytes if documents else 0

    def consumed(self) -> dict[str, Any]:
        """Returns the piece as a shard record lists it, without its counts."""
        return {
            "source": self.piece.source,
            "file": self.piece.file,
            "start": self.piece.start if self.error else self.start,
            "stop": self.piece.stop if self.error else self.stop,
            "error": str(self.error) if self.error else None,
        }


def read_splits(
    splits: Iterable[tuple[str, Sequence[Piece]]],
    config: Config,
    columns: pa.Schema,
    without: Mapping[str, SourceChangedError] = NONE,
) -> Iterator[tuple[str, list[Part]]]:
    """Yields the id and the parts of each split, in order; reads a file once for all splits of a scan.

    It reads a split only when the caller takes it.

    Args:
        splits: ids and pieces, as a plan has them.  without: files that the driver found changed or gone.
    """
    splits = list(splits)
    parts = _parts([piece for _, pieces in splits for piece in pieces], config, columns, without)
    for split_id, pieces in splits:
        own = islice(parts, len(pieces))
        files = {piece.source_file for piece in pieces}
        yield split_id, list(own) if len(files) < 2 else _together(own)


def read_piece(piece: Piece, config: Config, columns: pa.Schema) -> Part:
    """Reads one piece by itself."""
    return next(_parts([piece], config, columns, NONE))


def _parts(
    pieces: Sequence[Piece], config: Config, columns: pa.Schema, without: Mapping[str, SourceChangedError]
) -> Iterator[Part]:
    """Yields the part of each piece. Reads pieces of one file that follow each other in one pass."""
    for file, run in groupby(pieces, lambda piece: piece.source_file):
        if file in without:
            yield from (Part(piece, error=without[file]) for piece in run)
        else:
            yield from _of_file(list(run), config, columns)


def seekable(piece: Piece, config: Config) -> bool:
    """Tells whether a piece can be read without the rows before it."""
    return piece.unit == "bytes" or formats.random_access(config.source[piece.source].format)


def usable(found: Sequence[Part]) -> Sequence[Documents]:
    """Returns the documents of a split, without those of a bad file if another file of the split is good.

    Raises:
        Exception: the error of a piece, unless it is the fault of its file and others can be embedded.
    """
    errors = [part.error for part in found if part.error]
    others = [error for error in errors if not isinstance(error, SourceError)]
    if others or len(errors) == len(found):
        raise (others or errors)[0]
    return [part.documents for part in found if part.documents]


def _together(found: Iterator[Part]) -> list[Part]:
    """Collects the parts of files that share a split. Fails those that expanded most if it can't hold all.

    The sizes of compressed files are estimates when splits are made. So the files whose size was close to the
    estimate stay.
    """
    kept: list[Part] = []
    expanded: list[tuple[float, int]] = []  # a heap of minus the expansion, and the place in `kept`
    size = 0
    for part in found:
        heappush(expanded, (-part.size / max(1, part.piece.size), len(kept)))
        kept.append(part)
        size += part.size
        while size > MAX_READ:
            _, at = heappop(expanded)
            size -= kept[at].size
            kept[at] = Part(kept[at].piece, error=_expanded(kept[at]))
    return kept


def _expanded(part: Part) -> SourceError:
    return SourceError(
        "expands to more than its split may hold",
        got=f"{part.piece.size} bytes become {part.size}",
        hint="store it uncompressed if all of it is content, or leave it out",
    )


def refuse_unseen(found: Sequence[Part], without: Mapping[str, SourceChangedError]) -> None:
    """Refuses a split with files that this process does not see as they were planned.

    Only this node may see them so, or it may pass. But a shard that is made without a file stays without it.

    Args:
        without: files that the driver found changed or gone.

    Raises:
        UnseenError: there are others; it names all of them.
    """
    unseen = {
        part.piece.source_file: part.error
        for part in found
        if isinstance(part.error, UNSEEN) and not isinstance(part.error, CredentialsError)
    }
    files = [file for file in unseen if file not in without]
    if files:
        changed = all(type(unseen[file]) is SourceChangedError for file in files)
        raise UnseenError(
            "is not seen there as it was planned",
            f"{files[0]} on {platform.node()}",
            unseen[files[0]].finding,
            "run again",
            files,
            ExitCode.INCOMPLETE if changed else ExitCode.RETRYABLE,
        )


def _of_file(pieces: Sequence[Piece], config: Config, columns: pa.Schema) -> Iterator[Part]:
    source = config.source[pieces[0].source]
    wanted = _with_pair(columns, source)
    raws = formats.read(formats.file_path(source, pieces[0].file), pieces, source.with_pair, wanted)
    keep_text, replace_errors = config.output.keep_rejected_text, source.encoding_errors == "replace"
    error: Exception | None = None
    for piece in pieces:
        if error is None:
            try:
                raw = next(raws)
                rest, seconds = _apart(raw, source)
                documents = formats.separate_rejects(rest, piece, columns, keep_text, replace_errors, seconds)
            except Exception as found:
                error = found
        yield Part(piece, error=error) if error else Part(piece, documents, raw.start, raw.stop)


def _with_pair(columns: pa.Schema, source: Source) -> pa.Schema:
    """Adds the column of second texts to the columns that are read; its source may not carry it."""
    path = source.text_pair_column
    if path is None or path in source.fields.values():
        return columns
    others = [field for field in columns if field.name != shard_column(path)]
    return pa.schema([*others, pa.field(shard_column(path), pa.string())])


def _apart(raw: RawRows, source: Source) -> tuple[RawRows, pa.Array | None]:
    """Takes the second texts from the columns of some rows."""
    path = source.text_pair_column
    if path is None:
        return raw, None
    name = shard_column(path)
    texts = unchecked_strings(raw.columns.column(name).cast(pa.large_binary()).combine_chunks())
    if path not in source.fields.values():
        raw = replace(raw, columns=raw.columns.drop_columns([name]))
    return raw, texts
