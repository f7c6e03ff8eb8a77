"""Writes tables of Delta and Iceberg for tests, also with what their Python libraries can't write."""

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.source.tables.deletions import MAGIC, PYTHON_85, Z85

FIRST_COMMIT = 0
LOG = "_delta_log"
FILE_PATH = 2147483546
"""The field id of the column of position deletes that names a data file."""


def rows(*ids: int, text: str = "row {} is about memory and time") -> pa.Table:
    """Returns rows with an id, a text, and a day that only a partition may hold."""
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "text": [text.format(each) for each in ids],
            "day": [f"2026-01-0{1 + each % 2}" for each in ids],
        }
    )


def framed(positions: Iterable[int]) -> bytes:
    """Returns a deletion vector with its length and its checksum."""
    from pyroaring import BitMap64

    data = MAGIC + BitMap64(positions).serialize()
    return struct.pack(">I", len(data)) + data + struct.pack(">I", zlib.crc32(data))


def encode_z85(data: bytes) -> str:
    """Encodes bytes in the base 85 of ZeroMQ."""
    return base64.b85encode(data).translate(bytes.maketrans(PYTHON_85, Z85)).decode()


def actions(root: str, version: int) -> list[dict[str, Any]]:
    """Returns the actions of a commit of a Delta table."""
    data = storage.connect(root).read(f"{root}/{LOG}/{version:020}.json")
    return [json.loads(line) for line in data.splitlines()]


def commit(root: str, version: int, told: Sequence[Mapping[str, Any]]) -> None:
    """Writes a commit of a Delta table."""
    lines = [json.dumps(each) for each in ({"commitInfo": {"timestamp": version}}, *told)]
    storage.connect(root).put(f"{root}/{LOG}/{version:020}.json", "\n".join(lines).encode())


def with_vector(
    root: str, add: Mapping[str, Any], positions: Sequence[int], inline: bool = False
) -> list[Any]:
    """Returns the actions that delete rows of a data file by a deletion vector, which is written."""
    data, name = framed(positions), uuid.uuid4()
    vector: dict[str, Any] = {"sizeInBytes": len(data) - 8, "cardinality": len(positions)}
    if inline:
        padded = data[4:-4] + bytes(-len(data[4:-4]) % 4)
        vector |= {"storageType": "i", "pathOrInlineDv": encode_z85(padded)}
    else:
        storage.connect(root).put(f"{root}/deletion_vector_{name}.bin", b"\x01" + data)
        vector |= {"storageType": "u", "pathOrInlineDv": encode_z85(name.bytes), "offset": 1}
    gone = {name: add[name] for name in ("path", "partitionValues", "size")}
    gone |= {"dataChange": True, "deletionTimestamp": 1, "extendedFileMetadata": True}
    return [{"remove": gone}, {"add": dict(add) | {"deletionVector": vector}}]


def delta_log(
    folder: Path,
    schema: Sequence[Mapping[str, Any]],
    files: Mapping[str, pa.Table],
    features: Sequence[str] = (),
    partitions: Mapping[str, Mapping[str, str | None]] | None = None,
    **configuration: str,
) -> None:
    """Writes a Delta table by hand, for what deltalake does not write.

    Args:
        partitions: the values of the partition columns of each file.
    """
    (folder / LOG).mkdir(parents=True)
    values = partitions or {}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": list(features)}
    keys = sorted({name for each in values.values() for name in each})
    physical = {
        each["metadata"].get("delta.columnMapping.physicalName", each["name"]): each["name"]
        for each in schema
    }
    told: list[dict[str, Any]] = [
        {"protocol": protocol | {"writerFeatures": list(features)}},
        {
            "metaData": {
                "id": "table",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": list(schema)}),
                "partitionColumns": [physical[key] for key in keys],
                "createdTime": 1,
                "configuration": {name.replace("_", "."): value for name, value in configuration.items()},
            }
        },
    ]
    for name, table in files.items():
        pq.write_table(table, folder / name)
        size = (folder / name).stat().st_size
        add = {"path": name, "partitionValues": values.get(name, {}), "size": size, "modificationTime": 1}
        told.append({"add": add | {"dataChange": True}})
    commit(str(folder), FIRST_COMMIT, told)


def column(name: str, kind: Any, **metadata: Any) -> dict[str, Any]:
    """Returns a field of a Delta schema; underscores in the names of metadata stand for dots."""
    told = {f"delta.columnMapping.{key}": value for key, value in metadata.items()}
    return {"name": name, "type": kind, "nullable": True, "metadata": told}


