"""Tests that shards are fit for tables, and that datasets of before still are what they were."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import _dated, parse_config
from pipeline.dataset.dataset import Dataset
from pipeline.driver import run
from pipeline.errors import ExitCode
from pipeline.model import checkpoint
from pipeline.nightly.base import base_of
from pipeline.plan.make import make_plan
from pipeline.plan.plan import FIELD_IDS_KEY
from pipeline.verify import verify
from tests.conftest import read_dataset
from tests.models_with_heads import with_classes

pytestmark = pytest.mark.usefixtures("flow")
Job = Callable[..., dict[str, Any]]
FIRST = datetime.date(2026, 11, 24)


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    base_of.cache_clear()
    yield
    base_of.cache_clear()


def embed(values: dict[str, Any], night: int = 0) -> Any:
    parsed = parse_config(values)
    output = _dated(parsed.output, FIRST + datetime.timedelta(night))
    ending = run.run(parsed.model_copy(update={"output": output}), quiet=True)
    assert ending.code == ExitCode.DONE, ending.reason
    assert not verify.verify(output.path).findings
    return ending.summary


def shards(root: Path) -> list[Path]:
    return sorted((root / "data").glob("*.parquet"))


def ids(shard: Path) -> dict[str, int]:
    """Returns the field ids of a shard's columns."""
    columns = pq.read_schema(shard)
    return {
        each.name: int(each.metadata[b"PARQUET:field_id"])
        for each in columns
        if b"PARQUET:field_id" in (each.metadata or {})
    }


def as_before(root: Path) -> None:
    """Takes from a dataset what versions of before did not write: ids, in the plan and in some shards."""
    plan = pq.read_table(root / "plan.parquet")
    told = {key: value for key, value in plan.schema.metadata.items() if key != FIELD_IDS_KEY}
    pq.write_table(plan.replace_schema_metadata(told), root / "plan.parquet", compression="zstd")
    for shard in shards(root):
        table = pq.read_table(shard)
        columns = pa.schema([without_ids(each) for each in table.schema], table.schema.metadata)
        table = pa.Table.from_arrays(table.columns, schema=columns)
        pq.write_table(table, shard, compression="zstd", write_page_checksum=True)
        assert not ids(shard)


def without_ids(field: pa.Field) -> pa.Field:
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(pa.field("element", kind.value_type), kind.list_size)
    return pa.field(field.name, kind, field.nullable)


def test_rows_of_a_file_are_skipped_by_their_statistics(job: Job, tmp_path: Path) -> None:
    embed(job())
    for shard in shards(tmp_path / "out"):
        group = pq.ParquetFile(shard).metadata.row_group(0)
        columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
        for name in ("key", "source_file", "source_row"):
            assert columns[name].statistics.has_min_max, name
        assert columns["embedding.list.element"].statistics is None


def test_a_new_carried_column_gets_a_number_of_its_own(job: Job, tmp_path: Path, corpus: Path) -> None:
    values = job(output={"path": str(tmp_path / "series/{run_date}")})
    embed(values)
    [first] = {tuple(ids(shard).items()) for shard in shards(tmp_path / "series/2026-11-24")}
    assert [number for _, number in first] == list(range(1, len(first) + 1))
    for path in corpus.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column("extra", pa.array(["x"] * len(table))), path)
    source = values["source"]["docs"]
    values["source"] = {"docs": source | {"carry": ["extra", "topic"]}}
    embed(values, night=1)
    [second] = {tuple(ids(shard).items()) for shard in shards(tmp_path / "series/2026-11-25")}
    assert dict(second) == dict(first) | {"extra": len(first) + 2}  # one more is that of the vectors' numbers
    # Without the column, and with it again: a number is not given twice.
    values["source"] = {"docs": source}
    embed(values, night=2)
    values["source"] = {"docs": source | {"carry": ["topic", "extra"]}}
    embed(values | {"reuse": {"base": "latest"}}, night=3)
    for night, numbers in (("2026-11-26", first), ("2026-11-27", second)):
        assert all(ids(shard) == dict(numbers) for shard in shards(tmp_path / "series" / night))


def test_a_dataset_half_made_by_an_older_version_is_resumed(job: Job, tmp_path: Path) -> None:
    values, root = job(), tmp_path / "out"
    embed(values)
    wanted = read_dataset(root)
    as_before(root)
    for name in ("manifest.parquet", "summary.json", "data/_SUCCESS"):
        (root / name).unlink()
    for path in [*shards(root)[::2], *(root / "ledger").glob("*.parquet")]:
        path.unlink()
    embed(values)
    assert {bool(ids(shard)) for shard in shards(root)} == {True, False}
    assert read_dataset(root).equals(wanted)


