"""The source formats. Each is a module, whose `FORMAT` states its properties.

A format has two functions: `survey` finds how a file can be cut; `read` yields the rows of pieces of one
file, in one pass. A new format needs a module and a line here, and its options and name in `config.source`.
"""

import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline import storage
from pipeline.config.source import Source
from pipeline.errors import MissingError, ReplacedError, SourceChangedError, SourceError, SourceGoneError
from pipeline.source.documents import Documents, separate_rejects
from pipeline.source.formats import delimited, jsonl, memory, parquet, table_files, text_files, text_lines
from pipeline.source.formats.format import Format
from pipeline.source.piece import Piece, RawRows, Span, Survey
from pipeline.source.tables.snapshot import DataFile

__all__ = [
    "FORMATS", "Documents", "Format", "Piece", "RawRows", "Span", "Survey", "file_name", "file_path", "look",
    "partition_keys", "random_access", "read", "separate_rejects", "survey",
]  # fmt: skip

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name of a null in the paths of Hive and Spark."""
PARTITION = re.compile(r"(?:^|/)([^/=]+)=([^/]*)(?=/)")
"""A folder of a path that holds the rows with one value of a key."""


FORMATS: Mapping[str, Format] = {
    "parquet": parquet.FORMAT, "text": text_lines.FORMAT, "text-files": text_files.FORMAT,
    "jsonl": jsonl.FORMAT, "csv": delimited.FORMAT, "tsv": delimited.FORMAT,
    "delta": table_files.FORMAT, "iceberg": table_files.FORMAT,
}  # fmt: skip
"""The formats by their names in a config. `config.source.FORMATS` has the options of each."""


def random_access(name: str) -> bool:
    """Tells whether a format reads a range of rows without all rows before it."""
    return FORMATS[name].random_access


def file_name(source: Source, info: storage.ObjectInfo) -> str:
    """Returns the name of a found file in plan and shards, relative to its source."""
    if source.table_folder:
        name = info.path.removeprefix(f"{_root(source)}/")
    else:
        name = storage.connect(source.path, source.options).relative(source.path, info.path)
    return name.encode("utf-8", "backslashreplace").decode()


def file_path(source: Source, name: str) -> str:
    """Returns the full path of the file with a name."""
    return f"{_root(source)}/{name}"


def _root(source: Source) -> str:
    """Returns the folder that names of a source's files are relative to."""
    store = storage.connect(source.path, source.options)
    folder = source.table_folder
    return store.full(store.strip(folder)) if folder else store.root(source.path)


def survey(info: storage.ObjectInfo, name: str, source: Source) -> Survey:
    """Finds how a file can be cut.

    Args:
        name: the name of the file, relative to its source.

    Raises:
        SourceError: its content can't be embedded.
    """
    _refuse_leading_out(name)
    keys = _partitions(info.path, source)
    if info.version == storage.BROKEN_LINK:
        raise SourceError("is a symbolic link that leads nowhere", hint="correct or remove it")
    kind = FORMATS[source.format]
    if kind.opened:
        known = info if kind.read_from_end else None
        opened = storage.connect(info.path, source.options).open(info.path, known)
        with memory.turns(), opened as file:
            if isinstance(info, DataFile):
                found = table_files.survey(file, info, source)
            else:
                found = kind.survey(file, name, info.size, source)
    else:
        found = kind.survey(None, name, info.size, source)
    fields = [*found.columns, *(pa.field(key, pa.string()) for key in keys)]
    return replace(found, columns=pa.schema(fields), types_inferred=kind.types_inferred)


def read(path: str, pieces: Sequence[Piece], source: Source, columns: pa.Schema) -> Iterator[RawRows]:
    """Yields the rows of pieces of the file at `path`, in their order, as soon as each is read.

    Args:
        columns: the id and carried columns of the shards.

    Raises:
        SourceError: the content is damaged.
        SourceChangedError: the file is not the version that was planned, or was replaced during the read.
        SourceGoneError: this process does not see the file.
    """
    _refuse_leading_out(pieces[0].file)
    store, keys = storage.connect(path, source.options), _partitions(path, source)
    _check_version(store, path, pieces[0])
    if all(piece.unit == "rows" and piece.start == piece.stop for piece in pieces):
        yield from (_no_rows(piece, columns) for piece in pieces)
        return
    try:
        with store.open(path, _planned(path, pieces[0])) as file:
            for raw in FORMATS[source.format].read(file, pieces, source, columns):
                _check_version(store, path, pieces[0])
                yield replace(raw, columns=_with_partitions(raw, keys))
    except (SourceError, ReplacedError, MissingError):
        _check_version(store, path, pieces[0])  # a changed file explains the error better
        raise


