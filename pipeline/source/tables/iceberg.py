"""Reads a snapshot of an Iceberg table through our own storage, with pyiceberg and without a catalog.

No folder of data is ever listed: the newest metadata is found by its hint, or by a listing of `metadata/`.
"""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config.source import ICEBERG_METADATA, Source
from pipeline.errors import ConfigError, MissingError, PipelineError, one_line
from pipeline.source.tables.snapshot import (
    Column,
    DataFile,
    Deletion,
    Snapshot,
    data_file,
    field_id,
    require,
    wanted_columns,
)

METADATA = re.compile(r"(?:v(\d+)|(\d+)-[0-9a-fA-F-]+)(?:\.gz)?\.metadata\.json(?:\.gz)?")
SCHEMES = re.compile(r"^(?:s3a|s3n)://")
FORMATS = {"PARQUET": "parquet", "PUFFIN": "puffin"}
"""The formats of files that list deleted rows, by the names that Iceberg has for them."""


def read_snapshot(where: str, source: Source, folder: str) -> Snapshot:
    """Returns the files of the snapshot that a source names, or of the newest.

    Args:
        where: the source, for messages.  folder: the table's folder.

    Raises:
        ConfigError: pyiceberg is not installed, or it is a table or a snapshot that can't be read.
        StorageError: storage failed, or there is no table.
    """
    store = storage.connect(folder, source.options)
    full = store.full(store.strip(folder))
    require(where, "pyiceberg.table", "pyroaring")
    from pyiceberg.table import StaticTable  # noqa: PLC0415  (an extra)

    named = source.path.endswith(ICEBERG_METADATA)
    path = f"{full}/metadata/{source.path.rpartition('/')[2]}" if named else _newest(where, store, full)
    try:
        setup = _opened(where, store, source, full, path, StaticTable)
        return setup.snapshot()
    except PipelineError:
        raise
    except Exception as error:  # the library raises errors of many kinds over metadata that it can't read
        raise _refused(where, error) from None


def _refused(where: str, error: Exception) -> ConfigError:
    if "equality deletes" in str(error):
        return ConfigError(
            "is an Iceberg table with equality deletes, which can't be read here",
            where,
            hint="rewrite its data files (rewrite_data_files with delete-file-threshold: 1), and plan again",
        )
    return ConfigError(
        "can't be read as an Iceberg table", where, one_line(error), "check it with the engine that wrote it"
    )


def _newest(where: str, store: storage.Storage, folder: str) -> str:
    """Returns the path of the newest metadata: the hint's or a later one, else that of the highest number.

    Raises:
        ConfigError: two files have the highest number, so that only a catalog knows which one counts.
        MissingError: there is none.
    """
    try:
        number = int(store.read(f"{folder}/metadata/version-hint.text"))
    except (MissingError, ValueError):
        number = -1
    if number >= 0 and store.exists(path := f"{folder}/metadata/v{number}{ICEBERG_METADATA}"):
        while store.exists(later := f"{folder}/metadata/v{number + 1}{ICEBERG_METADATA}"):
            number, path = number + 1, later
        return path
    found: dict[int, list[str]] = {}
    for name in store.list_files(f"{folder}/metadata"):
        if match := METADATA.fullmatch(name):
            found.setdefault(int(match[1] or match[2]), []).append(name)
    if not found:
        hint = "check path: it is the folder that holds metadata/, or a .metadata.json"
        raise MissingError("is not an Iceberg table: it has no metadata", folder, hint=hint)
    first, *others = sorted(found[max(found)])
    if others:
        hint = "set path to the .metadata.json that the catalog names"
        raise ConfigError("has two newest metadata files", where, f"{first}, {others[0]}", hint)
    return f"{folder}/metadata/{first}"


def _opened(
    where: str, store: storage.Storage, source: Source, folder: str, path: str, kind: Any
) -> "_Setup":
    from pyiceberg.catalog.noop import NoopCatalog  # noqa: PLC0415  (an extra)
    from pyiceberg.serializers import FromInputFile  # noqa: PLC0415

    there = _files_of(store, _Places(where, folder, folder))
    metadata = FromInputFile.table_metadata(there.new_input(path))
    places = _Places(where, folder, metadata.location)
    files = _files_of(store, places)
    table = kind(("table",), metadata, path, files, NoopCatalog("none"))
    return _Setup(where, source, table, places)


class _Places:
    """Translates the locations in a table's metadata, which are absolute, into paths in its folder.

    So a table that was copied to another place is read there.
    """

    def __init__(self, where: str, folder: str, location: str) -> None:
        self.where, self.folder, self.location = where, folder, _plain(location)

    def path(self, location: str) -> str:
        """Returns the path of a file.

        Raises:
            ConfigError: it lies outside of the table's folder.
        """
        for root in (self.location, _plain(self.folder)):
            if (plain := _plain(location)).startswith(f"{root}/"):
                return f"{self.folder}/{plain.removeprefix(f'{root}/')}"
        hint = "write its rows as plain Parquet, and embed those"
        raise ConfigError("has files outside of its folder", self.where, location, hint)