@pytest.mark.parametrize("match", ["file", "dataset"])
def test_a_dataset_of_an_older_version_is_a_base(job: Job, tmp_path: Path, match: str, corpus: Path) -> None:
    values = job(output={"path": str(tmp_path / "series/{run_date}"), "rows_per_shard": 10})
    embed(values)
    as_before(tmp_path / "series/2026-11-24")
    first = corpus / "0.parquet"
    pq.write_table(pq.read_table(first).slice(1), first)
    # The manifest knows the sizes of before: `verify` compares them, copies do not.
    values["reuse"] = {"base": "latest", "match": match}
    parsed = parse_config(values)
    output = _dated(parsed.output, FIRST + datetime.timedelta(1))
    summary = run.run(parsed.model_copy(update={"output": output}), quiet=True).summary
    assert (summary["copied"], summary["reused"], summary["embedded"]) == (40, 19, 0)
    found = [ids(shard) for shard in shards(tmp_path / "series/2026-11-25")]
    assert [each for each in found if each] == [ids_of_a_first_night(found)] * 2


def ids_of_a_first_night(found: list[dict[str, int]]) -> dict[str, int]:
    names = next(each for each in found if each)
    return dict(zip(names, range(1, len(names) + 1), strict=True))


@pytest.mark.parametrize("vector", ["float32", "int8"])
def test_plain_lists_hold_the_same_vectors(job: Job, tmp_path: Path, vector: str) -> None:
    model = job()["model"] | {"vector": vector}
    roots = [tmp_path / name for name in ("fixed", "plain")]
    for root in roots:
        embed(job(output={"path": str(root), "vector_list": root.name}, model=model))
    fixed, plain = map(read_dataset, roots)
    assert pa.types.is_fixed_size_list(fixed.schema.field("embedding").type)
    kind = plain.schema.field("embedding").type
    assert kind == pa.list_(fixed.schema.field("embedding").type.value_type)
    assert plain.equals(fixed.cast(plain.schema))
    assert pq.ParquetFile(shards(roots[0])[0]).schema.equals(pq.ParquetFile(shards(roots[1])[0]).schema)


def test_scores_are_plain_lists_too(job: Job, tmp_path: Path) -> None:
    classifier = with_classes(tmp_path / "classifier", ["news", "sport"])
    model = {"name": str(classifier), "outputs": ["embedding", "classification"]}
    embed(job(model=model, output={"vector_list": "plain"}))
    assert read_dataset(tmp_path / "out").schema.field("scores").type == pa.list_(pa.float32())


@pytest.mark.parametrize("kinds", [("fixed", "plain"), ("plain", "fixed")])
def test_vectors_of_the_other_kind_of_list_are_reused(
    job: Job, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    values = job(output={"path": str(tmp_path / "series/{run_date}")})
    for night, kind in enumerate(kinds):
        values["output"] |= {"vector_list": kind}
        summary = embed(values | {"reuse": {"base": "latest" if night else None}}, night)
    assert (summary["copied"], summary["reused"], summary["embedded"]) == (0, 60, 0)


def test_verify_finds_plain_lists_of_other_lengths(job: Job, tmp_path: Path) -> None:
    embed(job(output={"vector_list": "plain"}))
    shard = shards(tmp_path / "out")[0]
    table = pq.read_table(shard)
    vectors = table["embedding"].to_pylist()
    vectors[0], vectors[1] = vectors[0][:-1], [*vectors[1], 0.0]
    at = table.column_names.index("embedding")
    table = table.set_column(at, table.schema.field(at), pa.array(vectors, table.schema.field(at).type))
    pq.write_table(table, shard, compression="zstd")
    found = [str(each) for each in verify.verify(str(tmp_path / "out")).findings]
    assert any("have vectors that are not of 16 numbers" in each for each in found)


def test_a_dataset_of_default_settings_keeps_its_digest(job: Job, tmp_path: Path) -> None:
    embed(job())
    fields = Dataset(str(tmp_path / "out")).claim_file().identity().dataset_fields
    assert not [
        name for name in fields if name.startswith(("output.vector_list", "output.target", "publish"))
    ]


def test_a_shard_is_about_as_large_as_the_config_says(job: Job, tmp_path: Path) -> None:
    """Vectors are hardly compressed, so the plan takes their size as it is."""
    rows = 60_000
    corpus = tmp_path / "large.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(rows)]}), corpus)
    values = job(
        source={"docs": {"path": str(corpus), "text_column": "text"}},
        output={"path": str(tmp_path / "sized"), "target_file_bytes": 3 << 20},
    )
    del values["output"]["rows_per_shard"]
    parsed = parse_config(values)
    made = make_plan(parsed, checkpoint.resolve(parsed.model.name), "digest")
    sizes = made.pieces.column("stop").to_numpy() - made.pieces.column("start").to_numpy()
    per_row = 4 * 16 + 40
    assert max(sizes) * per_row <= 3 << 20
    assert len(sizes) == -(-rows * per_row // (3 << 20))
