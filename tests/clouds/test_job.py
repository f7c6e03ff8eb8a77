"""Tests the main job and two nights on every store, under faults too, and a job over three stores at once."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, storage
from pipeline.config.load import parse_config
from pipeline.config.location import Options
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import committed
from pipeline.errors import ExitCode
from pipeline.model.fetch import bucket as model_cache
from pipeline.nightly import Series
from pipeline.verify import verify
from tests.clouds.places import Place, Places
from tests.conftest import read_dataset, write_config
from tests.s3.under_faults import EACH_KIND, KINDS

Job = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("flow")


def put_corpus(corpus: Path, place: Place) -> dict[str, Any]:
    """Copies the corpus to a place; returns the source's section."""
    for path in sorted(corpus.glob("*.parquet")):
        place.store().put(f"{place.root}/corpus/{path.name}", path.read_bytes())
    return {"path": f"{place.root}/corpus/*.parquet", **place.section()}


def rows_of(root: str, options: Options) -> pa.Table:
    """Returns the rows of all shards, in the order of the source."""
    dataset = Dataset(root, options)
    read = dataset.storage.read
    shards = [pq.read_table(pa.BufferReader(read(info.path))) for info in dataset.shards().values()]
    return pa.concat_tables(shards).sort_by([("source_file", "ascending"), ("source_row", "ascending")])


def embed(values: dict[str, Any], folder: Path, command: str = "run", *arguments: str) -> int:
    return cli.main([command, str(write_config(folder / "job.yaml", values)), *arguments])


@pytest.fixture
def values(served: Place, job: Job, corpus: Path) -> dict[str, Any]:
    """Returns a config from a store to itself."""
    source = job()["source"]["docs"] | put_corpus(corpus, served)
    output = {"path": f"{served.root}/out", "rows_per_shard": 10, **served.section()}
    return job(source={"docs": source}, output=output)


def test_the_same_as_on_files_and_resumed(
    served: Place, values: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    assert embed(job(), tmp_path) == ExitCode.DONE
    assert embed(values, tmp_path) == ExitCode.DONE
    root = f"{served.root}/out"
    rows = rows_of(root, served.options)
    assert rows.column("key").to_pylist() == list(range(60))
    assert rows.equals(read_dataset(tmp_path / "out"))  # vectors bit by bit, hashes, carried columns

    store = served.store()
    before = store.list_recursive(served.root)
    assert embed(values, tmp_path) == ExitCode.DONE
    assert store.list_recursive(served.root) == before  # nothing was left to do

    dataset = Dataset(root, served.options)
    victims = sorted(info.path for info in dataset.shards().values())[:2]
    for path in (dataset.layout.success, *victims):
        store.remove(path)
    kept = dataset.shards()
    assert embed(values, tmp_path) == ExitCode.DONE
    assert committed(dataset).summary["run"]["splits"] == 2
    assert kept.items() <= dataset.shards().items()
    assert rows_of(root, served.options).equals(rows)
    assert not verify.verify(root, 0.0, parse_config(values)).findings


@pytest.mark.parametrize("kind", EACH_KIND)
def test_under_faults_every_row_arrives_and_retries_are_counted(
    kind: str, served: Place, values: dict[str, Any], tmp_path: Path
) -> None:
    assert served.proxy
    behind = served.section(faulty=True)
    source = values["source"]["docs"] | behind
    values = values | {"source": {"docs": source}, "output": values["output"] | behind}
    # Twice in a row, where a library itself repeats a request once.
    served.proxy.faults = {"lose": 0.3} if kind == "lose" else KINDS[kind]
    assert embed(values, tmp_path) == ExitCode.DONE
    served.proxy.faults = {}
    root = f"{served.root}/out"
    assert rows_of(root, served.options).column("key").to_pylist() == list(range(60))
    assert served.proxy.done[next(iter(KINDS[kind]))] > 5
    summary = committed(Dataset(root, served.options)).summary
    if kind != "stall":
        assert summary["storage_retries"] + sum(summary["run"]["storage_retries"].values()) > 0


def test_two_nights_a_rollback_and_a_prune(
    served: Place, values: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    nightly = {"reuse": {"base": "latest"}}
    values = values | nightly | {"output": values["output"] | {"path": f"{served.root}/series/{{run_date}}"}}
    assert embed(values, tmp_path, "nightly", "--run-date", "2026-11-01") == ExitCode.DONE
    changed = pq.read_table(corpus / "0.parquet")
    changed = changed.set_column(1, "text", pa.array([f"another {at}" for at in range(changed.num_rows)]))
    sink = pa.BufferOutputStream()
    pq.write_table(changed, sink)
    served.store().put(f"{served.root}/corpus/0.parquet", sink.getvalue().to_pybytes())
    assert embed(values, tmp_path, "nightly", "--run-date", "2026-11-02") == ExitCode.DONE

    root, series = f"{served.root}/series", Series(f"{served.root}/series", served.options)
    summary = committed(Dataset(f"{root}/2026-11-02", served.options)).summary
    assert (summary["embedded"], summary["copied"], summary["reused"]) == (20, 40, 0)
    assert rows_of(f"{root}/2026-11-02", served.options).num_rows == 60
    latest = series.latest()
    assert latest and (latest.dataset, latest.previous) == ("2026-11-02", "2026-11-01")

    assert embed(values, tmp_path, "rollback") == ExitCode.DONE
    latest = series.latest()
    assert latest and (latest.dataset, latest.pinned) == ("2026-11-01", True)
    assert embed(values, tmp_path, "rollback", "--unpin") == ExitCode.DONE
    assert embed(values, tmp_path, "nightly", "--run-date", "2026-11-03") == ExitCode.DONE
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    assert [fate.name for fate in series.prune(keep=2, now=now) if fate.removed] == ["2026-11-01"]
    assert not served.store().list_recursive(f"{root}/2026-11-01")


THREE = [
    ("s3", "gs", "abfs"),
    pytest.param(("gs", "abfs", "s3"), marks=pytest.mark.full),
    pytest.param(("abfs", "s3", "gs"), marks=pytest.mark.full),
]
"""Where the source, the model and the output are."""


@pytest.mark.parametrize("kinds", THREE)
def test_a_job_may_lie_on_three_stores(
    kinds: tuple[str, str, str],
    make_place: Places,
    job: Job,
    corpus: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert embed(job(), tmp_path) == ExitCode.DONE
    monkeypatch.setenv(model_cache.FOLDER, str(tmp_path / "cache"))
    source, model, output = map(make_place, kinds)
    storage._connect.cache_clear()
    for path in tiny.iterdir():
        model.store().put(f"{model.root}/tiny/{path.name}", path.read_bytes())
    values = job(
        source={"docs": job()["source"]["docs"] | put_corpus(corpus, source)},
        model={"name": f"{model.root}/tiny", **model.section()},
        output={"path": f"{output.root}/out", "rows_per_shard": 10, **output.section()},
    )
    assert embed(values, tmp_path) == ExitCode.DONE
    rows = rows_of(f"{output.root}/out", output.options)
    assert rows.equals(read_dataset(tmp_path / "out"))