def _plain(location: str) -> str:
    """Returns a location in one of the forms that writers use for it."""
    location = SCHEMES.sub("s3://", location.rstrip("/"))
    return re.sub(r"^file:/*", "/", location)


def _files_of(store: storage.Storage, places: _Places) -> Any:
    """Returns the access to files that pyiceberg asks: each read goes through our storage."""
    from pyiceberg.io import FileIO, InputFile, OutputFile  # noqa: PLC0415  (an extra)

    class Input(InputFile):  # type: ignore[misc]  # its types are not followed
        def __len__(self) -> int:
            return store.info(places.path(self.location)).size

        def exists(self) -> bool:
            return store.exists(places.path(self.location))

        def open(self, seekable: bool = True) -> Any:  # noqa: ARG002  (bytes always are)
            return io.BytesIO(store.read(places.path(self.location)))

    class Files(FileIO):  # type: ignore[misc]
        def new_input(self, location: str) -> InputFile:
            return Input(location)

        def new_output(self, location: str) -> OutputFile:
            raise NotImplementedError(f"nothing is written to a source: {location}")

        def delete(self, location: Any) -> None:
            raise NotImplementedError(f"nothing is removed from a source: {location}")

    return Files()


class _Setup:
    """The scan and the columns that all files of a snapshot share."""

    def __init__(self, where: str, source: Source, table: Any, places: _Places) -> None:
        from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415  (an extra)

        self.where, self.source, self.table, self.places = where, source, table, places
        wanted = source.version
        if wanted is not None and table.metadata.snapshot_by_id(wanted) is None:
            known = ", ".join(str(each.snapshot_id) for each in table.metadata.snapshots[-5:]) or "none"
            hint = "name a snapshot that the table still has"
            raise ConfigError(f"has no snapshot {wanted}", where, f"the newest are {known}", hint)
        self.scan = table.scan(snapshot_id=wanted)
        self.schema = self.scan.projection()
        arrow = schema_to_pyarrow(self.schema, include_field_ids=True)
        self.columns = wanted_columns(arrow, source, where, dict(_aliases(table.name_mapping())))

    def snapshot(self) -> Snapshot:
        """Returns the live files.

        Raises:
            MissingError: the table has no snapshot yet.
        """
        found = self.scan.snapshot()
        if found is None:
            raise MissingError("has no rows yet", self.where, "no snapshot", "run again when it has")
        files = [self._data_file(task) for task in self.scan.plan_files()]
        return Snapshot(sorted(files, key=lambda file: file.path), {}, found.snapshot_id)

    def _data_file(self, task: Any) -> DataFile:
        file = task.file
        if file.file_format.name != "PARQUET":
            hint = "rewrite its data files as Parquet"
            raise ConfigError("has data files that are not Parquet", self.where, file.file_format.name, hint)
        constants = dict(self._constants(file))
        path, size, rows = self.places.path(file.file_path), file.file_size_in_bytes, file.record_count
        return data_file(path, size, rows, self.columns, constants, self._deletions(task))

    def _deletions(self, task: Any) -> Iterator[Deletion]:
        for each in task.delete_files:
            kind = FORMATS.get(each.file_format.name)
            if kind is None:
                hint = "rewrite its data files, so that none has deleted rows"
                raise ConfigError(
                    "lists deleted rows in files that can't be read here",
                    self.where,
                    each.file_format.name,
                    hint,
                )
            target = getattr(each, "referenced_data_file", None)
            if target in (None, task.file.file_path):
                yield Deletion(kind, self.places.path(each.file_path), target=task.file.file_path)

    def _constants(self, file: Any) -> Iterator[tuple[str, pa.Scalar]]:
        """Yields the values of columns that a file need not hold: identity partitions, and defaults."""
        ids = {field_id(each.field): each for each in self.columns}
        for number, column in ids.items():
            default = self.schema.find_field(number).initial_default
            if default is not None:
                yield column.name, _constant(default, column)
        for at, partition in enumerate(self.table.metadata.specs()[file.spec_id].fields):
            if str(partition.transform) == "identity" and partition.source_id in ids:
                column = ids[partition.source_id]
                yield column.name, _constant(file.partition[at], column)


def _constant(value: Any, column: Column) -> pa.Scalar:
    """Returns a value in the type of its column. Times and dates may come as numbers."""
    kind = column.field.type
    if isinstance(value, int) and pa.types.is_temporal(kind):
        return pa.scalar(value, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    return pa.scalar(value, kind)


def _aliases(mapping: Any) -> Iterator[tuple[int, Sequence[str]]]:
    """Yields the names that a table's name mapping gives to the columns of files without field ids."""
    pending: list[Any] = list(mapping.root) if mapping else []
    while pending:
        each = pending.pop()
        if each.field_id is not None:
            yield each.field_id, tuple(each.names)
        pending += each.fields
