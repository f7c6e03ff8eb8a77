"""Checks the audit: sound datasets pass, and each kind of damage is found by the check that is for it."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config import sections
from pipeline.config.load import parse_config
from pipeline.dataset import vectors
from pipeline.dataset.identity import Identity
from pipeline.embed import on_ray, spread_out
from pipeline.errors import DeniedError, ExitCode, MissingError, ModelError, OtherDatasetError
from pipeline.model.output_spec import OutputSpec
from pipeline.model.outputs import embedding
from pipeline.verify import verify
from pipeline.verify.verify import Report
from tests.conftest import make_checkpoint, texts
from tests.driver.test_run import embed
from tests.flow import use_no_ray
from tests.planted import Planted, flip_a_byte, replaced

LINES = "first line\r\n\n" + "".join(f"line {number} of many, naïve\n" for number in range(30))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet with a list column, two rows without a text and a long text; and lines, one of them blank."""
    root = tmp_path_factory.mktemp("source")
    for number in range(2):
        documents: list[str | None] = [*texts(20, number * 20)]
        if number:
            documents[3], documents[14] = None, " \n"
            documents[5] = "a long text of words " * 30
        keys = range(number * 20, number * 20 + 20)
        tags = [[f"tag {key}", None] for key in keys]
        pq.write_table(
            pa.table({"key": list(keys), "text": documents, "tags": tags}), root / f"{number}.parquet"
        )
    (root / "lines.txt").write_text(LINES)
    return root


@pytest.fixture(scope="module")
def values(source: Path, tiny: Path) -> Callable[..., dict[str, Any]]:
    """Makes jobs over both sources; fields of the model may be given."""

    def make(output: Path, **model: Any) -> dict[str, Any]:
        docs = {"path": f"{source}/*.parquet", "id_column": "key", "carry": ["tags"]}
        return {
            "source": {"docs": docs, "lines": {"path": f"{source}/lines.txt"}},
            "model": {"name": str(tiny), **model},
            "output": {"path": str(output), "rows_per_shard": 10, "max_split_bytes": 2000},
        }

    return make


