"""Checks the forecast of a run: its counts, its sample, its estimates, and its warnings."""

import gzip
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import telemetry
from pipeline.config import sections
from pipeline.config.load import parse_config
from pipeline.estimate import sampling, token_lengths, warnings
from pipeline.estimate.estimate import Forecast, forecast
from pipeline.estimate.sampling import Sample, Stratum
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.plan.make import make_plan
from pipeline.source import reader
from pipeline.source.formats import Piece
from tests import records
from tests.conftest import PACKAGED, texts, write_config

Job = Callable[..., dict[str, Any]]


def of(values: dict[str, Any]) -> Forecast:
    return forecast(parse_config(values))


def kinds(found: Forecast) -> list[str]:
    return [caution.kind for caution in found.cautions]


def tokens_of(corpus: list[str], max_tokens: int = 512) -> int:
    return int(Tokenizer(checkpoint.resolve(str(PACKAGED)), max_tokens).encode(pa.array(corpus)).offsets[-1])


def stratum(**more: Any) -> Stratum:
    """Makes a stratum of which all 4 rows were sampled."""
    nothing = {"source": "docs", "unit": "rows", "size": 4, "covered": 4, "texts": 4}
    rows = {"lengths": np.array([1, 2, 3, 4]), "truncated": np.zeros(4, np.bool_)}
    return Stratum(**(nothing | rows | more))


def test_each_row_of_a_sample_counts_for_those_it_stands_for() -> None:
    long = stratum(covered=1, texts=1, lengths=np.array([10]), truncated=np.array([True]))
    found = token_lengths.distribution([stratum(), long])
    assert found is not None
    assert (found.mean, found.p50, found.p95, found.longest) == ((1 + 2 + 3 + 4 + 4 * 10) / 8, 4, 10, 10)
    assert found.truncated == 4 / 8
    assert found.histogram == {1: 1 / 8, 2: 1 / 8, 3: 1 / 8, 4: 1 / 8, 6: 0, 8: 0, 12: 4 / 8}
    assert found.padded == (4 * 4 + 4 * 10) / (10 + 4 * 10)
    assert token_lengths.distribution([]) is None


def test_padding_is_that_of_batches_in_input_order() -> None:
    assert token_lengths.padded_tokens(np.arange(1, 34)) == 32 * 32 + 33
    assert token_lengths.padded_tokens(np.array([9, 1, 1, 9]), batch=2) == 2 * 9 + 2 * 9


def test_a_small_corpus_is_taken_whole(job: Job) -> None:
    found = of(job())
    [seen] = found.sample.strata
    assert (seen.unit, seen.size, seen.covered, seen.texts) == ("rows", 60, 60, 60)
    assert (found.sample.stretches, found.sample.files) == (3, 3)
    assert (found.texts, found.tokens, found.rejects) == (60, tokens_of(texts(60)), 0)
    assert (found.counted_rows, found.estimated_rows, found.state) == (60, 0, "new")
    assert not Path(found.config.output.path).exists()
    assert kinds(found) == []


def test_the_sample_is_bounded_and_spread_over_a_large_corpus(job: Job, corpus: Path) -> None:
    """Half of the rows are long, in the last file; few are sampled, and the estimate is near."""
    short, long = ["a few words"] * 3000, ["some words more than that and than that " * 5] * 3000
    for name, rows in (("0", short[:1000]), ("1", short[1000:]), ("2", long)):
        table = pa.table({"key": list(range(len(rows))), "text": rows, "topic": ["t"] * len(rows)})
        pq.write_table(table, corpus / f"{name}.parquet", row_group_size=500)
    found = of(job())
    [seen] = found.sample.strata
    assert seen.texts <= sampling.MAX_TEXTS < found.counted_rows
    assert found.tokens == pytest.approx(tokens_of(short + long), rel=0.1)
    assert found.sample.files == 3
    again = of(job())
    assert np.array_equal(again.sample.strata[0].lengths, seen.lengths)


