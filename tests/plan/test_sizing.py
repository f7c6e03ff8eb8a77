"""Tests the sizes of splits that keep something of each token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.model import checkpoint
from pipeline.plan import sizing
from pipeline.plan.sizing import BYTES_PER_TOKEN, TOKENS_BYTES, split_bytes
from tests.conftest import make_checkpoint

Job = Callable[..., dict[str, Any]]


def test_vectors_of_tokens_bound_a_split(job: Job, tmp_path: Path) -> None:
    """A split of 64 MiB of text would have vectors of 50 GB at 768 numbers a token."""
    sizes = {"hidden_size": 768, "num_attention_heads": 2}
    folder = make_checkpoint(tmp_path / "model", **sizes)
    found = checkpoint.resolve(str(folder))
    bounds = {}
    for outputs in (["embedding"], ["embedding", "tokens"]):
        model = {"name": str(folder), "outputs": outputs}
        parsed = parse_config(job(model=model, compute={"device": "cuda"}))
        bounds[len(outputs)] = split_bytes(parsed, found)
    assert bounds[1] == sizing.GPU_SPLIT_BYTES
    assert bounds[2] // BYTES_PER_TOKEN * 4 * 768 <= TOKENS_BYTES < bounds[1] * 768


def test_a_plan_counts_the_bytes_of_tokens(
    job: Job, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Counts vectors of tokens in the shards, and between two stages."""
    import json

    from tests.conftest import write_config

    told = {}
    for outputs in (["embedding"], ["embedding", "tokens"]):
        config = write_config(tmp_path / "job.json", job(model={"name": str(tiny), "outputs": outputs}))
        capsys.readouterr()
        assert cli.main(["plan", str(config), "--json"]) == 0
        told[len(outputs)] = json.loads(capsys.readouterr().out)
    tokens = told[2]["embed"]["tokens"]
    more = told[2]["shard_bytes"] - told[1]["shard_bytes"]
    assert more == pytest.approx(tokens * (8 + 4 * 16) + told[2]["embed"]["rows"], abs=2)
    assert told[2]["payload_bytes"] > told[1]["payload_bytes"]
