"""Checks the raw bytes of all output for hostile names and values in what others wrote."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, sanitize, telemetry
from pipeline.errors import ConfigError, ExitCode
from pipeline.telemetry import console
from tests import records
from tests.conftest import write_config
from tests.nightly.test_series import make, nights

HOSTILE = "a\x1b]0;t\x07\x1b[2J\nexit 0: complete\r\u202eb\u2028c\x9b31m\x7fd"
"""A title, a cleared screen, a last line of success, a change of direction; and the form of a file name."""
SECRET = "https://user:s3cr/t@host/x?X-Amz-Signature=s3cr"
Job = Callable[..., dict[str, Any]]


def assert_tame(raw: bytes) -> None:
    """Checks that all characters are printable or our own line ends, and that all lines are ours."""
    text = raw.decode()
    assert [each for each in text if each != "\n" and not each.isprintable()] == []
    assert [line for line in text.split("\n") if line.startswith("exit 0")] == []


def failing(folder: Path, values: dict[str, Any]) -> list[str]:
    """Adds a source file with a hostile name that can't be read."""
    (folder / "corpus" / f"{HOSTILE}.parquet").write_bytes(b"nonsense")
    return ["plan"]


def ended(folder: Path, values: dict[str, Any]) -> list[str]:
    """Makes a summary with failed files, and all else that a run prints of one."""
    dataset, made = records.planned(values)
    records.complete(dataset, *(records.record(split) for split in made.split_ids.to_pylist()))
    numbers = dict.fromkeys(("files", "splits", "shards", "rows", "rejects", "tokens", "truncated"), 0)
    reused = dict.fromkeys(("copied", "reused", "embedded", "gone", "encode_seconds_saved"), HOSTILE)
    failed = {"failed_files": {f"{number}{HOSTILE}": HOSTILE + SECRET for number in range(50)}}
    summary = numbers | reused | failed | {"base": HOSTILE, "reason": HOSTILE}
    (folder / "out/summary.json").write_text(json.dumps(summary))
    return ["run"]


def anothers(folder: Path, values: dict[str, Any]) -> list[str]:
    """Makes a dataset of another config, with fields of hostile names."""
    dataset, _ = records.planned(values)
    path = Path(dataset.layout.identity)
    content = json.loads(path.read_text())
    content["dataset_fields"] |= {f"{number}{HOSTILE}": HOSTILE for number in range(50)}
    path.write_text(json.dumps(content))
    return ["plan"]


def of_another_version(folder: Path, values: dict[str, Any]) -> list[str]:
    dataset, _ = records.planned(values)
    Path(dataset.layout.identity).write_text(json.dumps({"format_version": HOSTILE}))
    return ["status"]


def attempted(folder: Path, values: dict[str, Any]) -> list[str]:
    """Writes the files of an attempt with hostile values."""
    dataset, _ = records.planned(values)
    told = {"host": HOSTILE, "pid": HOSTILE, "ended": "2026-11-25T12:00:01+00:00", "code": 4}
    records.attempted(dataset, **told, reason=HOSTILE + SECRET, summary={"failed_files": {HOSTILE: HOSTILE}})
    return ["status"]


def foreign(folder: Path, values: dict[str, Any]) -> list[str]:
    records.planned(values)
    (folder / "out/data").mkdir()
    (folder / "out/data" / HOSTILE).touch()
    return ["plan"]


def pinned(folder: Path, values: dict[str, Any]) -> list[str]:
    """Writes a LATEST.json of somebody else."""
    nights(str(folder / "series"), ["2026-11-21", "2026-11-22"])
    path = folder / "series/LATEST.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pinned": True, "previous": HOSTILE}))
    return ["rollback", "--unpin"]


def unreadable_latest(folder: Path, values: dict[str, Any]) -> list[str]:
    nights(str(folder / "series"), ["2026-11-21"])
    (folder / "series/LATEST.json").write_text(json.dumps({"format_version": HOSTILE}))
    return ["rollback"]


def others_files(folder: Path, values: dict[str, Any]) -> list[str]:
    """Makes a dataset that is to be removed with files of others in it, and a dataset with a hostile name."""
    nights(str(folder / "series"), ["2026-11-21", "2026-11-22"])
    make(str(folder / "series"), HOSTILE)
    (folder / "series/2026-11-21" / HOSTILE).touch()
    for path in (folder / "series").rglob("*"):
        os.utime(path, (0, 0))
    return ["prune", "--keep", "1"]


def config_of(values: dict[str, Any]) -> Callable[[Path, dict[str, Any]], list[str]]:
    def prepare(folder: Path, _: dict[str, Any]) -> list[str]:
        write_config(folder / "job.yaml", values)
        return ["plan"]

    return prepare


def no_yaml(folder: Path, _: dict[str, Any]) -> list[str]:
    (folder / "job.yaml").write_text(f"a: '{HOSTILE}")
    return ["plan"]


def arguments(*given: str) -> Callable[[Path, dict[str, Any]], list[str]]:
    return lambda _, __: list(given)


