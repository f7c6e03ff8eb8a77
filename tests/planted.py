"""Damages datasets on purpose: changes one thing, and makes everything that would reveal it agree."""

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.dataset.record import RECORD
from pipeline.dataset.summary import counts
from pipeline.dataset.writer import content_digest

Change = Callable[[pa.Table], pa.Table]


class Planted:
    """The dataset in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def shards(self) -> list[Path]:
        """Returns the shards in the order of the plan."""
        ids = dict.fromkeys(pq.read_table(self.root / "plan.parquet").column("split_id").to_pylist())
        return [self.root / f"data/part-{split}.parquet" for split in ids]

    @property
    def outputs(self) -> list[str]:
        """Returns the outputs of the dataset."""
        fields = json.loads((self.root / "dataset.json").read_text())["vector_fields"]
        return list(fields.get("model.outputs", ["embedding"]))

    def with_rejects(self) -> Path:
        """Returns the first shard that names rejects."""
        return next(path for path in self.shards if self.record(path)["rejects_file"])

    def record(self, shard: Path) -> dict[str, Any]:
        """Reads the record in a shard's footer."""
        record: dict[str, Any] = json.loads(pq.read_metadata(shard).metadata[schema.RECORD_KEY])
        return record

    def rewrite(self, shard: Path, change: Change, **told: Any) -> None:
        """Changes a shard's rows, and with them digest, counts, footer, manifest and summary."""
        table = change(pq.read_table(shard))
        digest = content_digest(table, self.outputs)
        record = self.record(shard) | {"rows": table.num_rows, "content_digest": digest}
        record |= {name: sum(table.column(column).to_pylist())
                   for name, column in (("tokens", "n_tokens"), ("truncated", "truncated"))}  # fmt: skip
        record |= told
        kept = {key: value for key, value in table.schema.metadata.items() if key == schema.LABELS_KEY}
        table = table.replace_schema_metadata(kept | {schema.RECORD_KEY: json.dumps(record)})
        pq.write_table(table, shard, write_page_checksum=True)
        self.tell(record | {"file_bytes": shard.stat().st_size})

    def rewrite_rejects(self, shard: Path, change: Change) -> None:
        """Changes a shard's rejects, their file's name, and their counts in footer and manifest."""
        name = self.record(shard)["rejects_file"]
        path = self.root / "rejects" / name
        pq.write_table(change(pq.read_table(path)), path)
        digest = blake2b(path.read_bytes(), digest_size=8).hexdigest()
        renamed = path.rename(path.with_name(f"{name.rsplit('-', 1)[0]}-{digest}.parquet"))
        self.rewrite(shard, lambda table: table, rejects_file=renamed.name)

    def tell(self, record: Mapping[str, Any]) -> None:
        """Puts a record into the manifest, and its sums into the summary."""
        path = self.root / "manifest.parquet"
        records = [
            dict(record) if old["split_id"] == record["split_id"] else old
            for old in pq.read_table(path).to_pylist()
        ]
        manifest = pa.Table.from_pylist(records, schema=RECORD)
        pq.write_table(manifest, path)
        summary = json.loads((self.root / "summary.json").read_text())
        (self.root / "summary.json").write_text(json.dumps(summary | counts(manifest)))


def replaced(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    """Returns a table with another value in one place."""
    values = table.column(name).to_pylist()
    values[row] = value
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def flip_a_byte(path: Path, column: str) -> None:
    """Flips one bit in the last page of a column."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    chunk = next(each for each in columns if each.path_in_schema.split(".")[0] == column)
    first = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    data = bytearray(path.read_bytes())
    data[first + chunk.total_compressed_size - 2] ^= 1
    path.write_bytes(data)