def _refuse_leading_out(name: str) -> None:
    """Refuses the name of a file outside of its source. Only a plan that we did not write has one.

    Object storage may list such a key: clients may take `..` as the parent folder there, too.
    """
    if name.startswith("/") or not name or ".." in name.split("/"):
        hint = "rename the file; if no file has this name, this program did not write plan.parquet"
        raise SourceError("its name leads out of the source", got=name, hint=hint)


def partition_keys(path: str) -> dict[str, str | None]:
    """Returns the keys and values of the folders (`key=value/`) that a file lies in, by its full path."""
    return {
        _unquoted(key): None if value == NO_PARTITION else _unquoted(value)
        for key, value in PARTITION.findall(path)
    }


def _unquoted(name: str) -> str:
    """Returns a name without the escapes of Hive and Spark; as it is if they do not stand for text."""
    try:
        return urllib.parse.unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name


def _partitions(path: str, source: Source) -> dict[str, str | None]:
    """Returns the partition keys of a file that the config names.

    Raises:
        SourceError: the path lacks one.
    """
    found = partition_keys(path)
    for key in source.partitions:
        if key not in found:
            raise SourceError(
                "its path has no such partition",
                got=f"{key!r} in {path}",
                hint="drop it from partitions, or move the file",
            )
    return {key: found[key] for key in source.partitions}


def _no_rows(piece: Piece, columns: pa.Schema) -> RawRows:
    """Returns the rows of a piece that has none."""
    return RawRows(
        pa.array([], pa.large_string()),
        columns.empty_table(),
        pa.array([], pa.int64()),
        piece.start,
        piece.stop,
    )


def _with_partitions(raw: RawRows, keys: dict[str, str | None]) -> pa.Table:
    columns = dict(zip(raw.columns.column_names, raw.columns.columns, strict=True))
    for key, value in keys.items():
        columns[key] = pa.repeat(pa.scalar(value, pa.string()), len(raw.positions))
    return pa.table(columns)


def look(piece: Piece, source: Source) -> None:
    """Checks that the file of a piece exists, may be read, and is the version that was planned.

    Raises:
        SourceChangedError: it is another version.
        SourceGoneError: it does not exist.
        StorageError: storage does not return it.
    """
    _refuse_leading_out(piece.file)
    path = file_path(source, piece.file)
    store = storage.connect(path, source.options)
    _check_version(store, path, piece)
    with store.open(path, _planned(path, piece)) as file:
        file.read(1)


def _planned(path: str, piece: Piece) -> storage.ObjectInfo:
    """Returns the version to open. If the storage can open a version, no other one is ever read."""
    return storage.ObjectInfo(path, piece.size, piece.version)


def _check_version(store: storage.Storage, path: str, piece: Piece) -> None:
    try:
        info = store.info(path)
    except MissingError:
        raise SourceGoneError(
            "is gone since it was planned",
            path,
            f"planned {piece.version}",
            "put it back and run again, or embed what is there now into a new output",
        ) from None
    if piece.table:
        if info.size != piece.size:
            raise SourceChangedError(
                "is not the file that the table's log names",
                path,
                f"{info.size} bytes, planned {piece.size}",
                "check the table with the engine that wrote it",
            )
        return
    found = info.version
    if not store.same(piece.version, found):
        hint = "embed what is there now into a new output"
        if storage.only_its_inode_changed(piece.version, found):
            hint = f"if it was only moved, set options.ignore_ctime of its source; else {hint}"
        raise SourceChangedError(
            "changed since it was planned", path, f"version {found}, planned {piece.version}", hint
        )
