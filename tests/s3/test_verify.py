"""Tests an audit on a real S3 server: the right to read suffices, and a refusal does not count as damage."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from tests.conftest import write_config
from tests.driver.test_run import embed
from tests.s3.server import KEY, READER, READER_SECRET

Job = Callable[..., dict[str, Any]]


def audit(url: str, config: Path, key: str, secret: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", url, "--config", str(config), "--deep", "0.5"],
        capture_output=True, text=True, check=False,
        env=os.environ | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret},
    )  # fmt: skip


@pytest.mark.usefixtures("ray_cluster")
def test_a_dataset_that_was_copied_to_s3(bucket: str, job: Job, tmp_path: Path) -> None:
    embed(job())
    config = write_config(tmp_path / "job.yaml", job())
    store = storage.connect(bucket)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            store.put(f"{bucket}/{path.relative_to(tmp_path)}", path.read_bytes())

    sound = audit(f"{bucket}/out/", config, READER, READER_SECRET)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "            deep  ok" in sound.stdout

    refused = audit(f"{bucket}/out", config, KEY, "wrong")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"exit 2: {bucket}/out/dataset.json: access denied")

    [name, *_] = sorted(name for name in store.folder(f"{bucket}/out/data") if name != "_SUCCESS")
    store.put(f"{bucket}/out/data/{name}", b"garbage")
    damaged = audit(f"{bucket}/out", config, READER, READER_SECRET)
    assert damaged.returncode == 3
    assert f"\n  checksums: data/{name}: can't be read: " in damaged.stdout
