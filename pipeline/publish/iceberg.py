"""Publishes a dataset as an Iceberg table, through a catalog that pyiceberg's own configuration names.

The library writes the table's metadata where the catalog wants them. The data files are the shards, which
stay where they are; what the table says of each comes from the manifest, so no shard is opened.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.config import sections
from pipeline.config.location import is_url
from pipeline.errors import ConfigError, PipelineError, StorageError, one_line
from pipeline.publish.contents import CLAIM, DATASET, DIGEST, DIMENSION, Contents, File, refuse_other
from pipeline.source.tables.snapshot import require

NAME_MAPPING = "schema.name-mapping.default"
PROPERTIES = {"gc.enabled": "false"}
"""No engine may remove a file that no snapshot names any more: `prune` alone removes shards."""
RECOGNIZED = (DATASET, DIGEST, CLAIM)
"""The properties by which the current snapshot is known to show a dataset."""


@dataclass(frozen=True)
class State:
    """A table as the catalog has it now; None if there is no table yet."""

    where: str
    catalog: Any
    name: str
    table: Any

    def live(self) -> dict[str, int]:
        """Returns the size of each file that a branch or a tag of the table names, by its location."""
        if self.table is None:
            return {}
        found: dict[str, int] = {}
        for snapshot_id in {each.snapshot_id for each in self.table.refs().values()}:
            for task in self.table.scan(snapshot_id=snapshot_id).plan_files():
                found[task.file.file_path] = task.file.file_size_in_bytes
        return found

    def holds(self, wanted: Contents) -> bool:
        """Tells whether the current snapshot says that it shows a dataset."""
        found = self.table.current_snapshot() if self.table is not None else None
        if found is None or found.summary is None:
            return False
        told = found.summary.additional_properties
        return all(told.get(name) == wanted.marks[name] for name in RECOGNIZED)

    def refuse(self, wanted: Contents) -> None:
        """Refuses a dataset that this table must not show.

        Raises:
            ConfigError: a column has another type than in the table, or a number that the table gives to
                another one; or the vectors have another dimension.
        """
        after = _schema(wanted)
        if self.table is None:
            return
        before = self.table.schema()
        snapshot = self.table.current_snapshot()
        told = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
        refuse_other(_arrow(before), _arrow(after), told.get(DIMENSION), wanted, self.where)
        names = dict(_names(before))
        for number, name in _names(after):
            if names.get(number, name) != name:
                hint = "publish into a new table; or remove this one from its catalog, and publish again"
                got = f"{number} is {names[number]} there, {name} here"
                raise ConfigError(f"numbers columns otherwise than {wanted.name}", self.where, got, hint)

    def replace(self, wanted: Contents) -> bool:
        """Makes the table show a dataset; returns whether it did, and False if another commit was first."""
        from pyiceberg.exceptions import (  # noqa: PLC0415  (an extra)
            CommitFailedException,
            TableAlreadyExistsError,
            ValidationException,
        )

        try:
            with self._transaction(wanted) as change:
                self._evolve(change, wanted)
                with change.update_snapshot(snapshot_properties=dict(wanted.marks)).overwrite() as snapshot:
                    for file in self._current():
                        snapshot.delete_data_file(file)
                    for data_file in _data_files(wanted):
                        snapshot.append_data_file(data_file)
        except (CommitFailedException, TableAlreadyExistsError, ValidationException):
            return False
        return True

    def _transaction(self, wanted: Contents) -> Any:
        if self.table is not None:
            return self.table.transaction()
        self.catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
        return self.catalog.create_table_transaction(self.name, _schema(wanted), properties=PROPERTIES)

    def _current(self) -> list[Any]:
        if self.table is None:
            return []
        return [task.file for task in self.table.scan().plan_files()]

    def _evolve(self, change: Any, wanted: Contents) -> None:
        """Gives the table the columns and the ids of a dataset, and the names of files without ids."""
        after = _schema(wanted)
        if change.table_metadata.schema().as_struct() != after.as_struct():
            _schema_update()(change, after).commit()
        mapping = after.name_mapping.model_dump_json()
        if change.table_metadata.properties.get(NAME_MAPPING) != mapping:
            change.set_properties({NAME_MAPPING: mapping})


@contextmanager
def opened(target: sections.Table, where: str) -> Iterator[State]:
    """Yields a table as its catalog has it now.

    Args:
        where: the table, for messages.

    Raises:
        ConfigError: pyiceberg is not installed, or does not know the catalog.
        StorageError: the catalog or its storage failed.
    """
    require(where, "pyiceberg.catalog", "pyiceberg.table")
    from pyiceberg.catalog import load_catalog  # noqa: PLC0415  (an extra)
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError  # noqa: PLC0415

    assert target.table is not None
    with _told(where):
        try:
            catalog = load_catalog(target.catalog)
        except (ValueError, KeyError, ImportError) as error:
            name = target.catalog.upper()
            hint = (
                f"describe the catalog in ~/.pyiceberg.yaml, or by PYICEBERG_CATALOG__{name}__URI and so on"
            )
            raise ConfigError(
                f"pyiceberg can't open the catalog {target.catalog!r}", where, one_line(error), hint
            ) from None
        try:
            table = catalog.load_table(target.table)
        except (NoSuchTableError, NoSuchNamespaceError):
            table = None
        yield State(where, catalog, target.table, table)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns what the library raises into an error that names the table; our own errors pass."""
    from pyiceberg.exceptions import ForbiddenError, OAuthError, UnauthorizedError  # noqa: PLC0415

    try:
        yield
    except PipelineError:
        raise
    except (ForbiddenError, OAuthError, UnauthorizedError) as error:
        hint = "check the credentials in pyiceberg's configuration"
        raise ConfigError("the catalog refuses us", where, one_line(error), hint) from None
    except Exception as error:  # catalogs raise errors of many kinds: of databases, of HTTP, of storage
        hint = "publish again when both answer; the datasets are as they were"
        raise StorageError("the catalog or its storage failed", where, one_line(error), hint) from None