@pytest.fixture(scope="module")
def made(
    values: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes a dataset for the fields of a model; each is embedded once for all tests."""

    @functools.cache
    def make(**model: Any) -> Path:
        output = tmp_path_factory.mktemp("made") / "out"
        with pytest.MonkeyPatch.context() as patch:
            use_no_ray(patch)
            assert embed(values(output, **model)).code == ExitCode.DONE
        return output

    return make


@pytest.fixture
def copy(made: Callable[..., Path], tmp_path: Path) -> Callable[..., Planted]:
    """Copies such a dataset, to be damaged."""
    return lambda **model: Planted(Path(shutil.copytree(made(**model), tmp_path / "copy")))


@pytest.fixture
def planted(copy: Callable[..., Planted]) -> Planted:
    return copy()


def own(root: Path) -> sections.Config:
    """Returns the config that made a dataset, as its owner has it."""
    return parse_config(json.loads((root / "dataset.json").read_text())["config"])


def found(planted: Planted, deep: float = 0.0) -> list[str]:
    told = own(planted.root) if deep else None
    return [str(finding) for finding in verify.verify(str(planted.root), deep, told).findings]


def figures(report: Report, name: str) -> dict[str, Any]:
    return dict(next(check for check in report.checks if check.name == name).figures)


INT8 = {"vector": "int8", "truncate_dim": 11, "long_text": "mean_of_chunks", "max_tokens": 16}
BINARY = {"vector": "binary", "truncate_dim": 11}
CHUNKS = {"long_text": "chunks", "max_tokens": 16, "chunk_overlap": 4}
OTHERS = {"normalize": False, "prefix": "passage: ", "pooling": "cls"}


@pytest.mark.parametrize(
    "model", [{}, INT8, BINARY, CHUNKS, OTHERS], ids=["float32", "int8", "binary", "chunks", "others"]
)
def test_a_sound_dataset_has_no_finding(made: Callable[..., Path], model: dict[str, Any]) -> None:
    output = made(**model)
    report = verify.verify(str(output), 1.0, own(output))
    assert report.findings == []
    assert report.notes == ()
    assert [(check.name, check.result) for check in report.checks] == [(name, "ok") for name in verify.CHECKS]
    rows = json.loads((output / "summary.json").read_text())["rows"]
    assert rows > 90 if model is CHUNKS else rows == 69
    assert figures(report, "reconciliation") == {"files": 3, "documents": 72}
    unique = {"null ids": 0, "repeated ids": 0}
    assert figures(report, "duplicates") == {"rows": rows, "rejects": 3, **unique}
    assert figures(report, "deep")["rows compared"] == rows


# Each function plants one damage, and returns what must be found: the check, and words of the finding.


def missing_shard(planted: Planted) -> str:
    planted.shards[1].unlink()
    return f"shards: data/{planted.shards[1].name}: is missing: the plan and the manifest have it"


def doubled_row(planted: Planted) -> str:
    """Doubles a row in the place of another, so that all counts are right."""
    order = pa.array([0, 1, 2, 2, *range(4, 10)])
    planted.rewrite(planted.shards[0], lambda table: table.take(order))
    name = planted.shards[0].name
    return f"duplicates: data/{name}: 1 rows are there more than once, docs/0.parquet#2 the first"


def flipped_byte(planted: Planted) -> str:
    flip_a_byte(planted.shards[0], "tags")
    why = "can't be read: could not verify page integrity, CRC checksum"
    return f"checksums: data/{planted.shards[0].name}: {why}"


def nan(planted: Planted) -> str:
    vector = [float("nan"), *[0.25] * 15]
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "embedding", 4, vector))
    return f"vectors: data/{planted.shards[0].name}: 1 rows hold NaN or infinity, docs/0.parquet#4 the first"


def wrong_norm(planted: Planted) -> str:
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "embedding", 4, [0.2525] * 16))
    return f"vectors: data/{planted.shards[0].name}: 1 rows have vectors that are not of length 1 (1.01)"


def foreign_shard(planted: Planted) -> str:
    shutil.copy(planted.shards[0], planted.root / "data/part-feed.parquet")
    return "shards: data/part-feed.parquet: is foreign: the plan does not know it"


def foreign_file(planted: Planted) -> str:
    (planted.root / "data/notes.txt").write_text("a note")
    return "shards: data/notes.txt: does not belong here"


def wrong_count_in_the_manifest(planted: Planted) -> str:
    shard = planted.shards[0]
    record = planted.record(shard)
    tokens = record["tokens"]
    planted.tell(record | {"tokens": tokens + 1, "file_bytes": shard.stat().st_size})
    return f"manifest: data/{shard.name}: manifest.parquet says tokens {tokens + 1}, the shard has {tokens}"


def wrong_rows_of_a_piece(planted: Planted) -> str:
    shard = planted.shards[0]
    pieces = planted.record(shard)["pieces"]
    planted.rewrite(shard, lambda table: table, pieces=[pieces[0] | {"rows": 9}])
    told, held = (f"docs/0.parquet [0, 10) with {rows} rows and 0 rejects" for rows in (9, 10))
    return f"manifest: data/{shard.name}: its footer says pieces {told}, the shard has {held}"


def wrong_sum(planted: Planted) -> str:
    summary = json.loads((planted.root / "summary.json").read_text())
    (planted.root / "summary.json").write_text(json.dumps(summary | {"rows": 70}))
    return "manifest: summary.json: rows is 70, the sum of manifest.parquet 69"


def rejected_and_embedded(planted: Planted) -> str:
    """Puts a rejected row in the place of an embedded one, so that all counts are right."""
    shard = planted.with_rejects()
    planted.rewrite_rejects(shard, lambda table: replaced(table, "source_row", 0, 4))
    return f"duplicates: data/{shard.name}: 1 rows are both embedded and rejected, docs/1.parquet#4 the first"


def stale_identity(planted: Planted) -> str:
    """Puts in the identity of another config, which is consistent by itself."""
    path = planted.root / "dataset.json"
    content = json.loads(path.read_text())
    content["dataset_fields"]["output.rows_per_shard"] = 11
    content["dataset_digest"] = Identity(content["vector_fields"], content["dataset_fields"]).dataset_digest
    path.write_text(json.dumps(content))
    return "identity: dataset.json: is stale: its dataset_digest is "


def unfinished_run(planted: Planted) -> str:
    (planted.root / "data/_SUCCESS").unlink()
    planted.shards[0].unlink()
    count = len(planted.shards)
    return (
        f"complete: data/_SUCCESS: is missing: the run is unfinished, {count - 1} of {count} shards are there"
    )


def lost_row(planted: Planted) -> str:
    shard = planted.shards[0]
    pieces = planted.record(shard)["pieces"]
    planted.rewrite(shard, lambda table: table.slice(0, 9), pieces=[pieces[0] | {"rows": 9}])
    return "reconciliation: docs/0.parquet: 20 rows planned, 19 found"


def lost_line(planted: Planted) -> str:
    shard = planted.shards[-1]
    [piece] = planted.record(shard)["pieces"]
    cut = piece | {"stop": piece["stop"] - 1}
    planted.rewrite(shard, lambda table: table, pieces=[cut])
    return f"reconciliation: lines/lines.txt: the lines read do not add up to its {len(LINES.encode())} bytes"


def row_of_another_split(planted: Planted) -> str:
    shard = planted.shards[0]
    pieces = planted.record(shard)["pieces"]
    planted.rewrite(
        shard, lambda table: replaced(table, "source_row", 9, 10), pieces=[pieces[0] | {"rows": 9}]
    )
    return f"duplicates: data/{shard.name}: 1 rows lie outside their split, docs/0.parquet#10 the first"


def changed_vector(planted: Planted) -> str:
    digest = planted.record(planted.shards[0])["content_digest"]
    planted.rewrite(
        planted.shards[0], lambda table: replaced(table, "embedding", 0, [0.25] * 16), content_digest=digest
    )
    return f"checksums: data/{planted.shards[0].name}: its vectors, places and hashes do not have the digest"


def other_schema(planted: Planted) -> str:
    planted.rewrite(planted.shards[0], lambda table: table.drop_columns(["tags"]))
    return f"schema: data/{planted.shards[0].name}: column 'tags' is missing"


def no_tokens(planted: Planted) -> str:
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "n_tokens", 0, 513))
    return f"vectors: data/{planted.shards[0].name}: 1 rows have an n_tokens that is not 1 to 512"


def no_reason(planted: Planted) -> str:
    shard = planted.with_rejects()
    planted.rewrite_rejects(shard, lambda table: replaced(table, "reason", 0, ""))
    return f"rejects: data/{shard.name}: 1 rows were rejected without a reason, docs/1.parquet#3 the first"


def no_rejects(planted: Planted) -> str:
    shard = planted.with_rejects()
    name = planted.record(shard)["rejects_file"]
    (planted.root / "rejects" / name).unlink()
    return f"rejects: data/{shard.name}: rejects/{name} is missing"


def changed_rejects(planted: Planted) -> str:
    shard = planted.with_rejects()
    path = planted.root / "rejects" / planted.record(shard)["rejects_file"]
    pq.write_table(replaced(pq.read_table(path), "text", 0, "another"), path)
    return f"rejects: data/{shard.name}: rejects/{path.name} does not match the digest in its name"


def forged_plan(planted: Planted) -> str:
    path = planted.root / "plan.parquet"
    table = pq.read_table(path)
    changed = replaced(table, "version", 0, "1-1").replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, path)
    return "identity: plan.parquet: 1 splits do not match their ids"


@pytest.mark.parametrize(
    "plant",
    [
        missing_shard, doubled_row, flipped_byte, nan, wrong_norm, foreign_shard, foreign_file,
        wrong_count_in_the_manifest, wrong_rows_of_a_piece, wrong_sum, rejected_and_embedded, stale_identity,
        unfinished_run, lost_row, lost_line, row_of_another_split, changed_vector, other_schema, no_tokens,
        no_reason, no_rejects, changed_rejects, forged_plan,
    ],
)  # fmt: skip
def test_damage_is_found_and_named(planted: Planted, plant: Callable[[Planted], str]) -> None:
    wanted = plant(planted)
    lines = found(planted)
    print("\n".join(lines))
    assert [line for line in lines if line.startswith(wanted)], lines
    if plant not in SEEN_BY_OTHERS:
        assert {line.split(":")[0] for line in lines} == {wanted.split(":")[0]}, lines


SEEN_BY_OTHERS = {no_rejects, row_of_another_split}
"""Damage that consistent records can't hide from other checks, since the count lacks rows."""


def test_damage_of_int8(copy: Callable[..., Planted]) -> None:
    planted = copy(**INT8)
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "embedding_scale", 0, 0.02))
    [line] = found(planted)
    assert "1 rows have vectors that are not of length 1 (" in line


