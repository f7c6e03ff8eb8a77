"""Provides what several tests share: a tiny checkpoint, a corpus, configs, and one Ray for all tests."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The credentials of the tests' S3 server. Ray's workers have the environment in which Ray was started.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "test-key")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test-secret")

PACKAGED = Path(__file__).parent.parent / "pipeline" / "model" / "albert-mini"


def make_checkpoint(folder: Path, seed: int = 0, **geometry: Any) -> Path:
    """Makes a seeded ALBERT with the packaged tokenizer, small unless `geometry` says otherwise."""
    import torch
    from safetensors.torch import save_file
    from transformers import AlbertConfig, AlbertModel

    packaged = json.loads((PACKAGED / "config.json").read_text())
    sizes = {
        "vocab_size": packaged["vocab_size"], "embedding_size": 8, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu_new",
    }  # fmt: skip
    config = AlbertConfig(**(sizes | geometry))
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    model = AlbertModel(config, add_pooling_layer=False)
    for name, tensor in model.named_parameters():
        # As large as in trained models: with transformers' 0.02 a small model hardly attends, and tests would
        # not see its attention.
        scale = 0.1 if tensor.ndim == 1 or "embeddings" in name else tensor.shape[1] ** -0.5
        torch.nn.init.normal_(tensor, float("LayerNorm.weight" in name), scale)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PACKAGED / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint so small that a job spends its time in the pipeline."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray of all tests, started as a job starts its own; jobs in this process use it."""
    from ray._private import worker

    from pipeline.embed.on_ray.cluster import private

    # The raylet's warnings come at any time, and would mix with the output of a test's command. A job writes
    # them to a file (`embed.on_ray.ray_log`); this Ray is there before any job.
    worker.print_to_stdstream = lambda *_, **__: None
    with private(num_cpus=2):
        yield


@pytest.fixture(params=["here", pytest.param("on Ray", marks=pytest.mark.slow)])
def flow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place where a job's stages run: in this process, and in the slow tier on Ray, too."""
    if request.param == "here":
        from tests.flow import use_no_ray

        use_no_ray(monkeypatch)
    else:
        request.getfixturevalue("ray_cluster")


only_on_ray = pytest.mark.parametrize("flow", ["on Ray"], indirect=True)
"""Marks a test with a `flow` that always runs on Ray, and never here."""


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """Restores what a command of the test, such as one with `--quiet`, set for all that follow."""
    log = logging.getLogger("pipeline")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def surveyed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes planning inspect Parquet in this process: another takes a second to start in each of many tests.

    The tests of `source`, and all processes that tests start, inspect it as in production.
    """
    from pipeline.source import survey

    monkeypatch.setattr(survey, "_processes_for", lambda *_: 0)


@contextmanager
def observed(observer: Callable[[str, str], None]) -> Iterator[None]:
    """Calls an observer at each request to storage, within the context."""
    from pipeline import telemetry

    telemetry.observers.append(observer)
    try:
        yield
    finally:
        telemetry.observers.remove(observer)


def texts(count: int, start: int = 0) -> list[str]:
    """Returns distinct texts of several lengths."""
    return [
        f"document number {i} is about {'memory and time ' * (i % 7)}" for i in range(start, start + count)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """60 documents in 3 Parquet files of one row group each: `key` int64, `text`, `topic`."""
    for number in range(3):
        rows = range(number * 20, number * 20 + 20)
        table = pa.table(
            {"key": list(rows), "text": texts(20, number * 20), "topic": [f"t{row % 3}" for row in rows]}
        )
        path = tmp_path / "corpus" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
    return tmp_path / "corpus"


@pytest.fixture
def job(tmp_path: Path, corpus: Path, tiny: Path) -> Callable[..., dict[str, Any]]:
    """Makes the values of a config over `corpus`; sections given by name are merged in."""

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {
            "source": {
                "docs": {
                    "path": f"{corpus}/*.parquet",
                    "text_column": "text",
                    "id_column": "key",
                    "carry": ["topic"],
                }
            },
            "model": {"name": str(tiny)},
            "output": {"path": str(tmp_path / "out"), "rows_per_shard": 10},
        }
        for name, section in sections.items():
            values[name] = section if name == "source" else values.get(name, {}) | section
        return values

    return make


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Writes a config file; JSON is YAML."""
    path.write_text(json.dumps(values))
    return path


def read_dataset(root: Path | str) -> pa.Table:
    """Reads all shards, in the order of the source."""
    table = pq.read_table(f"{root}/data")
    return table.sort_by([("source_file", "ascending"), ("source_row", "ascending")])
