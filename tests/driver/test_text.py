"""Tests a job over one large text file: every line comes out once, with the hash of its own bytes."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import ExitCode

Job = Callable[..., dict[str, Any]]


def write_lines(path: Path, size: int) -> None:
    """Writes distinct lines of many lengths: some end with CR LF, some are blank, some are long."""
    lengths = np.random.default_rng(0).integers(0, 60, 10_000).tolist()
    number = 0
    with path.open("wb") as file:
        while file.tell() < size:
            for length in lengths:
                end = b"\r\n" if number % 7 == 0 else b"\n"
                file.write(
                    b"   " + end if number % 1000 == 1 else b"%d %s%s" % (number, b"word " * length, end)
                )
                number += 1


@pytest.mark.usefixtures("flow")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", [5_000_000, pytest.param(1_000_000_000, marks=pytest.mark.slow)])
def test_no_line_is_lost_doubled_or_cut(job: Job, tmp_path: Path, size: int) -> None:
    path = tmp_path / "lines.txt"
    write_lines(path, size)
    values = job(
        source={"lines": {"path": str(path)}},
        model={"max_tokens": 8},
        output={"rows_per_shard": 65_536, "max_split_bytes": size // 50},
    )
    ending = run.run(parse_config(values), quiet=True)
    assert ending.code == ExitCode.DONE
    assert ending.summary["splits"] >= 50

    files = [*(tmp_path / "out/data").glob("*.parquet")]
    shards = [pq.read_table(shard, columns=["source_row", "text_hash"]) for shard in files]
    rejected = (
        pq.read_table(tmp_path / "out/rejects", columns=["source_row"]).column("source_row").to_pylist()
    )
    found = {row: digest for shard in shards for row, digest in zip(*shard.to_pydict().values(), strict=True)}
    assert sum(shard.num_rows for shard in shards) == len(found)
    assert len(set(rejected)) == len(rejected) == ending.summary["rejects"]
    place = 0
    with path.open("rb") as file:
        for line in file:
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            if text.strip():
                assert found.pop(place) == blake2b(text, digest_size=16).digest()
            else:
                rejected.remove(place)
            place += len(line)
    assert not found
    assert not rejected