IN = {"docs": {"path": "x.parquet"}}
PLACES: dict[str, tuple[Callable[[Path, dict[str, Any]], list[str]], ExitCode]] = {
    "a source file": (failing, ExitCode.DONE),
    "a summary": (ended, ExitCode.DONE),
    "a summary, as JSON": (lambda *given: [*ended(*given), "--json"], ExitCode.DONE),
    "fields of dataset.json": (anothers, ExitCode.OTHER_DATASET),
    "the version of dataset.json": (of_another_version, ExitCode.OTHER_DATASET),
    "an attempt": (attempted, ExitCode.DONE),
    "an attempt, as JSON": (lambda *given: [*attempted(*given), "--json"], ExitCode.DONE),
    "a file among shards": (foreign, ExitCode.OTHER_DATASET),
    "LATEST.json": (pinned, ExitCode.CONFIG),
    "LATEST.json of another version": (unreadable_latest, ExitCode.CONFIG),
    "files beside shards": (others_files, ExitCode.DONE),
    "a key": (config_of({"source": IN, "output": {"path": "out"}, HOSTILE: 1}), ExitCode.CONFIG),
    "a value": (config_of({"source": IN, "output": {"path": "out", "run_date": HOSTILE}}), ExitCode.CONFIG),
    "a source's name": (config_of({"source": {HOSTILE: {}}, "output": {"path": "out"}}), ExitCode.CONFIG),
    "a URL": (config_of({"source": {"docs": {"path": SECRET}}, "output": {"path": "x"}}), ExitCode.CONFIG),
    "a protocol": (config_of({"source": IN, "output": {"path": f"{HOSTILE}://x"}}), ExitCode.CONFIG),
    "a path": (config_of({"source": {"docs": {"path": f"/{HOSTILE}.txt"}}, "output": {"path": "out"}}),
               ExitCode.CONFIG),
    "a model": (config_of({"source": IN, "output": {"path": "out"}, "model": {"name": HOSTILE}}),
                ExitCode.CONFIG),
    "no YAML": (no_yaml, ExitCode.CONFIG),
    "an override": (arguments("plan", "--set", HOSTILE), ExitCode.CONFIG),
    "a value of an override": (arguments("plan", "--set", f"model.pooling={HOSTILE}"), ExitCode.CONFIG),
    "the traceback of an error": (arguments("plan", "--debug", "--set", f"model.name={HOSTILE}"),
                                  ExitCode.CONFIG),
    "a dataset's path": (lambda folder, _: ["verify", str(folder / HOSTILE)], ExitCode.CONFIG),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_others_wrote_arrives_as_it_is(
    place: str,
    job: Job,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare, code = PLACES[place]
    values = job()
    write_config(tmp_path / "job.yaml", values)
    command, *more = prepare(tmp_path, values)
    if command in ("rollback", "prune"):
        more = ["--set", f"output.path={tmp_path}/series/{{run_date}}", *more]
    given = [command, *more] if command == "verify" else [command, "job.yaml", *more]
    capfdbinary.readouterr()
    ended_in = cli.main(given)
    said = capfdbinary.readouterr()
    assert ended_in == code, said
    assert_tame(said.out)
    assert_tame(said.err)
    # JSON shows the dataset's contents as they are, and no secret gets there.
    assert b"s3cr" not in said.out + said.err or "JSON" in place
    assert len((said.out + said.err).split(b"\n")) < 60 or "JSON" in place
    if code:
        assert said.err.split(b"\n")[-2].startswith(f"exit {int(code)}: ".encode())


def test_arguments_that_mean_nothing_arrive_tame(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plan", "job.yaml", HOSTILE])
    assert_tame(capfdbinary.readouterr().err)


def test_an_event_is_one_line_whatever_it_tells(caplog: pytest.LogCaptureFixture) -> None:
    """Checks our own events, also as workers write them, where our handler does not filter them."""
    caplog.set_level("INFO", "pipeline")
    telemetry.event("split failed", reason=HOSTILE + SECRET, file=Path(HOSTILE))
    telemetry.warn("out of memory", tokens=HOSTILE)
    for message in caplog.messages:
        assert_tame(message.encode())
        assert "\n" not in message
        assert "s3cr" not in message


def test_a_record_of_another_logger_is_one_line_and_its_traceback_set_in(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    handler = console.Handler(muted="ray")
    try:
        raise ValueError(HOSTILE + SECRET)
    except ValueError:
        record = logging.getLogger("other").makeRecord(
            "other", logging.ERROR, "", 0, "it said %s", (HOSTILE,), sys.exc_info()
        )
    handler.handle(record)
    said = capfdbinary.readouterr().err
    assert_tame(said)
    assert b"s3cr" not in said
    first, *more = said.decode().rstrip("\n").split("\n")
    assert "it said a" in first
    assert more and all(line.startswith("  ") for line in more)


def test_no_part_of_an_error_begins_a_line() -> None:
    error = ConfigError(HOSTILE, HOSTILE, HOSTILE, HOSTILE, more=[HOSTILE])
    assert_tame(str(error).encode())
    assert len(str(error).splitlines()) == 2
    assert "s3cr" not in str(ConfigError(SECRET, SECRET, SECRET, SECRET, more=[SECRET]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://AKIA:abc/def+gh@bucket/x is wrong", "s3://***@bucket/x is wrong"),
        ("at https://user:pa/ss@minio:9000, and", "at https://***@minio:9000, and"),
        ("s3://bucket/a@b.parquet", "s3://bucket/a@b.parquet"),
        ("http://host:9000/a@b.parquet", "http://host:9000/a@b.parquet"),
        ("hf://datasets/a/b@main/x.txt", "hf://datasets/a/b@main/x.txt"),
        ("for url 'https://host/x?list-type=2&sig=abc' it", "for url 'https://host/x?***' it"),
        (
            "GET /x?X-Amz-Credential=AK/1&X-Amz-Signature=ab",
            "GET /x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("Authorization: Bearer hf_abc", "Authorization: Bearer ***"),
        ("docs/secret=1/x.parquet, tokens=3", "docs/secret=1/x.parquet, tokens=3"),
    ],
)
def test_secrets_are_masked_by_where_they_stand(text: str, told: str) -> None:
    assert sanitize.redact(text) == told