def test_damage_of_binary(copy: Callable[..., Planted]) -> None:
    planted = copy(**BINARY)
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "embedding", 0, b"123"))
    [line] = found(planted)
    assert "1 rows have vectors that are not of 2 bytes" in line


def test_damage_of_chunks(copy: Callable[..., Planted]) -> None:
    planted = copy(**CHUNKS)
    chunks = {path: pq.read_table(path).column("chunk").to_pylist() for path in planted.shards}
    shard = next(path for path, numbers in chunks.items() if 2 in numbers)
    order = [*range(len(chunks[shard]))]
    order.remove(chunks[shard].index(2) - 1)
    planted.rewrite(shard, lambda table: table.take(pa.array(order)))
    [line] = found(planted)
    assert "1 rows lack some of their windows, docs/1.parquet#5 the first" in line


@pytest.mark.parametrize("content", ["truncated", "empty", "garbage", "Parquet", "JSON"])
@pytest.mark.parametrize(
    "name", ["shard", "rejects", "manifest.parquet", "plan.parquet", "summary.json", "dataset.json"]
)
def test_a_damaged_file_is_a_finding_that_names_it(planted: Planted, name: str, content: str) -> None:
    shard = planted.with_rejects()
    rejects = planted.root / "rejects" / planted.record(shard)["rejects_file"]
    path = {"shard": shard, "rejects": rejects}.get(name, planted.root / name)
    data = path.read_bytes()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    odd = {"format_version": 1, "vector_fields": {}, "dataset_fields": 5, "config": 5, "failed_files": 5}
    contents = {
        "truncated": data[:-20], "empty": b"", "garbage": np.random.default_rng(0).bytes(5000),
        "Parquet": bytes(sink.getvalue()), "JSON": json.dumps(odd).encode(),
    }  # fmt: skip
    path.write_bytes(contents[content])
    lines = found(planted)
    assert [line for line in lines if path.name in line], lines


