"""Checks what the command line prints, and its exit codes."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pipeline import cli
from pipeline.cli.main import COMMANDS
from pipeline.cli.output import show_lines
from pipeline.errors import ExitCode
from tests.conftest import write_config
from tests.embed.test_read import CATASTROPHIC, with_tokenizer

Job = Callable[..., dict[str, Any]]


@pytest.fixture
def written(job: Job, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", job())


def test_plan_says_what_would_be_done_and_does_nothing(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(written), "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert (shown["files"], shown["splits"], shown["pending"], shown["counted_rows"]) == (3, 6, 6, 60)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("flow")
def test_run_plan_and_status_agree(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "not started"
    assert cli.main(["run", str(written), "--json"]) == ExitCode.DONE
    summary = json.loads(capsys.readouterr().out)
    assert (summary["code"], summary["rows"], summary["complete"]) == (0, 60, True)
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["done"], status["rows"]) == ("complete", 6, 60)
    [attempt] = status["attempts"]
    assert (attempt["code"], attempt["reason"]) == (0, "complete")
    assert cli.main(["plan", str(written), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["pending"] == 0


@pytest.mark.usefixtures("flow")
def test_a_failed_file_is_the_last_line_and_stands_in_status(
    written: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "2.parquet").write_bytes(b"nonsense")
    assert cli.main(["run", str(written)]) == ExitCode.INCOMPLETE
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "exit 3: 1 of the source's files failed: docs/2.parquet: is not a complete Parquet file"
    )
    assert cli.main(["status", str(written), "--json"]) == ExitCode.DONE
    status = json.loads(capsys.readouterr().out)
    [attempt] = status["attempts"]
    assert f"exit {attempt['code']}: {attempt['reason']}" == last
    assert (status["state"], list(status["failed_files"])) == ("stopped", ["docs/2.parquet"])


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["run", "nowhere.yaml"], "exit 2: nowhere.yaml: no such config file"),
        (["run", "{config}", "--set", "model.name=no/model"], "the Hub does not provide it"),
        (["run", "{config}", "--set", "source.docs.path=/nowhere/*.parquet"], "no file here"),
        (["plan", "{config}", "--set", "model.max_tokens=4096"], "more than the model has positions"),
        (["plan", "{config}", "--set", "model.poolin=mean"], "did you mean pooling?"),
    ],
)
def test_user_errors_are_one_message_without_traceback(
    written: Path, arguments: list[str], last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main([argument.replace("{config}", str(written)) for argument in arguments])
    shown = capsys.readouterr().err
    assert code == ExitCode.CONFIG
    assert last in shown.splitlines()[-1]
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "nowhere.yaml", "--debug"]) == ExitCode.CONFIG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [["-m", "pipeline", "run"], ["-m", "jobs.embed"]])
def test_both_entry_points_are_the_same_command(entry: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, *entry, "nowhere.yaml"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (
        2,
        "exit 2: nowhere.yaml: no such config file; check the path\n",
    )


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, shown in (("--help", "exit codes: 0 done"), ("--version", "0.1.0")):
        with pytest.raises(SystemExit, match="0"):
            cli.main([flag])
        assert shown in capsys.readouterr().out


@pytest.mark.usefixtures("flow")
def test_a_night_is_of_a_series_and_of_a_date(
    job: Job, tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nightly(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = cli.main(["nightly", str(config), *arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    command = [sys.executable, "-m", "jobs.nightly", str(written), "--run-date", "2026-11-25"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "needs {run_date}" in done.stderr) == (ExitCode.CONFIG, True)
    values = job(output={"path": str(tmp_path / "series/{run_date}")}, reuse={"base": "latest"})
    series = write_config(tmp_path / "nightly.yaml", values)
    done = nightly(series)
    assert (done.returncode, "--run-date: a nightly job needs its date" in done.stderr) == (
        ExitCode.CONFIG,
        True,
    )
    assert not (tmp_path / "series").exists()
    for date in ("2026-11-25", "2026-11-26"):
        done = nightly(series, "--run-date", date)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert json.loads((tmp_path / "series/LATEST.json").read_text())["dataset"] == date
    shown = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()}
    assert (shown["copied"], shown["embedded"], shown["gone"]) == ("60", "0", "0")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command_ends_with_examples_that_parse(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    for example, what in COMMANDS[command].examples:
        assert f"  # {what}\n  python -m pipeline {example}\n" in shown
        assert cli.parser().parse_args(shlex.split(example)).command


def test_every_command_has_examples() -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["no-such-command"])
    assert all(command.examples for command in COMMANDS.values())


def test_bash_completes_commands_and_options() -> None:
    """Sources the output of `completion bash` as in the docs, and reads what bash would offer."""
    ask = (
        "source <({python} -m pipeline completion bash) && COMP_WORDS=({words}) COMP_CWORD={last}"
        " && _shtab_albert_embed albert-embed {typed} {before}; echo ${{COMPREPLY[@]}}"
    )

    def offered(*words: str) -> list[str]:
        script = ask.format(
            python=sys.executable,
            words=" ".join(words),
            last=len(words) - 1,
            typed=words[-1],
            before=words[-2],
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert offered("albert-embed", "st") == ["status"]
    assert offered("albert-embed", "prune", "--older") == ["--older-than"]
    assert offered("albert-embed", "completion", "z") == ["zsh"]


def test_zsh_gets_a_script_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert shown.startswith("#compdef albert-embed")
    assert "retry-rejects" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "x.yaml", "--run-date", "yesterday"], "'yesterday' is not a date such as 2026-11-25"),
        (["verify", "x", "--deep", "2"], "2 is not between 0 and 1"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_arguments_that_mean_nothing_are_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert said in capsys.readouterr().err


def test_the_plan_for_a_person(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks that names are aligned to the right, and that without a terminal nothing controls one."""
    values = job(cost={"tokens_per_second": 10.0, "price_per_hour": 36.0, "currency": "EUR"})
    values["source"]["docs"].pop("id_column")
    assert cli.main(["plan", str(write_config(tmp_path / "job.yaml", values))]) == ExitCode.DONE
    shown = capsys.readouterr().out
    lines = {line[:9].strip(): line[11:] for line in shown.splitlines() if line.startswith("  ")}
    assert shown.startswith(f"plan of {tmp_path}/out: new\n")
    assert lines["source"].endswith("; 60 rows, counted")
    assert lines["splits"].startswith("6, of them 6 pending, in 3 scans; ")
    assert lines["sample"].startswith("60 texts from 3 places in 3 files, ")
    assert "a replica's hour" in lines["price"] and " EUR, at 36.00 EUR " in lines["price"]
    assert lines["time"].endswith("at 10 tokens/s: as cost.tokens_per_second says")
    assert lines["output"].startswith("6 new shards, about 60 rows of 16 dimensions (float32): 6.24 kB")
    assert "\n\nworth knowing\n  no_id_column  no id_column in source.docs: " in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_lines_are_aligned_wrapped_and_steer_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines(
        "a\x1b[2J title", [("one", "1\x1b[31m [red]x"), ("eleven", "word " * 25), ("", "on"), ("no", "")]
    )
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "a [2J title"
    assert lines[0] == "     one  1 [31m [red]x"
    assert lines[1:3] == ["  eleven  " + ("word " * 20).rstrip(), " " * 10 + ("word " * 5).rstrip()]
    assert lines[3:] == [" " * 10 + "on"]


def test_a_panic_in_rust_has_its_last_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Provokes a panic of the tokenizers library; it is not an `Exception`."""

    def panicking(_: object) -> None:
        backend = Backend(models.WordLevel({"a": 0}, "a"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+a+)+b"), "isolated")
        backend.encode("a" * 40 + "c")

    monkeypatch.setitem(COMMANDS, "completion", replace(COMMANDS["completion"], run=panicking))
    assert cli.main(["completion", "bash"]) == ExitCode.BUG
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("exit 1: a bug in this program: PanicException(")


def test_a_plan_estimates_around_texts_that_can_not_be_tokenized(
    job: Job, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+a+)+b"}, "behavior": "Isolated", "invert": False}
    model = with_tokenizer(tmp_path / "model", pre_tokenizer=split)
    lines = [CATASTROPHIC, *["a text"] * 19]
    pq.write_table(pa.table({"key": range(20), "text": lines, "topic": ["t"] * 20}), corpus / "0.parquet")
    path = write_config(tmp_path / "job.yaml", job(model={"name": str(model)}))
    assert cli.main(["plan", str(path), "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["counted_rows"] == 60
