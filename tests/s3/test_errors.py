"""Tests of the errors of an object store, as docs/errors.md shows them."""

from pathlib import Path

import pytest

from pipeline import storage
from tests.catalogue import entries, provoke
from tests.conftest import write_config

CASES = {
    "A bucket that does not exist": ("s3://no-such-bucket/corpus/*.parquet", {}),
    "Credentials that storage refuses": (
        "{bucket}/corpus/*.parquet",
        {"AWS_SECRET_ACCESS_KEY": "wrong-secret"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_page_shows_is_what_is_printed(
    name: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, environment = CASES[name]
    source = {"docs": {"path": path.format(bucket=bucket), "text_column": "text"}}
    write_config(tmp_path / "job.yaml", {"source": source, "output": {"path": f"{tmp_path}/out"}})

    def told_otherwise() -> None:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        storage._connect.cache_clear()

    provoke(entries()[name], ["plan", f"{tmp_path}/job.yaml"], capsys, told_otherwise)
