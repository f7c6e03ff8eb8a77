"""Pieces become documents: each file is read in one pass, and what can't be read costs itself alone.

Memory: the documents of one split; a file's other rows pass by. Of several files, which share a split, all
documents up to a bound.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from pipeline.config.sections import Config
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
from pipeline.source import formats
from pipeline.source.formats import Documents, Piece
from pipeline.source.formats.bounds import MAX_READ

UNSEEN = (SourceChangedError, MissingError, DeniedError, ReplacedError)
"""What may be this node's view of a file alone, or pass."""
NONE: Mapping[str, SourceChangedError] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one piece: its documents and the range consumed, or why there are none."""

    piece: Piece
    documents: Documents | None = None
    start: int = 0
    stop: int = 0
    error: Exception | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that its documents take, about."""
        documents = self.documents
        return documents.texts.nbytes + documents.rows.nbytes + documents.rejects.nbytes if documents else 0

    def consumed(self) -> dict[str, Any]:
        """As a piece of the shard record, but for its counts."""
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

    A split is read when it is asked for.

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
    """Yields the part of each piece; those of one file that follow each other are read in one pass."""
    for file, run in groupby(pieces, lambda piece: piece.source_file):
        if file in without:
            yield from (Part(piece, error=without[file]) for piece in run)
        else:
            yield from _of_file(list(run), config, columns)


def seekable(piece: Piece, config: Config) -> bool:
    """Whether a piece can be read without the rows before it."""
    return piece.unit == "bytes" or formats.random_access(config.source[piece.source].format)


def usable(found: Sequence[Part]) -> Sequence[Documents]:
    """The documents of a split: without those of a bad file, where others of the split are good.

    Raises:
        Exception: what stopped a piece, unless it is the file's own fault and others can be embedded.
    """
    errors = [part.error for part in found if part.error]
    others = [error for error in errors if not isinstance(error, SourceError)]
    if others or len(errors) == len(found):
        raise (others or errors)[0]
    return [part.documents for part in found if part.documents]


def _together(found: Iterator[Part]) -> list[Part]:
    """The parts of files that share a split; where it can't hold them all, without those that expanded most.

    Sizes of compressed files are guesses when splits are made. So the others, which are as large as one would
    guess, stay.
    """
    kept: list[Part] = []
    expanded: list[tuple[float, int]] = []  # a heap: minus how much, and the place in `kept`
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
        hint="store it uncompressed if all that is content, or leave it out",
    )


def refuse_unseen(found: Sequence[Part], without: Mapping[str, SourceChangedError]) -> None:
    """Refuse a split with files that this process does not see as they were planned.

    That may be its node's view alone, or pass; and a shard that was made without a file stays without it.

    Args:
        without: files that the driver found changed or gone.

    Raises:
        UnseenError: there are others; all are named.
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
    raws = formats.read(formats.file_path(source, pieces[0].file), pieces, source, columns)
    keep_text, replace_errors = config.output.keep_rejected_text, source.encoding_errors == "replace"
    error: Exception | None = None
    for piece in pieces:
        if error is None:
            try:
                raw = next(raws)
                documents = formats.separate_rejects(raw, piece, columns, keep_text, replace_errors)
            except Exception as found:
                error = found
        yield Part(piece, error=error) if error else Part(piece, documents, raw.start, raw.stop)
