"""The storage seam and the main job on a real S3 server."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import DeniedError, ExistsError, MissingError, ReplacedError
from pipeline.places import Options
from tests.conftest import write_config
from tests.s3.conftest import KEY, SECRET

Job = Callable[..., dict[str, Any]]


@pytest.fixture
def bucket(credentials: str) -> str:
    storage._connect.cache_clear()
    name = f"s3://b{uuid.uuid4().hex[:8]}"
    storage.connect(name).filesystem.mkdir(name)
    return name


def test_conditional_writes(bucket: str) -> None:
    store, path = storage.connect(bucket), f"{bucket}/a/b"
    store.put_if_absent(path, b"first")
    with pytest.raises(ExistsError):
        store.put_if_absent(path, b"second")
    version = store.version(path)
    store.replace(path, b"third", version)
    for expected in (version, None):
        with pytest.raises(ReplacedError):
            store.replace(path, b"fourth", expected)
    assert store.read(path) == b"third"
    assert set(store.folder(f"{bucket}/a")) == {"b"}
    with pytest.raises(MissingError):
        store.read(f"{bucket}/nothing")


def test_of_many_writers_one_wins(bucket: str) -> None:
    store = storage.connect(bucket)

    def race(number: int) -> bool:
        try:
            store.put_if_absent(f"{bucket}/prize", b"%d" % number * 1000)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(race, range(20)))
    assert sum(won) == 1
    assert store.read(f"{bucket}/prize") == b"%d" % won.index(True) * 1000


def test_a_wrong_secret_is_denied(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage._connect.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(DeniedError):
            storage.connect(bucket).read(f"{bucket}/a")
    finally:
        storage._connect.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()


def test_options_instead_of_the_environment(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.connect(bucket).put(f"{bucket}/a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    options = Options(endpoint_url=s3_server, profile="mine", region="us-east-1")
    assert storage.connect(bucket, options).read(f"{bucket}/a") == b"1"
    with pytest.raises(DeniedError):
        storage.connect(bucket, Options(endpoint_url=s3_server, anonymous=True)).read(f"{bucket}/a")


def test_the_job_from_s3_to_s3(bucket: str, job: Job, corpus: Path, tmp_path: Path) -> None:
    store = storage.connect(bucket)
    for path in corpus.glob("*.parquet"):
        store.put(f"{bucket}/corpus/{path.name}", path.read_bytes())
    source = job()["source"]["docs"] | {"path": f"{bucket}/corpus/*.parquet"}
    values = job(source={"docs": source}, output={"path": f"{bucket}/out", "rows_per_shard": 10})
    config = write_config(tmp_path / "s3.yaml", values)
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    shards = [pq.read_table(pa.BufferReader(store.read(info.path)))
              for name, info in store.folder(f"{bucket}/out/data").items() if name != "_SUCCESS"]  # fmt: skip
    keys = [key for shard in shards for key in shard.column("key").to_pylist()]
    assert sorted(keys) == list(range(60))
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert again.returncode == 0, again.stderr