def _schema_update() -> Any:
    """Returns the library's kind of a change that sets a schema as it is, where its own gives new ids."""
    from pyiceberg.schema import Schema  # noqa: PLC0415  (an extra)
    from pyiceberg.table.update import (  # noqa: PLC0415
        AddSchemaUpdate,
        AssertCurrentSchemaId,
        SetCurrentSchemaUpdate,
        UpdateTableMetadata,
    )

    class SchemaUpdate(UpdateTableMetadata):  # type: ignore[misc]  # its types are not followed
        def __init__(self, change: Any, wanted: Any) -> None:
            super().__init__(change)
            self.wanted = wanted

        def _commit(self) -> Any:
            metadata = self._transaction.table_metadata
            known = [each for each in metadata.schemas if each.as_struct() == self.wanted.as_struct()]
            if known:
                updates: tuple[Any, ...] = (SetCurrentSchemaUpdate(schema_id=known[0].schema_id),)
            else:
                number = max(each.schema_id for each in metadata.schemas) + 1
                added = Schema(*self.wanted.fields, schema_id=number)
                updates = (AddSchemaUpdate(schema=added), SetCurrentSchemaUpdate(schema_id=-1))
            return updates, (AssertCurrentSchemaId(current_schema_id=metadata.current_schema_id),)

    return SchemaUpdate


def _schema(wanted: Contents) -> Any:
    from pyiceberg.io.pyarrow import pyarrow_to_schema  # noqa: PLC0415  (an extra)

    return pyarrow_to_schema(wanted.columns)


def _arrow(columns: Any) -> pa.Schema:
    from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415  (an extra)

    return schema_to_pyarrow(columns, include_field_ids=False)


def _names(columns: Any) -> Iterator[tuple[int, str]]:
    """Yields the id and the full name of each field."""
    for number in columns.field_ids:
        yield number, columns.find_column_name(number)


def _data_files(wanted: Contents) -> Iterable[Any]:
    places = _Places(wanted)
    return map(places.data_file, wanted.files)


class _Places:
    """Says what a table tells of a shard: its location, and where its rows lie in the source."""

    def __init__(self, wanted: Contents) -> None:
        from pyiceberg.conversions import to_bytes  # noqa: PLC0415  (an extra)

        series = wanted.series
        self.folder = series if is_url(series) else f"file://{series}"
        columns = _schema(wanted)
        self.fields = [columns.find_field(name) for name in ("source_file", "source_row")]
        self.to_bytes = to_bytes

    def data_file(self, file: File) -> Any:
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat  # noqa: PLC0415  (an extra)
        from pyiceberg.typedef import Record  # noqa: PLC0415

        made = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{self.folder}/{file.path}",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=file.rows,
            file_size_in_bytes=file.size,
            lower_bounds=self._bounds(file.least),
            upper_bounds=self._bounds(file.most),
        )
        made.spec_id = 0
        return made

    def _bounds(self, place: tuple[str, int] | None) -> dict[int, bytes] | None:
        if place is None:
            return None
        pairs = zip(self.fields, place, strict=True)
        return {field.field_id: self.to_bytes(field.field_type, value) for field, value in pairs}
