"""Tests tables on object storage: the snapshot comes through our own storage, with its options and errors."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.config.load import parse_config
from pipeline.driver import run
from pipeline.errors import DeniedError, ExitCode, MissingError
from pipeline.source.tables import read_snapshot
from tests.flow import use_no_ray
from tests.s3.test_nights import read
from tests.written_tables import Table, rows

KINDS = pytest.mark.parametrize("kind", ["delta", "iceberg"])


@KINDS
def test_a_night_over_a_table(
    kind: str, bucket: str, credentials: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_no_ray(monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)  # the source's options alone name the server
    options = {"endpoint_url": credentials, "region": "us-east-1"}
    table = Table(kind, tmp_path, f"{bucket}/lake", options)
    for start in range(0, 60, 20):
        table.append(rows(*range(start, start + 20)))

    def embed(name: str, base: str | None = None, **more: Any) -> tuple[dict[str, Any], Any]:
        output = {"path": f"{bucket}/{name}", "rows_per_shard": 10, "options": {"endpoint_url": credentials}}
        values = {"source": table.source(**more), "model": {"name": str(tiny)}, "output": output}
        ending = run.run(parse_config(values | {"reuse": {"base": base, "match": "dataset"}}), quiet=True)
        assert ending.code == ExitCode.DONE, ending.reason
        monkeypatch.setenv("AWS_ENDPOINT_URL", credentials)
        found = read(output["path"]).select(["id", "day"]).sort_by("id").to_pylist()
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        assert ending.summary
        return ending.summary, found

    def wanted(version: int | None = None) -> Any:
        return table.scan(version).select(["id", "day"]).sort_by("id").to_pylist()

    _, found = embed("first")
    assert found == wanted()
    before = table.version
    table.delete(3)
    table.append(rows(*range(60, 70)))
    second, found = embed("second", f"{bucket}/first")
    assert found == wanted()
    assert (second["copied"], second["reused"], second["embedded"]) == (40, 19, 10)
    assert second["snapshots"] == {"docs": table.version}
    _, found = embed("third", f"{bucket}/first", version=before)
    assert found == wanted(before)


@KINDS
def test_failures_of_storage_have_their_own_errors(
    kind: str, bucket: str, credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deltalake" if kind == "delta" else "pyiceberg")

    def look(path: str) -> None:
        values = {"source": {"docs": {"path": path, "format": kind}}, "output": {"path": "/tmp/never"}}
        read_snapshot("docs", parse_config(values).source["docs"])

    with pytest.raises(MissingError, match="nothing: is not an? .* table"):
        look(f"{bucket}/nothing")
    with pytest.raises(MissingError, match="no-such-bucket/table: is not an? .* table"):
        look("s3://no-such-bucket/table")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    storage._connect.cache_clear()
    with pytest.raises(DeniedError, match="access denied") as refused:
        look(f"{bucket}/nothing")
    assert "wrong" not in str(refused.value)
