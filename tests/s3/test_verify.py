"""Tests an audit on a real S3 server: the right to read suffices, and a refusal does not count as damage."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, storage
from pipeline.errors import ExitCode
from tests.conftest import write_config
from tests.reports import ended
from tests.s3.server import KEY, READER, READER_SECRET

Job = Callable[..., dict[str, Any]]
Audit = Callable[[str, str, str], subprocess.CompletedProcess[str]]


@pytest.fixture
def audit(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Audit]:
    """`verify` with the config of `job`, as whoever has these credentials."""
    config = write_config(tmp_path / "job.yaml", job())

    def run(url: str, key: str, secret: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            storage._connect.cache_clear()
            code = cli.main(["verify", url, "--config", str(config), "--deep", "0.5"])
        return subprocess.CompletedProcess(["verify"], code, *capsys.readouterr())

    yield run
    storage._connect.cache_clear()


def test_a_dataset_that_was_copied_to_s3(bucket: str, job: Job, tmp_path: Path, audit: Audit) -> None:
    assert ended(job()).code == ExitCode.DONE
    store = storage.connect(bucket)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            store.put(f"{bucket}/{path.relative_to(tmp_path)}", path.read_bytes())

    sound = audit(f"{bucket}/out/", READER, READER_SECRET)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "            deep  ok" in sound.stdout

    refused = audit(f"{bucket}/out", KEY, "wrong")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"exit 2: {bucket}/out/dataset.json: access denied")

    storage._connect.cache_clear()
    store = storage.connect(bucket)
    [name, *_] = sorted(name for name in store.list_files(f"{bucket}/out/data") if name != "_SUCCESS")
    store.put(f"{bucket}/out/data/{name}", b"garbage")
    damaged = audit(f"{bucket}/out", READER, READER_SECRET)
    assert damaged.returncode == 3
    assert f"\n  checksums: data/{name}: can't be read: " in damaged.stdout