def iceberg_catalog(folder: Path, warehouse: str, **properties: str) -> Any:
    """Returns a catalog of its own for tables below a warehouse."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("test", uri=f"sqlite:///{folder}/catalog.db", warehouse=warehouse, **properties)
    catalog.create_namespace("db")
    return catalog


def root_of(table: Any) -> str:
    """Returns the folder of an Iceberg table as a config names it."""
    return str(table.location()).removeprefix("file://")


def delete_positions(
    table: Any, listed: Sequence[tuple[str, int]], content: str = "POSITION_DELETES"
) -> None:
    """Commits a file of position deletes, as Spark does for merge-on-read; pyiceberg writes none.

    Args:
        listed: data files and positions in them.  content: the kind that the manifest tells.
    """
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
    from pyiceberg.typedef import Record

    path = f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet"
    found = pa.table(
        {"file_path": [each for each, _ in listed], "pos": pa.array([at for _, at in listed], pa.int64())}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(found, sink)
    with table.io.new_output(path).create() as stream:
        stream.write(sink.getvalue().to_pybytes())
    file = DataFile.from_args(
        content=DataFileContent[content],
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(listed),
        file_size_in_bytes=len(sink.getvalue()),
        lower_bounds={FILE_PATH: min(each for each, _ in listed).encode()},
        upper_bounds={FILE_PATH: max(each for each, _ in listed).encode()},
        equality_ids=[1] if content == "EQUALITY_DELETES" else None,
    )
    file.spec_id = 0
    deletes = patch.object(ManifestWriterV2, "content", lambda _: ManifestContent.DELETES)
    with deletes, table.transaction() as change, change.update_snapshot().fast_append() as snapshot:
        snapshot.append_data_file(file)


class Table:
    """A table of either kind, written by its library, with columns as in `rows`."""

    def __init__(
        self, kind: str, folder: Path, root: str = "", options: Mapping[str, Any] | None = None
    ) -> None:
        self.kind, self.options = kind, dict(options or {})
        self.root = root or str(folder / "table")
        self.iceberg: Any = None
        if kind == "delta":
            pytest.importorskip("deltalake")
        else:
            pytest.importorskip("pyiceberg")
            told = {"s3.endpoint": self.options["endpoint_url"]} if self.options else {}
            warehouse = self.root if "://" in self.root else f"file://{self.root}"
            catalog = iceberg_catalog(folder, warehouse, **told)
            self.iceberg = catalog.create_table("db.docs", schema=rows(0).schema)
            self.root = root_of(self.iceberg)

    def source(self, **more: Any) -> dict[str, Any]:
        """Returns the section of a config that reads the table."""
        return {
            "docs": {
                "path": self.root, "format": self.kind, "id_column": "id", "carry": ["day"],
                "options": self.options, **more,
            }
        }  # fmt: skip

    @property
    def version(self) -> int:
        """Returns the newest version, or the id of the newest snapshot."""
        return int(self.iceberg.current_snapshot().snapshot_id if self.iceberg else self._delta().version())

    def append(self, more: pa.Table) -> None:
        """Adds rows, as one data file for each day or as one."""
        if self.iceberg:
            self.iceberg.append(more)
        else:
            from deltalake import write_deltalake

            write_deltalake(self.root, more, mode="append", storage_options=self._delta_options())

    def delete(self, number: int) -> None:
        """Deletes a row; the library rewrites its file."""
        (self.iceberg or self._delta()).delete(f"id = {number}")

    def delete_by_position(self, positions: Sequence[int]) -> None:
        """Deletes rows of the only data file: by a deletion vector, or by position deletes."""
        if self.iceberg:
            [task] = self.iceberg.scan().plan_files()
            delete_positions(self.iceberg, [(task.file.file_path, at) for at in positions])
            self.iceberg.refresh()
        else:
            [add] = [each["add"] for each in actions(self.root, self.version) if "add" in each]
            features = ["deletionVectors"]
            protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features}
            told = [{"protocol": protocol | {"writerFeatures": features}}]
            commit(self.root, self.version + 1, told + with_vector(self.root, add, positions))

    def scan_with_deletions(self) -> pa.Table:
        """Returns the rows as the library itself reads them, without those deleted by position."""
        return self.iceberg.scan().to_arrow() if self.iceberg else pa.table(self._delta().scan())

    def scan(self, version: int | None = None) -> pa.Table:
        """Returns the rows as the library itself reads them."""
        if self.iceberg:
            return self.iceberg.scan(snapshot_id=version).to_arrow()
        return self._delta(version).to_pyarrow_table()

    def _delta(self, version: int | None = None) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self.root, version=version, storage_options=self._delta_options())

    def _delta_options(self) -> dict[str, str] | None:
        if not self.options:
            return None
        return {"AWS_ENDPOINT_URL": self.options["endpoint_url"], "AWS_ALLOW_HTTP": "true"}
