"""Source formats: one module each.

A format answers two questions with plain functions: `survey` says how a file can be cut, without reading
its rows; `read` gives the rows of one piece of it.
"""

from typing import Any, Protocol

from pipeline import storage
from pipeline.config import Source
from pipeline.errors import MissingError, ReplacedError, SourceChangedError, SourceError
from pipeline.formats import parquet, text
from pipeline.formats.documents import Documents, sift
from pipeline.formats.piece import Piece, Raw, Span, Survey

__all__ = ["Documents", "Piece", "Raw", "Span", "Survey", "read", "sift", "survey"]


class _Format(Protocol):
    """What each module of a format offers; `storage` failures pass through."""

    def survey(self, file: Any, size: int, source: Source, /) -> Survey: ...
    def read(self, file: Any, piece: Piece, source: Source, /) -> Raw: ...


_FORMATS: dict[str, _Format] = {"parquet": parquet, "text": text}


def survey(info: storage.ObjectInfo, source: Source) -> Survey:
    """How a file can be cut.

    Raises:
        SourceError: its content can't be embedded.
    """
    with storage.connect(info.path, source.options).open(info.path) as file:
        return _FORMATS[source.format].survey(file, info.size, source)


def read(path: str, piece: Piece, source: Source) -> Raw:
    """The rows of one piece of the file at `path`.

    Raises:
        SourceError: the content is damaged.
        SourceChangedError: the file is not, or not any more when it was read, the version that was planned.
    """
    store = storage.connect(path, source.options)
    _check_version(store, path, piece)
    try:
        with store.open(path) as file:
            raw = _FORMATS[source.format].read(file, piece, source)
    except (SourceError, ReplacedError):
        _check_version(store, path, piece)  # the better explanation, where it holds
        raise
    _check_version(store, path, piece)
    return raw


def _check_version(store: storage.Storage, path: str, piece: Piece) -> None:
    try:
        found = store.info(path).version
    except MissingError:
        found = ""
    if found != piece.version:
        raise SourceChangedError(
            "changed since it was planned" if found else "is gone since it was planned",
            path,
            f"version {found or None}, planned {piece.version}",
            "embed what is there now into a new output",
        )