def test_of_a_corpus_that_is_taken_whole_no_file_is_cut_short(job: Job, corpus: Path) -> None:
    long = ["many words in each of these texts, and more than elsewhere"] * 1500
    table = pa.table({"key": list(range(1500)), "text": long, "topic": ["t"] * 1500})
    pq.write_table(table, corpus / "2.parquet")
    found = of(job())
    assert (found.sample.strata[0].covered, found.texts) == (1540, 1540)
    assert found.tokens == tokens_of(texts(40) + long)


@pytest.mark.parametrize("sizes", [(3000, 5, 700), (2100, 1, 1), (700, 700, 701)])
def test_no_row_is_drawn_twice_and_none_that_is_not_there(
    job: Job, corpus: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    for number, rows in enumerate(sizes):
        table = pa.table({"key": list(range(rows)), "text": ["word"] * rows, "topic": ["t"] * rows})
        pq.write_table(table, corpus / f"{number}.parquet")
    drawn: list[Piece] = []
    read = reader.read_piece

    def read_piece(piece: Piece, told: sections.Config, columns: pa.Schema) -> reader.Part:
        drawn.append(piece)
        return read(piece, told, columns)

    monkeypatch.setattr(reader, "read_piece", read_piece)
    of(job(output={"rows_per_shard": 999}))
    assert len(drawn) > 10
    ranges = sorted((piece.file, piece.start, piece.stop) for piece in drawn)
    assert all(0 <= start < stop <= sizes[int(file[0])] for file, start, stop in ranges)
    assert all(one[0] != other[0] or one[2] <= other[1] for one, other in itertools.pairwise(ranges))


def test_lines_that_are_not_counted_are_estimated(job: Job, tmp_path: Path) -> None:
    lines = [f"line {number} " + "word " * (number % 20) for number in range(40_000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    before = telemetry.read_bytes.total()
    found = of(job(source={"lines": {"path": f"{tmp_path}/lines.txt"}}))
    [seen] = found.sample.strata
    assert (found.counted_rows, seen.unit) == (0, "bytes")
    assert seen.texts <= sampling.MAX_TEXTS
    assert found.estimated_rows == pytest.approx(len(lines), rel=0.03)
    assert found.tokens == pytest.approx(tokens_of(lines), rel=0.03)
    assert found.sample.read_bytes <= telemetry.read_bytes.total() - before


def test_sources_are_mixed_by_what_they_hold(job: Job, tmp_path: Path) -> None:
    """The sources are Parquet (counted), lines (estimated), and a stream that is only read at its start."""
    (tmp_path / "lines.txt").write_text("one line\n" * 50)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(b'{"text": "an object"}\n' * 5000))
    sources = job()["source"] | {
        "lines": {"path": f"{tmp_path}/*.txt"},
        "objects": {"path": f"{tmp_path}/*.jsonl.gz"},
    }
    found = of(job(source=sources))
    seen = {each.source: each for each in found.sample.strata}
    assert (seen["docs"].covered, seen["lines"].texts) == (60, 50)
    assert 0 < seen["objects"].covered < seen["objects"].size == 5000
    assert (found.counted_rows, found.estimated_rows) == (60 + 5000, 50)
    expected = tokens_of(texts(60)) + 50 * tokens_of(["one line"]) + 5000 * tokens_of(["an object"])
    assert found.tokens == expected
    assert kinds(found) == ["unsplittable", "no_id_column"]


def test_no_stretch_is_begun_once_enough_was_read(
    job: Job, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stretch of each source is always read."""
    monkeypatch.setattr(sampling, "MAX_READ", 0)
    sources = job()["source"] | {"again": {"path": f"{corpus}/*.parquet", "id_column": "key"}}
    found = of(job(source=sources))
    assert [each.covered for each in found.sample.strata] == [20, 20]
    assert found.texts == 120


def test_a_file_that_can_no_longer_be_read_is_told_and_nothing_is_estimated(job: Job, corpus: Path) -> None:
    made = make_plan(parse_config(job()), checkpoint.resolve(job()["model"]["name"]), "digest")
    parsed = parse_config(job())
    model = checkpoint.resolve(parsed.model.name)
    for path in corpus.glob("*.parquet"):
        path.unlink()
    recipe = EmbeddingSpec.of(model, parsed.model)
    sample = sampling.draw(made.pieces, made.columns, parsed, recipe, Tokenizer(model, recipe.max_tokens))
    [seen] = sample.strata
    assert (seen.covered, len(seen.unread)) == (0, 3)
    assert "is gone since it was planned" in seen.unread[0]
    [caution] = warnings.unread(sample.strata)
    assert caution.text.startswith("a file could not be sampled: docs/")
    assert caution.text.endswith("(and 2 more)")


def test_an_estimate_with_a_hole_is_none(job: Job) -> None:
    found = of(job())
    holed = replace(found, sample=Sample((*found.sample.strata, stratum(covered=0))))
    assert (holed.texts, holed.tokens, holed.shard_bytes, holed.hours) == (None, None, None, None)


def test_truncated_texts_are_cut_counted_and_a_caution(job: Job) -> None:
    """One of seven texts has at most 12 tokens; all others have more."""
    found = of(job(model={"max_tokens": 12}))
    assert found.lengths is not None
    rows = Tokenizer(checkpoint.resolve(str(PACKAGED)), 12).encode(pa.array(texts(60))).truncated
    assert found.lengths.truncated == pytest.approx(rows.mean())
    assert (found.lengths.longest, found.tokens) == (12, tokens_of(texts(60), 12))
    [caution] = found.cautions
    assert (caution.kind, "longer than 12 tokens" in caution.text) == ("truncated", True)
    assert kinds(of(job(model={"max_tokens": 12, "long_text": "chunks"}))) == []


def test_windows_are_the_rows_where_each_has_one(job: Job) -> None:
    windowed = of(job(model={"max_tokens": 12, "long_text": "chunks"}))
    mean = of(job(model={"max_tokens": 12, "long_text": "mean_of_chunks"}))
    assert windowed.texts == mean.texts == mean.new_rows == 60
    assert windowed.new_rows == len(windowed.sample.strata[0].lengths) > 100
    assert windowed.tokens == mean.tokens


def test_null_and_blank_texts_are_rejects_and_a_caution_when_they_are_most(job: Job, corpus: Path) -> None:
    def with_texts(empty: int) -> Forecast:
        rows = [None, " "] * (empty // 2) + ["words"] * (20 - empty)
        for number in range(3):
            keys = range(20 * number, 20 * number + 20)
            table = pa.table({"key": list(keys), "text": rows, "topic": ["t"] * 20})
            pq.write_table(table, corpus / f"{number}.parquet")
        return of(job())

    few = with_texts(10)
    assert (few.texts, few.rejects, kinds(few)) == (30, 30, [])
    most = with_texts(14)
    assert most.sample.strata[0].rejects == Counter(null=21, blank=21)
    assert (most.texts, most.rejects, most.tokens) == (18, 42, 18 * tokens_of(["words"]))
    [caution] = most.cautions
    assert caution.text.startswith("source.docs: 70% of the sampled texts are null or blank")
    none = with_texts(20)
    assert (none.texts, none.tokens, none.lengths) == (0, 0, None)


@pytest.mark.parametrize(("vector", "size"), [("float32", 64), ("int8", 20), ("binary", 2)])
def test_the_output_is_rows_by_the_size_of_a_vector_and_a_little(job: Job, vector: str, size: int) -> None:
    """The model has 16 dimensions."""
    assert of(job(model={"vector": vector})).shard_bytes == 60 * (size + 40)


def test_time_and_price_are_by_the_rate_of_the_config(job: Job) -> None:
    found = of(job(cost={"tokens_per_second": 10.0, "price_per_hour": 36.0}, compute={"max_replicas": 4}))
    tokens = tokens_of(texts(60))
    assert (found.rate.by, found.replicas) == ("config", 4)
    assert found.hours == pytest.approx(tokens / 36_000)
    assert found.price == pytest.approx(tokens / 1000)


def test_without_a_rate_a_cpu_is_guessed_and_a_gpu_is_not(job: Job) -> None:
    """The model has 2 layers of 2 * (4 * 16 * 16 + 2 * 16 * 32) operations per token."""
    cpu, gpu = of(job()), of(job(compute={"device": "cuda"}))
    assert (cpu.rate.by, cpu.rate.tokens_per_second) == ("guess", 1e11 / 8192)
    assert (gpu.rate.by, gpu.rate.tokens_per_second, gpu.hours, gpu.price) == ("none", None, None, None)


def test_what_is_there_is_not_pending_and_its_rate_is_taken(job: Job) -> None:
    dataset, made = records.planned(job())
    ids = made.split_ids.to_pylist()
    measured = {"computed_tokens": 300, "encode_seconds": 2.0}
    records.write(dataset, *(records.record(split, **measured) for split in ids[:2]))
    found = of(job())
    assert (found.state, len(found.pending.split_ids), len(found.todo.split_ids)) == ("unfinished", 4, 4)
    assert (found.rate.by, found.rate.tokens_per_second, found.rate.measured_tokens) == (
        "this dataset", 150.0, 600,
    )  # fmt: skip
    assert (found.texts, found.counted_rows) == (40, 60)
    assert found.sample.strata[0].covered == 40


def test_a_rate_of_another_device_is_not_taken(job: Job) -> None:
    dataset, made = records.planned(job(compute={"device": "cuda"}, model={"dtype": "float32"}))
    split = made.split_ids[0].as_py()
    records.write(dataset, records.record(split, computed_tokens=300, encode_seconds=2.0))
    assert of(job(model={"dtype": "float32"})).rate.by == "guess"


def test_nothing_is_left_of_a_complete_dataset(job: Job) -> None:
    dataset, made = records.planned(job())
    records.complete(dataset, *(records.record(split) for split in made.split_ids.to_pylist()))
    found = of(job())
    assert (found.state, len(found.pending.split_ids), found.sample.strata) == ("complete", 0, ())
    assert (found.tokens, found.texts, found.lengths, kinds(found)) == (0, 0, None, [])


def test_of_a_base_shards_are_copied_unchanged_files_taken_and_changed_ones_counted_as_new(
    job: Job, tmp_path: Path, corpus: Path
) -> None:
    """Each file has two splits. Rejects of file 0 may succeed if retried; file 1 changes, file 2 stays."""
    base, made = records.planned(job(output={"path": str(tmp_path / "base")}))
    shards = [
        records.record(
            split, rows=10, transient=int(number == 0), computed_tokens=50, encode_seconds=1.0,
            pieces=[records.piece(f"{number // 2}.parquet", 10)],
        )
        for number, split in enumerate(made.split_ids.to_pylist())
    ]  # fmt: skip
    records.complete(base, *shards)
    pq.write_table(pq.read_table(corpus / "1.parquet"), corpus / "1.parquet", compression="none")
    found = of(job(reuse={"base": str(tmp_path / "base")}))
    assert found.reuse is not None
    assert (len(found.reuse.copied), found.reuse.copied_rows) == (3, 30)
    assert (found.reuse.unchanged, found.reuse.unchanged_rows) == (("docs/0.parquet",), 10)
    assert found.reuse.changed_rows == 20
    assert (len(found.pending.split_ids), len(found.todo.split_ids), found.texts) == (6, 2, 20)
    assert found.tokens == tokens_of(texts(20, 20))
    assert (found.rate.by, found.rate.tokens_per_second) == ("base", 50.0)
    assert found.fields()["reuse"]["changed_rows_at_most"] == 20


def test_a_base_of_other_vectors_spares_nothing(job: Job, tmp_path: Path) -> None:
    base, made = records.planned(job(output={"path": str(tmp_path / "base")}))
    records.complete(base, *(records.record(split, rows=10) for split in made.split_ids.to_pylist()))
    found = of(job(reuse={"base": str(tmp_path / "base")}, model={"max_tokens": 64}))
    assert (found.reuse, found.texts) == (None, 60)


def scans(stored: list[int], splits_of_a_scan: int = 1) -> pa.Table:
    """Makes pieces of a plan: one for each split, and a number of splits for each scan."""
    count = len(stored)
    numbers = list(range(count))
    return pa.table(
        {
            "split": numbers, "scan": [number // splits_of_a_scan for number in numbers],
            "source": ["docs"] * count, "file": [f"{number:02}.gz" for number in numbers],
            "stored_bytes": stored,
        }
    )  # fmt: skip


def test_a_file_that_one_task_reads_for_long_is_a_caution() -> None:
    assert warnings.unsplittable(scans([1] * 8, splits_of_a_scan=8)) == []
    [caution] = warnings.unsplittable(scans([1] * 19, splits_of_a_scan=9))
    assert caution.text.startswith("docs/00.gz (and 1 more): one task reads its 9 splits")


def test_one_split_that_holds_far_more_is_a_caution() -> None:
    mb = 1 << 20
    assert warnings.large_split(scans([10 * mb, 10 * mb, 79 * mb])) == []  # not 8 times the median
    assert warnings.large_split(scans([mb] * 80 + [8 * mb])) == []  # not a tenth of all
    assert warnings.large_split(scans([1000, 1000, 8000])) == []  # done in no time
    assert warnings.large_split(scans([100 * mb])) == []  # alone
    [caution] = warnings.large_split(scans([10 * mb, 10 * mb, 80 * mb]))
    assert caution.text.startswith("one split of docs/02.gz holds 80% of what is to be read")


def test_very_many_tiny_files_are_a_caution() -> None:
    def files(count: int, size: int) -> pa.Table:
        return pa.table({"size": [size] * count})

    assert warnings.tiny_files(files(9_999, 10)) == warnings.tiny_files(files(10_000, 100_000)) == []
    [caution] = warnings.tiny_files(files(10_000, 20_000))
    assert caution.text.startswith("10,000 files of 20 kB on average")


def test_rows_without_an_id_are_a_caution_where_they_could_have_one(job: Job, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n")
    sources = job()["source"] | {"lines": {"path": f"{tmp_path}/lines.txt"}}
    assert kinds(of(job(source=sources))) == []
    del sources["docs"]["id_column"]
    assert kinds(of(job(source=sources))) == ["no_id_column"]


def test_more_replicas_than_splits_are_a_caution(job: Job) -> None:
    assert kinds(of(job(compute={"max_replicas": 6}))) == []
    assert kinds(of(job(compute={"max_replicas": 7}))) == ["idle_replicas"]
    assert kinds(of(job(compute={"min_replicas": 7}))) == ["idle_replicas"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://minio:9000", ["plain_http"]),
        ("https://minio", []),
        ("http://127.0.0.1:9000", []),
        ("http://localhost:9000", []),
        ("http://[::1]:9000", []),
        ("http://localhost.example.org", ["plain_http"]),
        ("http://127.example.org", ["plain_http"]),
    ],
)
def test_an_endpoint_without_tls_is_a_caution(url: str, told: list[str], job: Job) -> None:
    values = job(output={"path": "s3://bucket/out", "options": {"endpoint_url": url}})
    assert [each.kind for each in warnings.plain_http(parse_config(values))] == told


def test_plan_starts_without_torch_and_ray(job: Job, tmp_path: Path) -> None:
    path = write_config(tmp_path / "job.yaml", job())
    code = (
        "import sys; from pipeline import cli; cli.main(['plan', sys.argv[1]]);"
        "cli.main(['status', sys.argv[1]]);"
        "print([name for name in ('torch', 'ray', 'transformers') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_ids_that_are_not_those_of_auto_tokenizer_are_told_once(job: Job, tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "cased")
    settings = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": False}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    [caution] = of(job(model={"name": str(model)})).cautions
    assert caution.kind == "tokenizer"
    assert "not those of AutoTokenizer: AutoTokenizer follows tokenizer_config.json" in caution.text
    assert "'A quick brown fox" in caution.text
