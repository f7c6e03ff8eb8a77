"""Tests a run's private Ray: who may join it, where it listens, and where its token appears."""

import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.catalogue import assert_printed, entries
from tests.clusters import without_ray
from tests.conftest import write_config

OWN = """
import json, os, sys
from pathlib import Path
import ray
from pipeline.embed.on_ray import cluster

@ray.remote
def told():
    return os.environ.get("RAY_AUTH_TOKEN")

def settings():
    ours = ("RAY_AUTH", "RAY_ENABLE", "RAY_idle", "RAY_event")
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}

before, tokens = settings(), []
assert before == {"RAY_AUTH_MODE": "disabled"}
for number in range(2):
    with cluster():
        tokens.append(ray.get(told.remote()))
        if number == 0:
            at = Path(sys.argv[1])
            at.with_suffix(".new").write_text(ray.get_runtime_context().gcs_address)
            at.with_suffix(".new").rename(at)
            sys.stdin.readline()
    assert settings() == before
Path(sys.argv[1]).write_text(json.dumps(tokens))
"""
STRANGER = """
import sys
from pathlib import Path
import ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote
def task(witness):
    Path(witness).touch()
ray.get(task.remote(sys.argv[2]), timeout=30)
"""

REACHES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
"""Without the first setting, Ray's client would try another address of this machine instead of 127.0.0.1."""


NO_RAY = {
    "Ray does not start": {"RAY_TMPDIR": "/proc/nowhere"},
    "No Ray cluster answers": {"RAY_ADDRESS": "127.0.0.1:1"},
}
"""The environments in which a run gets no Ray, by the headings of docs/errors.md."""


@dataclass
class Own:
    """A process with a private Ray, and its address."""

    process: subprocess.Popen[str]
    told: Path
    address: str

    def all(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid)
        return [found, *found.children(recursive=True)]

    def token(self) -> str:
        """Returns the token as its children have it."""
        return next(each.environ() for each in self.all() if each.name() == "raylet").get(
            "RAY_AUTH_TOKEN", ""
        )


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """Starts it in an environment that turns authentication off."""
    told = tmp_path_factory.mktemp("own") / "address"
    process = subprocess.Popen(
        [sys.executable, "-c", OWN, str(told)],
        stdin=subprocess.PIPE,
        text=True,
        env=without_ray() | {"RAY_AUTH_MODE": "disabled"},
    )
    try:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield Own(process, told, told.read_text())
    finally:
        process.kill()
        process.wait()


def join(own: Own, folder: Path, **environment: str) -> tuple[int, bool]:
    """Joins from another process that has the address; returns its exit code, and whether its task ran."""
    home, witness = folder / "home", folder / "witness"
    home.mkdir()
    given = {"PATH": os.environ["PATH"], "HOME": str(home)} | REACHES | environment
    ended = subprocess.run(
        [sys.executable, "-c", STRANGER, own.address, str(witness)],
        env=given,
        capture_output=True,
        check=False,
    )
    return ended.returncode, witness.exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "settings",
    [
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        pytest.param({"RAY_AUTH_MODE": "disabled"}, marks=pytest.mark.full),
    ],
)
def test_who_has_no_token_is_refused_and_runs_nothing(
    own: Own, settings: dict[str, str], tmp_path: Path
) -> None:
    code, ran = join(own, tmp_path, **settings)
    assert (code != 0, ran) == (True, False)


@pytest.mark.timeout(300)
def test_who_has_the_token_is_let_in(own: Own, tmp_path: Path) -> None:
    """So the missing token is the reason why the others are refused."""
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": own.token()}
    assert join(own, tmp_path, **settings) == (0, True)


@pytest.mark.timeout(300)
def test_it_listens_to_this_machine_alone(own: Own) -> None:
    listening = {
        f"{each.name()} {end.laddr.ip}": ipaddress.ip_address(end.laddr.ip)
        for each in own.all()
        for end in each.net_connections("inet")
        if end.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 3
    outside = [
        name for name, ip in listening.items() if not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
    ]
    assert outside == []


@pytest.mark.timeout(300)
@pytest.mark.full
def test_a_token_lives_as_long_as_its_ray_and_leaves_no_setting(own: Own) -> None:
    """The script itself compares its environment before and after."""
    assert own.process.stdin
    own.process.stdin.write("\n")
    own.process.stdin.flush()
    assert own.process.wait() == 0
    first, second = json.loads(own.told.read_text())
    assert len(first) == len(second) == 64
    assert first != second


@pytest.mark.timeout(300)
@pytest.mark.full
def test_no_log_record_or_argument_has_the_token(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    config = write_config(tmp_path / "job.yaml", job())
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:  # for sockets, whose paths must be short
        run = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", str(config)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=without_ray() | {"RAY_TMPDIR": scratch, "TMPDIR": scratch},
        )  # fmt: skip
        token = b""
        arguments: set[str] = set()
        while run.poll() is None:
            for child in psutil.Process(run.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    arguments.update(child.cmdline())
                    if child.name() == "raylet":
                        token = child.environ().get("RAY_AUTH_TOKEN", "").encode() or token
            time.sleep(0.1)
        assert run.stdout
        said = run.stdout.read()
        assert run.returncode == 0, said
        written = [
            path for folder in (Path(scratch), tmp_path) for path in folder.rglob("*") if path.is_file()
        ]
        assert len(token) == 64
        assert any("raylet" in each for each in arguments)
        assert any(path.suffix == ".log" for path in written)
        assert any(path.name == "dataset.json" for path in written)
        assert [path for path in written if token in path.read_bytes()] == []
        assert token not in said
        assert [each for each in arguments if token.decode() in each] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if "answers" in name else ()) for name in NO_RAY]
)
def test_a_run_that_gets_no_ray_says_why(
    job: Callable[..., dict[str, Any]], tmp_path: Path, name: str
) -> None:
    config = write_config(tmp_path / "job.yaml", job())
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(config), "--quiet"],
        capture_output=True, text=True, check=False, env=without_ray() | REACHES | NO_RAY[name],
    )  # fmt: skip
    entry = entries()[name]
    assert ended.returncode == entry.code, ended.stderr
    assert_printed(entry, ended.stderr)