def test_any_byte_of_a_shard_may_be_flipped_without_a_crash(planted: Planted) -> None:
    """Checks also that visible damage is found: without a finding, the rows are the same."""
    shard = planted.shards[0]
    data, rows = shard.read_bytes(), pq.read_table(shard)
    for place in np.random.default_rng(0).integers(0, len(data), 60).tolist():
        changed = bytearray(data)
        changed[place] ^= 255
        shard.write_bytes(changed)
        if not found(planted):
            assert pq.read_table(shard).equals(rows), place


def test_only_deep_finds_a_vector_of_another_text(planted: Planted) -> None:
    """The vector is valid and all digests agree, so only its text tells."""

    def swap(table: pa.Table) -> pa.Table:
        first, second = table.column("embedding").to_pylist()[:2]
        return replaced(replaced(table, "embedding", 0, second), "embedding", 1, first)

    planted.rewrite(planted.shards[0], swap)
    assert found(planted) == []
    [line] = found(planted, deep=1.0)
    assert line.startswith(
        f"deep: data/{planted.shards[0].name}: 2 rows have another vector than their text's (cosine "
    )
    assert line.endswith("docs/0.parquet#0 the first")


def test_deep_sees_windows_that_are_not_those_of_the_text(copy: Callable[..., Planted]) -> None:
    """A text's last window is gone or has another range, which only the text tells."""
    planted = copy(**CHUNKS)
    shard = next(path for path in planted.shards if 2 in pq.read_table(path).column("chunk").to_pylist())
    rows = pq.read_table(shard)
    last = max(range(rows.num_rows), key=rows.column("chunk").to_pylist().__getitem__)
    order = pa.array([row for row in range(rows.num_rows) if row != last])
    planted.rewrite(shard, lambda table: table.take(order))
    other = planted.shards[0]
    stop = pq.read_table(other).column("char_stop")[0].as_py()
    planted.rewrite(other, lambda table: replaced(table, "char_stop", 0, stop - 1))
    assert found(planted) == []
    lines = found(planted, deep=1.0)
    assert {line.split(":")[1] for line in lines} == {f" data/{path.name}" for path in (shard, other)}
    assert all("rows are not the windows of their text" in line for line in lines)


