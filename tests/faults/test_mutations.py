"""Tests a job of a thousand damaged files: each is embedded or named as failed, and nothing good is lost."""

import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ExitCode
from tests.conftest import read_dataset, texts, write_config

Job = Callable[..., dict[str, Any]]
FORMATS = ("parquet", "txt", "jsonl", "csv", "jsonl.gz")


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def whole(kind: str, seed: int) -> bytes:
    """Returns a good file of 20 rows."""
    rows = [{"text": text, "key": f"{seed}-{n}"} for n, text in enumerate(texts(20, seed * 20))]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return {
        "parquet": parquet_bytes(
            pa.Table.from_pylist(rows), row_group_size=7, write_page_checksum=True,
            compression=("zstd", "none")[seed % 2],
        ),
        "txt": "".join(f"{row['text']}\n" for row in rows).encode(),
        "jsonl": lines,
        "csv": "".join(["text,key\n", *(f'"{row["text"]}",{row["key"]}\n' for row in rows)]).encode(),
        "jsonl.gz": gzip.compress(lines, mtime=0),
    }[kind]  # fmt: skip


def odd(kind: str) -> Iterator[bytes]:
    """Yields bad files that are not mutations of a good one."""
    yield b""
    yield b"PAR1"
    yield bytes(1000)
    yield random.Random(0).randbytes(5000)
    if kind == "parquet":
        for table in (
            pa.table({"text": pa.array([], pa.string()), "key": pa.array([], pa.string())}),
            pa.table({}),
            pa.table({"text": [1, 2], "key": ["a", "b"]}),
            pa.table({"text": [["a list"]], "key": ["a"]}),
            pa.table({"text": pa.nulls(3), "key": pa.nulls(3)}),
            pa.table({"text": ["x"], "key": [7.5]}),
        ):
            yield parquet_bytes(table)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Flips a few bytes, cuts out, doubles or zeroes a range, or removes the end."""
    at, length = chance.randrange(len(data)), chance.randrange(1, 64)
    kind = chance.choice(["flip", "flip", "flip", "cut", "double", "zero", "end", "magic"])
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    return {
        "cut": data[:at] + data[at + length :],
        "double": data[: at + length] + data[at:],
        "zero": data[:at] + bytes(len(data[at : at + length])) + data[at + length :],
        "end": data[:at],
        "magic": b"XXXX" + data[4:-4] + b"XXXX",
    }[kind]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_thousand_damaged_files(job: Job, tmp_path: Path) -> None:
    good: dict[str, bytes] = {}
    count = 0
    for kind in FORMATS:
        chance = random.Random(kind)
        folder = tmp_path / kind.replace(".", "-")
        folder.mkdir()
        for number in range(10):
            good[f"good{number}.{kind}"] = whole(kind, number)
            (folder / f"good{number}.{kind}").write_bytes(good[f"good{number}.{kind}"])
        bad = [*odd(kind)]
        bad += [mutated(whole(kind, n), chance) for n in range(200 - len(bad))]
        for number, data in enumerate(bad):
            (folder / f"bad{number:03d}.{kind}").write_bytes(data)
            count += 1
    assert count == 1000
    sources: dict[str, Any] = {
        kind.replace(".", "-"): {"path": f"{tmp_path}/{kind.replace('.', '-')}/*"}
        | ({"format": "text"} if kind == "txt" else {"id_column": "key", "format": kind.removesuffix(".gz")})
        for kind in FORMATS
    }
    values = job(source=sources, output={"rows_per_shard": 200}, quality={"max_reject_fraction": 1.0})
    config = write_config(tmp_path / "job.yaml", values)
    command = [sys.executable, "-m", "pipeline", "run", str(config), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == ExitCode.INCOMPLETE, done.stderr[-3000:]

    failed = set(last_attempt(tmp_path / "out")["summary"]["failed_files"])
    found = read_dataset(tmp_path / "out")
    rows = found.group_by("source_file").aggregate([("source_row", "count")]).to_pydict()
    embedded = dict(zip(rows["source_file"], rows["source_row_count"], strict=True))
    rejects = set(pq.read_table(tmp_path / "out/rejects").column("source_file").to_pylist())
    for name in good:
        kind = name.split(".", 1)[1].replace(".", "-")
        assert embedded[f"{kind}/{name}"] == 20
        assert f"{kind}/{name}" not in failed
    assert not failed & set(embedded)
    for kind in FORMATS:
        source = kind.replace(".", "-")
        for path in (tmp_path / source).iterdir():
            name = f"{source}/{path.name}"
            named = name in failed or name in embedded or name in rejects
            assert named or no_rows(path), f"{name} is unaccounted for"
    assert 200 < len(failed) < 1000


def no_rows(path: Path) -> bool:
    """Tells whether a file that no record names has no rows."""
    if path.suffix == ".parquet":
        return bool(pq.read_metadata(path).num_rows == 0)
    return path.stat().st_size == 0


def last_attempt(output: Path) -> dict[str, Any]:
    attempt: dict[str, Any] = json.loads(max((output / "ledger").glob("*.json")).read_text())
    return attempt
