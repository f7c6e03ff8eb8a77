"""Tests of surveys in other processes: they find the same as this one, and no file can end this one."""

import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from pipeline import telemetry
from pipeline.config.load import parse_config
from pipeline.errors import CredentialsError, ExitCode, SourceError, StoppedError, StorageError
from pipeline.plan.make import list_sources
from pipeline.source import inspection, process_pool, survey
from pipeline.storage.error_mapping import map_errors

TWO_NUMBERS, ONE_NUMBER = 0x26, 0x16
"""The headers of a list of 64-bit numbers in the compact protocol of Thrift."""
Job = Callable[..., dict[str, Any]]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the survey use other processes even for a few files."""
    monkeypatch.setattr(survey, "FEW_FILES", 0)
    monkeypatch.setattr(survey, "CHUNK", 2)


def surveyed(values: dict[str, Any]) -> list[inspection.Surveyed]:
    parsed = parse_config(values)
    return survey.survey(list_sources(parsed), parsed.source)


def test_other_processes_say_what_this_one_would(
    job: Job, corpus: Path, beside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (corpus / f"1{number}.parquet").write_bytes((corpus / "1.parquet").read_bytes())
    (corpus / "2.parquet").write_bytes(b"no Parquet")
    telemetry.requests.clear()
    parsed = parse_config(job())
    here, asked = inspection.look(list_sources(parsed), parsed.source), dict(telemetry.requests)
    monkeypatch.setattr(survey, "look", None)  # only other processes are asked
    telemetry.requests.clear()
    there = surveyed(job())
    assert _comparable(there) == _comparable(here)
    assert sum(isinstance(each, SourceError) for each in there) == 1
    assert dict(telemetry.requests) == asked
    assert not [
        each for each in psutil.Process().children() if process_pool.__name__ in " ".join(each.cmdline())
    ]


def test_a_file_that_ends_whoever_looks_at_it_is_a_failed_one(job: Job, corpus: Path) -> None:
    _make_deadly(corpus / "1.parquet")
    deadly = surveyed(job())[1]
    assert isinstance(deadly, SourceError)
    assert str(deadly) == (
        f"crashes the process that inspects it (got signal {signal.SIGABRT.value}); "
        "make it again, or leave it out"
    )
    assert [isinstance(each, SourceError) for each in surveyed(job())] == [False, True, False]


def test_a_failing_storage_is_told_as_here(job: Job, corpus: Path) -> None:
    parsed = parse_config(job())
    listed = list_sources(parsed)
    (corpus / "1.parquet").unlink()
    (corpus / "1.parquet").symlink_to("1.parquet")
    with pytest.raises(StorageError, match="symbolic links"):
        survey.survey(listed, parsed.source)


def test_a_process_that_was_killed_says_nothing_of_a_file(
    job: Job, beside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that runs out of memory kills like this. The plan must not record a good file as damaged."""
    started = subprocess.Popen

    def killed(*arguments: Any, **keywords: Any) -> Any:
        process = started(*arguments, **keywords)
        process.kill()
        return process

    monkeypatch.setattr(process_pool.subprocess, "Popen", killed)
    with pytest.raises(StoppedError, match=r"was ended \(got signal 9\).*run again"):
        surveyed(job())


@pytest.mark.parametrize("dies", ["before the chunk is whole", "before the answer"])
def test_a_process_whose_driver_is_gone_ends_without_a_word(
    job: Job, capfd: pytest.CaptureFixture[str], dies: str
) -> None:
    """Its traceback would follow the line that says what happened to the driver."""
    parsed = parse_config(job())
    chunk = pickle.dumps(list_sources(parsed))
    process = process_pool.Process(parsed.source)
    assert process.process.stdin
    process.answers.close()
    process.process.stdin.write(chunk if dies == "before the answer" else chunk[:-20])
    process.process.stdin.close()
    assert process.process.wait(60) == 0
    assert capfd.readouterr().err == ""


def _comparable(found: list[inspection.Surveyed]) -> list[Any]:
    return [str(each) if isinstance(each, SourceError) else each for each in found]