@pytest.mark.parametrize("model", [INT8, BINARY], ids=["int8", "binary"])
def test_deep_sees_quantized_vectors_of_another_text(
    copy: Callable[..., Planted], model: dict[str, Any]
) -> None:
    planted = copy(**model)
    other = np.random.default_rng(0).normal(size=(1, 11)).astype(np.float32)
    spec = OutputSpec(vector=model["vector"], dimension=11)
    columns = embedding.store(vectors.unit(other), spec)
    for field, column in zip(embedding.fields(spec), columns, strict=True):
        change = functools.partial(replaced, name=field.name, row=0, value=column[0].as_py())
        planted.rewrite(planted.shards[0], change)
    assert found(planted) == []
    [line] = found(planted, deep=1.0)
    assert "1 rows have another vector than their text's" in line


def test_deep_sees_another_text_and_other_tokens(planted: Planted) -> None:
    planted.rewrite(planted.shards[0], lambda table: replaced(table, "text_hash", 0, b"0" * 16))
    planted.rewrite(planted.shards[1], lambda table: replaced(table, "n_tokens", 0, 3))
    assert found(planted) == []
    lines = found(planted, deep=1.0)
    assert [line.split(": ", 2)[2].split(",")[0] for line in lines] == [
        "1 rows have another text_hash than their source's text",
        "1 rows have another n_tokens than their text",
    ]


def test_a_sample_is_drawn_the_same_for_the_same_dataset(planted: Planted) -> None:
    root = planted.root
    reports = [verify.verify(str(root), fraction, own(root)) for fraction in (0.3, 0.3, 0.6)]
    counts = [figures(report, "deep")["rows compared"] for report in reports]
    assert 0 < counts[0] == counts[1] < counts[2] < 69


