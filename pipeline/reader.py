"""Pieces become documents: each file is read in one pass, and what can't be read costs itself alone.

Memory: the documents of the pieces that were asked for and not yet taken; a file's other rows pass by.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline import formats
from pipeline.config import Config
from pipeline.errors import (
    CredentialsError,
    DeniedError,
    ExitCode,
    MissingError,
    ReplacedError,
    SourceChangedError,
    SourceError,
    SourceGoneError,
    UnseenError,
)
from pipeline.formats import Documents, Piece

CUT_ANYWHERE = ("parquet", "text-files")
"""Formats of which a stretch of rows is read without all rows before it."""
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

    def consumed(self) -> dict[str, Any]:
        """As a piece of the shard record, but for its counts."""
        return {
            "source": self.piece.source,
            "file": self.piece.file,
            "start": self.piece.start if self.error else self.start,
            "stop": self.piece.stop if self.error else self.stop,
            "error": str(self.error) if self.error else None,
        }


def parts(
    pieces: Sequence[Piece],
    config: Config,
    columns: pa.Schema,
    without: Mapping[str, SourceChangedError] = NONE,
) -> Iterator[Part]:
    """What becomes of each piece, in order; those of one file that follow each other are read in one pass.

    Args:
        without: files that the driver found changed or gone.
    """
    for file, run in groupby(pieces, lambda piece: piece.source_file):
        if file in without:
            yield from (Part(piece, error=without[file]) for piece in run)
        else:
            yield from _of_file(list(run), config, columns)


def seekable(piece: Piece, config: Config) -> bool:
    """Whether a piece can be read without the rows before it."""
    return piece.unit == "bytes" or config.source[piece.source].format in CUT_ANYWHERE


def usable(found: Sequence[Part]) -> Sequence[Documents]:
    """The documents of a split: without those of a bad file, where others of the split are good.

    Raises:
        Exception: what stopped a piece, unless it is the file's own fault and others can be embedded.
        UnseenError: files are not seen here. A shard without them would stay so when they are seen again.
    """
    errors = [part.error for part in found if part.error]
    others = [error for error in errors if not isinstance(error, SourceError | UnseenError)]
    unseen = [part for part in found if isinstance(part.error, UnseenError)]
    if unseen and not others:
        raise _unseen(unseen)
    if others or len(errors) == len(found):
        raise (others or errors)[0]
    return [part.documents for part in found if part.documents]


def _of_file(pieces: Sequence[Piece], config: Config, columns: pa.Schema) -> Iterator[Part]:
    source = config.source[pieces[0].source]
    raws = formats.read(formats.file_path(source, pieces[0].file), pieces, source, columns)
    keep_text, replace_errors = config.output.keep_rejected_text, source.encoding_errors == "replace"
    error: Exception | None = None
    for piece in pieces:
        if error is None:
            try:
                raw = next(raws)
                documents = formats.sift(raw, piece, columns, keep_text, replace_errors)
            except Exception as found:
                error = _as_seen_here(found, piece)
        yield Part(piece, error=error) if error else Part(piece, documents, raw.start, raw.stop)


def _as_seen_here(error: Exception, piece: Piece) -> Exception:
    """An error, but for those that are no fact of the file's while only this node has seen them."""
    if not isinstance(error, UNSEEN) or isinstance(error, CredentialsError):
        return error
    where, got = f"{piece.source_file} on {platform.node()}", getattr(error, "finding", "")
    changed = isinstance(error, SourceChangedError) and not isinstance(error, SourceGoneError)
    code = ExitCode.INCOMPLETE if changed else ExitCode.RETRYABLE
    return UnseenError("is not seen there as it was planned", where, got, "run again", exit_code=code)


def _unseen(parts: Sequence[Part]) -> UnseenError:
    """The first part's error, with the files of all."""
    files = dict.fromkeys(part.piece.source_file for part in parts)
    errors = [part.error for part in parts if isinstance(part.error, UnseenError)]
    first, code = errors[0], max(error.exit_code for error in errors)
    return UnseenError(first.what, first.where, first.got, first.hint, list(files), code)