def _make_deadly(path: Path) -> None:
    """Writes a footer whose size statistics lack a level: reading them aborts in pyarrow 26.

    It cuts the list that counts the values of each definition level from two numbers to one.
    """
    texts = ["a", None, "b"] * 40
    pq.write_table(pa.table({"key": range(120), "text": texts, "topic": ["t"] * 120}), path)
    data = path.read_bytes()
    [size] = struct.unpack("<I", data[-8:-4])
    before, footer = data[: -8 - size], data[-8 - size : -8]
    for at in (at for at, byte in enumerate(footer) if byte == TWO_NUMBERS):
        first = _after_number(footer, at + 1)
        cut = (
            footer[:at]
            + bytes([ONE_NUMBER])
            + footer[at + 1 : first]
            + footer[_after_number(footer, first) :]
        )
        path.write_bytes(before + cut + struct.pack("<I", len(cut)) + b"PAR1")
        look = f"""
import pyarrow.parquet as pq
[pq.read_metadata({str(path)!r}).row_group(0).column(at) for at in range(3)]"""
        if (
            subprocess.run([sys.executable, "-c", look], stderr=subprocess.DEVNULL, check=False).returncode
            < 0
        ):
            return
    raise AssertionError("this pyarrow survives all of them: surveys of Parquet need no other process now")


def _after_number(footer: bytes, at: int) -> int:
    """Returns the end of a variable-length number that begins at a position."""
    while footer[at] & 0x80:
        at += 1
    return at + 1


def test_what_lies_in_the_working_directory_is_not_imported(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("pipeline.py", "queue.py", "pickle.py"):
        (here / name).write_text("raise SystemExit('imported')")
    monkeypatch.chdir(here)
    assert len(surveyed(job())) == 3


@pytest.mark.timeout(60)
def test_what_is_printed_there_is_no_answer(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('good morning')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert len(surveyed(job())) == 3
    out, error = capfd.readouterr()
    assert (out, "good morning" in error) == ("", True)


def test_credentials_past_their_time_are_no_files_fault(
    job: Job, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a plan made while a token expires would record all further files as failed, for good."""

    def refuse(*_: Any) -> None:
        with map_errors("s3://b/c"):
            expired = PermissionError("The provided token has expired.")
            raise expired from ClientError({"Error": {"Code": "ExpiredToken"}}, "GetObject")

    monkeypatch.setattr(inspection.formats, "survey", refuse)
    parsed = parse_config(job())
    with pytest.raises(CredentialsError, match="check the credentials"):
        inspection.look(list_sources(parsed), parsed.source)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PAUSES", (0.0, 0.0))


@pytest.mark.usefixtures("impatient")
def test_a_file_that_is_gone_for_a_moment_is_asked_for_again(
    job: Job, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = parse_config(job())
    listed = list_sources(parsed)
    (corpus / "1.parquet").rename(tmp_path / "away")

    def back(_: float) -> None:
        if (tmp_path / "away").exists():
            (tmp_path / "away").rename(corpus / "1.parquet")

    monkeypatch.setattr(inspection.time, "sleep", back)
    found = inspection.look(listed, parsed.source)
    assert [isinstance(each, SourceError) for each in found] == [False] * 3


@pytest.mark.usefixtures("impatient")
def test_a_file_that_stays_away_ends_the_planning_and_is_not_frozen(job: Job, corpus: Path) -> None:
    parsed = parse_config(job())
    listed = list_sources(parsed)
    (corpus / "1.parquet").unlink()
    with pytest.raises(StorageError, match=r"1\.parquet: is gone since it was listed.*run again") as raised:
        inspection.look(listed, parsed.source)
    assert raised.value.exit_code == ExitCode.RETRYABLE


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("times", [1, 99])
def test_a_refusal_of_one_file_is_not_frozen(job: Job, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The test raises the error of S3: it runs as root, to whom a file system refuses nothing."""
    left, look = [times], inspection.formats.survey

    def refuse(info: Any, *rest: Any) -> Any:
        with map_errors(info.path):
            if info.path.endswith("1.parquet") and left[0]:
                left[0] -= 1
                denied = PermissionError("Access Denied")
                raise denied from ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")
        return look(info, *rest)

    monkeypatch.setattr(inspection.formats, "survey", refuse)
    parsed = parse_config(job())
    if times == 1:
        found = inspection.look(list_sources(parsed), parsed.source)
        assert [isinstance(each, SourceError) for each in found] == [False] * 3
        return
    with pytest.raises(StorageError, match=r"1\.parquet: is listed, but may not be read") as raised:
        inspection.look(list_sources(parsed), parsed.source)
    assert raised.value.exit_code == ExitCode.RETRYABLE