def reconfigure(planted: Planted, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the config as if the source or the model lay elsewhere; `own` returns the change, too."""
    path = planted.root / "dataset.json"
    content = json.loads(path.read_text())
    change(content["config"])
    path.write_text(json.dumps(content))


def test_a_source_that_moved_on_is_noted_and_not_compared(
    planted: Planted, source: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(source, tmp_path / "source"))

    def move(config: dict[str, Any]) -> None:
        config["source"]["docs"]["path"] = f"{elsewhere}/*.parquet"
        config["source"]["lines"]["path"] = f"{elsewhere}/lines.txt"
        for each in config["source"].values():  # a copy keeps a file's time, but not its inode's
            each["options"] = (each.get("options") or {}) | {"ignore_ctime": True}

    reconfigure(planted, move)
    assert verify.verify(str(planted.root), config=own(planted.root)).notes == ()
    (elsewhere / "1.parquet").unlink()
    (elsewhere / "lines.txt").write_text(LINES + "one more\n")
    report = verify.verify(str(planted.root), 1.0, own(planted.root))
    assert report.findings == []
    assert figures(report, "deep")["rows compared"] == 20
    assert report.notes == (
        "source: docs/1.parquet is gone since it was planned",
        "source: lines/lines.txt has changed since it was planned",
        "deep: 49 rows were not checked: their source is gone or has changed",
    )
    shutil.rmtree(elsewhere)
    report = verify.verify(str(planted.root), config=own(planted.root))
    assert report.findings == []
    [check] = [check for check in report.checks if check.name == "source"]
    assert check.result == "not checked"
    assert "no file here" in check.skipped


def test_another_model_under_the_same_name_is_not_compared_with(planted: Planted, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", seed=1)
    reconfigure(planted, lambda config: config["model"].update(name=str(model)))
    assert found(planted) == []
    with pytest.raises(ModelError, match="is not the model that made the dataset"):
        found(planted, deep=1.0)


@pytest.mark.usefixtures("flow")
def test_failed_files_that_were_allowed_are_no_findings(
    values: Callable[..., dict[str, Any]], source: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "source"))
    pq.write_table(pq.read_table(copy / "1.parquet"), copy / "1.parquet", compression="none")
    data = (copy / "1.parquet").read_bytes()
    (copy / "1.parquet").write_bytes(data[:100] + bytes(200) + data[300:])
    job = values(tmp_path / "out") | {"quality": {"allow_failed_files": True}}
    job["source"]["docs"]["path"], job["source"]["lines"]["path"] = f"{copy}/*.parquet", f"{copy}/lines.txt"
    ending = embed(job)
    assert list(ending.summary["failed_files"]) == ["docs/1.parquet"]
    planted = Planted(tmp_path / "out")
    assert found(planted) == []
    planted.shards[0].unlink()
    assert len(found(planted)) == 1


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
def test_many_shards_are_spread_over_ray(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that the report is the same. The limit is lowered, since 200 shards take a minute to make."""
    nan(planted)
    missing_shard(planted)
    told = own(planted.root)
    here = verify.verify(str(planted.root), 0.5, told)
    monkeypatch.setattr(spread_out, "MANY", 1)
    there = verify.verify(str(planted.root), 0.5, told)
    assert _rounded(there) == _rounded(here)
    assert len(there.findings) == 2


def _rounded(report: verify.Report) -> verify.Report:
    """Drops the last digits of a cosine: workers may run with another number of threads."""

    def rounded(check: verify.Check) -> verify.Check:
        figures = {
            name: round(each, 5) if isinstance(each, float) else each for name, each in check.figures.items()
        }
        return dataclasses.replace(check, figures=figures)

    return dataclasses.replace(report, checks=tuple(map(rounded, report.checks)))


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_spread_function_raises_arrives_as_it_was() -> None:
    def deny(number: int) -> int:
        if number == 7:
            raise DeniedError("access denied", "s3://bucket/x", "403", "check the credentials")
        return number

    with pytest.raises(DeniedError, match="s3://bucket/x: access denied"):
        list(on_ray.spread(deny, range(20)))
    assert list(on_ray.spread(deny, range(7))) == [*range(7)]
    with pytest.raises(ZeroDivisionError):
        list(on_ray.spread(lambda number: 1 // number, [0]))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in this process, or another entry point in its own."""

    def run(*arguments: str, entry: str = "") -> subprocess.CompletedProcess[str]:
        if not entry:
            capsys.readouterr()
            code = cli.main(["verify", *arguments])
            return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())
        return subprocess.run(
            [sys.executable, "-m", entry, *arguments], capture_output=True, text=True, check=False
        )

    return run


def test_the_command_ends_with_what_it_found(
    planted: Planted, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    sound = command(str(planted.root))
    assert (sound.returncode, len(sound.stdout.splitlines())) == (0, len(verify.CHECKS)), sound.stderr
    assert "reconciliation  ok            3 files, 72 documents" in sound.stdout
    assert "exit" not in sound.stderr

    missing_shard(planted)
    nan(planted)
    damaged = command(str(planted.root))
    assert damaged.returncode == 3
    assert "          shards  1 finding" in damaged.stdout
    assert f"\nfound:\n  shards: data/{planted.shards[1].name}: is missing" in damaged.stdout
    last = damaged.stderr.splitlines()[-1]
    assert last.startswith(f"exit 3: shards: data/{planted.shards[1].name}: is missing: ")
    assert last.endswith("(and 1 more)")

    submitted = command(str(planted.root), "--json", "--quiet", entry="jobs.verify")
    assert (submitted.returncode, submitted.stderr) == (3, last + "\n")
    shown = json.loads(submitted.stdout)
    assert (shown["dataset"], shown["findings"], shown["notes"]) == (str(planted.root), 2, [])
    assert [check["name"] for check in shown["checks"]] == list(verify.CHECKS)
    [vectors_] = [check for check in shown["checks"] if check["name"] == "vectors"]
    assert vectors_["result"] == "1 finding"
    assert vectors_["figures"] == {"rows": 59, "kind": "float32", "dimensions": 16}
    assert set(vectors_["findings"][0]) == {"check", "where", "what"}


def test_where_there_is_no_dataset(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = command(str(tmp_path / "nowhere"))
    assert ended.returncode == 2
    assert ended.stderr == (
        f"exit 2: {tmp_path}/nowhere: no dataset here; name the folder that holds dataset.json\n"
    )
    assert command("ftp://x/y").stderr.startswith("exit 2: dataset: ftp: is not supported here")


def test_a_dataset_of_another_version_of_the_format(planted: Planted) -> None:
    path = planted.root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(OtherDatasetError, match="format version 99"):
        verify.verify(str(planted.root))


def test_many_findings_are_shown_in_part(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        (planted.root / f"data/{number}.txt").write_text("")
    assert cli.main(["verify", str(planted.root)]) == ExitCode.INCOMPLETE
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "  and 5 more (--json has all)"
    assert len(lines) == len(verify.CHECKS) + 2 + 20 + 1


def test_it_starts_without_torch_and_ray(planted: Planted) -> None:
    script = (
        "import sys; from pipeline import cli; code = cli.main(['verify', sys.argv[1], '--quiet'])\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(planted.root)], capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_missing_between_listing_and_reading(planted: Planted) -> None:
    """A missing shard is a finding, not an error."""
    from pipeline.config.location import Options
    from pipeline.dataset.expected import Expected
    from pipeline.plan.plan import Plan
    from pipeline.verify.shard_audit import Shard, audit_shard

    plan = Plan.from_bytes((planted.root / "plan.parquet").read_bytes())
    identity = Identity.from_bytes((planted.root / "dataset.json").read_bytes(), "")
    split, pieces = next(plan.splits())
    planted.shards[0].unlink()
    expected = Expected.of(identity, plan.columns)
    shard = Shard(str(planted.root), Options(), split, pieces, None, expected)
    [finding] = audit_shard(shard).findings
    assert str(finding) == f"shards: data/part-{split}.parquet: is gone since it was listed"
    with pytest.raises(MissingError):
        verify.verify(str(planted.root / "data"))
