"""Checks the progress of a run, with a clock that stands still: figures, displays, log lines."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyte
import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline import schema, telemetry
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.operate.progress import Progress, RunTotal, log_line, progress
from pipeline.operate.progress.counts import Figures, Snapshot
from pipeline.operate.progress.display import display
from pipeline.operate.progress.stages import Stages
from pipeline.plan.plan import Plan
from pipeline.telemetry import console
from pipeline.telemetry.liveness import StagesStatus, StageStatus
from tests import records
from tests.telemetry.test_liveness import Clock

OURS = "20261125T000000Z-0a0b0c0d"
READ_SECONDS, ENCODE_SECONDS = 1.0, 8.0
FAILURE = Failure("f", ("docs/f",), "read", 3, "broken")


def record(rows: int = 10, attempt: str = OURS, **fields: Any) -> ShardRecord:
    """Makes the record of a shard with rows of ten tokens, which took ten seconds: 1 + 0 + 8 + 1."""
    values = {"rows": rows, "tokens": rows * 10, "attempt": attempt, "pieces": [records.piece("a", rows)]}
    values |= {"read_seconds": READ_SECONDS, "encode_seconds": ENCODE_SECONDS, "write_seconds": 1.0}
    return records.record("s", **(values | fields))


def total(splits: int = 10, before: int = 0, rows: int = 10) -> RunTotal:
    return RunTotal(splits, before, "rows", splits * rows, before * rows)


def standing(age: float, **stages: tuple[int, int, int, float, int]) -> StagesStatus:
    """Makes the status of stages that began when the watch did."""
    return StagesStatus(age, 0.0, {name: StageStatus(age, *figures) for name, figures in stages.items()})


@pytest.fixture
def clock() -> Clock:
    return Clock()


def arrive(figures: Figures, clock: Clock, count: int, every: float) -> None:
    for _ in range(count):
        clock.now += every
        figures.add(record())


def test_neither_rays_start_nor_loading_a_model_counts(clock: Clock) -> None:
    figures = Figures(total(), OURS, clock)
    clock.now += 300  # Ray starts, a model is loaded
    assert figures.moment().eta is None
    figures.add(record(idle_seconds=280.0))
    moment = figures.moment()
    assert (moment.row_rate.now, moment.row_rate.overall) == (1.0, 1.0)  # ten rows in its own ten seconds
    assert (moment.token_rate.now, moment.eta) == (10.0, 90.0)
    assert moment.seconds == 300


def test_a_rate_of_now_forgets_and_one_of_all_does_not(clock: Clock) -> None:
    figures = Figures(total(1000), OURS, clock)
    arrive(figures, clock, 50, every=10)
    arrive(figures, clock, 50, every=1)
    moment = figures.moment()
    assert moment.row_rate.now == pytest.approx(10)
    assert moment.row_rate.overall == pytest.approx(1000 / 550)
    assert moment.eta == pytest.approx(900)


def test_splits_that_come_rarely_have_a_rate_all_the_same(clock: Clock) -> None:
    figures = Figures(total(100), OURS, clock)
    arrive(figures, clock, 20, every=100)
    assert figures.moment().row_rate.now == pytest.approx(0.1)
    clock.now += 60  # nothing arrived, and nothing is late: the time left goes down with the clock
    moment = figures.moment()
    assert (moment.row_rate.now, moment.eta) == (pytest.approx(0.1), pytest.approx(8000 - 60))
    clock.now += 940  # it is late by now, and the rate falls
    moment = figures.moment()
    assert moment.row_rate.now == pytest.approx(80 / (800 + 900))
    assert moment.eta == pytest.approx(800 / moment.row_rate.now - 100)


def test_what_was_there_before_is_no_speed(clock: Clock) -> None:
    figures = Figures(total(100, before=90), OURS, clock)
    clock.now += 20
    assert figures.moment().fraction == 0.9
    figures.add(record())
    moment = figures.moment()
    assert (moment.done, moment.rows, moment.fraction) == (91, 10, 0.91)
    assert (moment.row_rate.overall, moment.eta) == (1.0, 90.0)


def test_copies_are_no_speed_either(clock: Clock) -> None:
    figures = Figures(total(), OURS, clock)
    for _ in range(8):
        figures.add(record(attempt="an older run's"))
    moment = figures.moment()
    assert (moment.done, moment.taken_over, moment.rows) == (8, 8, 80)
    assert (moment.eta, moment.row_rate.overall) == (None, 0.0)
    clock.now += 10
    figures.add(record())
    moment = figures.moment()
    assert (moment.row_rate.overall, moment.eta) == (1.0, 10.0)


def test_larger_splits_take_longer(clock: Clock) -> None:
    """The time left counts rows, not splits: nine small splits are done, and a large one is left."""
    figures = Figures(RunTotal(10, 0, "rows", 1090, 0), OURS, clock)
    arrive(figures, clock, 9, every=10)
    moment = figures.moment()
    assert moment.eta == pytest.approx(1000)
    assert int(moment.fraction * 100) == 8


def test_failed_splits_are_not_waited_for(clock: Clock) -> None:
    figures = Figures(total(4), OURS, clock)
    arrive(figures, clock, 2, every=10)
    clock.now += 10
    figures.add(FAILURE)
    moment = figures.moment()
    assert (moment.done, moment.failed, moment.eta) == (2, 1, pytest.approx(10))
    clock.now += 10
    figures.add(FAILURE)
    moment = figures.moment()
    assert (moment.eta, moment.fraction) == (0.0, 0.5)


def test_when_all_is_there_the_clock_of_rates_stands(clock: Clock) -> None:
    figures = Figures(total(2), OURS, clock)
    arrive(figures, clock, 2, every=10)
    clock.now += 60  # Ray takes its time to end
    moment = figures.moment()
    assert (moment.row_rate.overall, moment.seconds, moment.eta) == (1.0, 80, 0.0)
    assert log_line.stages(moment) == "ending"


@pytest.mark.parametrize("splits", [0, 1])
def test_hardly_anything_to_do(splits: int, clock: Clock) -> None:
    figures = Figures(total(splits), OURS, clock)
    moment = figures.moment()
    assert (moment.eta, moment.fraction) == ((None, 0.0) if splits else (0.0, 1.0))
    arrive(figures, clock, splits, every=10)
    moment = figures.moment()
    assert (moment.eta, moment.fraction, log_line.percent(moment)) == (0.0, 1.0, "100%")


def test_an_arrival_without_any_time(clock: Clock) -> None:
    figures = Figures(total(), OURS, clock)
    figures.add(record(read_seconds=0.0, encode_seconds=0.0, write_seconds=0.0))
    figures.add(FAILURE)
    assert (figures.moment().row_rate.now, figures.moment().eta) == (0.0, None)


def plan(*pieces: tuple[str | None, str, int, int]) -> Plan:
    """Makes a plan of pieces, given by split id, unit and range."""
    rows = [
        {"split": 0, "split_id": split, "source": "docs", "file": "f", "version": "", "size": 9,
         "unit": unit, "start": start, "stop": stop}
        for split, unit, start, stop in pieces
    ]  # fmt: skip
    return Plan(pa.Table.from_pylist(rows, schema=schema.PLAN), pa.schema([]), "digest")


def test_what_there_is_to_do_is_counted_in_what_all_files_are_counted_in() -> None:
    whole = plan(("a", "rows", 0, 10), ("b", "rows", 10, 40), ("b", "rows", 0, 5), (None, "bytes", 0, 0))
    assert RunTotal.of(whole, whole.pending(["a"])) == RunTotal(2, 1, "rows", 45, 10)
    mixed = plan(("a", "rows", 0, 10), ("b", "bytes", 0, 10_000))
    assert RunTotal.of(mixed, mixed.pending(["a"])) == RunTotal(2, 1, "splits", 2, 1)
    assert RunTotal.of(plan(), plan()) == RunTotal(0, 0, "splits", 0, 0)


def test_a_stage_that_has_time_waits_for_the_busiest() -> None:
    stages = Stages()
    stages.stand(standing(10, read=(2, 2, 2, 5.0, 10), encode=(1, 1, 1, 1.0, 8), write=(0, 1, 1, 0.0, 8)))
    stages.stand(standing(20, read=(0, 2, 2, 7.0, 12), encode=(1, 1, 1, 10.5, 9), write=(0, 1, 1, 0.5, 9)))
    read, encode, write = stages.lines(pending=40, failed=0)
    assert (read.busy, read.at_work, read.waits) == (0.1, 0, "waits for the encoder")
    assert (encode.busy, encode.at_work, encode.waits) == (0.95, 1, "")
    assert (write.busy, write.waits) == (0.05, "waits for the encoder")


@pytest.mark.parametrize(
    ("read", "encode", "write", "encode_waits"),
    [
        (19.0, 2.0, 0.1, "waits for the readers"),
        (1.0, 2.0, 9.5, "waits for the writers"),
        (0.1, 2.0, 0.1, "waits for Ray"),
        (0.1, 8.0, 0.1, ""),  # time lost between two splits has no cause to name
    ],
)
def test_what_an_idle_replica_waits_for(read: float, encode: float, write: float, encode_waits: str) -> None:
    stages = Stages()
    for age, part in ((0.0, 0.0), (10.0, 1.0)):
        stages.stand(
            standing(age, read=(1, 2, 9, read * part, 5), encode=(1, 1, 1, encode * part, 5),
                     write=(1, 1, 9, write * part, 5))
        )  # fmt: skip
    assert stages.lines(40, 0)[1].waits == encode_waits


def test_replicas_that_start_are_waited_for() -> None:
    stages = Stages()
    assert stages.lines(40, 0) == ()
    stages.stand(standing(0))
    assert [line.waits for line in stages.lines(40, 0)] == ["starting", "starting", "waits for the encoder"]
    stages.stand(standing(2, read=(0, 2, 2, 1.0, 4)))
    assert [line.waits for line in stages.lines(40, 0)] == [
        "waits for replicas to start", "starting replicas", "waits for the encoder"
    ]  # fmt: skip


def test_a_replica_that_starves_is_counted() -> None:
    """Four replicas have had a split, one at a time, so they are busy a quarter of their time."""
    stages = Stages()
    stages.stand(standing(0, encode=(1, 1, 4, 0.0, 4)))
    stages.stand(standing(10, encode=(1, 1, 4, 10.0, 8)))
    encode = stages.lines(40, 0)[1]
    assert (encode.busy, encode.processes) == (0.25, 4)


def test_a_stage_is_not_idle_before_it_begins() -> None:
    """A model was loaded for 16 of 20 seconds."""
    stages = Stages()
    stages.stand(standing(0))
    stages.stand(StagesStatus(20, 0.0, {"encode": StageStatus(4.0, 1, 1, 1, 4.0, 0)}))
    assert stages.lines(40, 0)[1].busy == 1.0


def test_when_all_is_read_readers_wait_for_nothing() -> None:
    stages = Stages()
    stages.stand(standing(0, read=(0, 2, 2, 9.0, 9), encode=(1, 1, 1, 1.0, 3)))
    stages.stand(standing(10, read=(0, 2, 2, 9.0, 9), encode=(1, 1, 1, 11.0, 4)))
    assert stages.lines(pending=10, failed=1)[0].waits == "nothing left"


def test_a_watch_that_was_lost_counts_anew() -> None:
    stages = Stages()
    stages.stand(standing(100, encode=(1, 1, 1, 90.0, 50)))
    stages.stand(standing(1, encode=(1, 1, 1, 0.5, 0)))
    assert stages.lines(60, 0)[1].busy is None
    stages.stand(standing(3, encode=(1, 1, 1, 2.0, 0)))
    assert stages.lines(60, 0)[1].busy == 0.75


def test_only_the_last_looks_count() -> None:
    stages = Stages()
    for second in range(0, 200, 2):
        stages.stand(standing(second, encode=(1, 1, 1, float(min(second, 100)), 3)))
    assert stages.lines(40, 0)[1].busy == 0.0


@pytest.fixture
def moment(clock: Clock) -> Snapshot:
    """A moment in a run that another run began."""
    figures = Figures(total(1180, before=120, rows=64), OURS, clock)
    for _ in range(490):
        clock.now += 0.5
        figures.add(record(64, rejects=1))
    figures.add(FAILURE)
    figures.add(record(64, attempt="an older run's"))
    figures.stand(standing(0, read=(0, 2, 2, 0.0, 0), encode=(0, 1, 1, 0.0, 0), write=(0, 1, 1, 0.0, 0)))
    figures.stand(
        standing(20, read=(2, 2, 2, 24.0, 500), encode=(1, 1, 1, 19.6, 490), write=(0, 1, 1, 0.8, 490))
    )
    return figures.moment()


def drawn(moment: Snapshot, width: int) -> list[str]:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(display(moment, width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_display_on_narrow_and_wide_terminals(width: int, moment: Snapshot) -> None:
    shown = drawn(moment, width)
    text = "\n".join(shown)
    assert max(map(cell_len, shown)) <= width
    assert len(shown) == 8
    assert "611/1,180 splits" in text
    assert "ETA " in text
    assert re.search(r"rows +31,424 +128/s now +12\d/s overall", text)
    assert re.search(r"tokens +314,240 +1,280/s now +1,2\d\d/s overall", text)
    assert "490 rejects   1 failed split   120 before   1 taken over" in text
    assert re.search(r"read, tokenise +2 at work .* 60% busy .*waits for the encoder", text)
    assert re.search(r"encode +1 at work .* 98% busy", text)
    assert ("39,104/75,520 rows" in text) == (width >= 78)
    assert ("1.00 + 0.00 s a split" in text) == (width >= 104)
    assert "…" not in text


def test_the_narrowest_terminal_does_not_break_it(moment: Snapshot) -> None:
    shown = drawn(moment, 20)
    assert max(map(cell_len, shown)) <= 20
    assert len(shown) == 9


def test_one_line_says_it_all(moment: Snapshot) -> None:
    line = log_line.standing(moment)
    assert re.fullmatch(
        r"51%  611/1,180 splits  39,104/75,520 rows  128 rows/s  1,280 tokens/s  "
        r"\(overall 12\d and 1,2\d\d\)  490 rejects  1 failed  ETA 4m39s  "
        r"busy: read 60%, encode 98%, write 4%",
        line,
    ), line
    nothing = Figures(total(3), OURS).moment()
    assert log_line.standing(nothing) == "0%  0/3 splits  0/30 rows  0 rejects  0 failed  ETA ?  starting"
    assert log_line.ended(moment).startswith("611/1,180 splits  39,104/75,520 rows  12")


def test_lines_become_rarer() -> None:
    said, seconds = [], 0.0
    while seconds < 6 * 3600:
        seconds += log_line.pause(seconds)
        said.append(seconds)
    assert said[:3] == [5, 10, 15]
    assert sum(at <= 60 for at in said) <= 12
    assert sum(at <= 600 for at in said) <= 40
    assert said[-1] - said[-2] == 60


class Terminal:
    """A terminal behind standard error, and its visible content."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> None:
        self.master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        monkeypatch.setattr(console, "_own", [self.stream])
        monkeypatch.setattr(console, "_above", [])
        monkeypatch.setenv("TERM", "xterm-256color")
        self.screen = pyte.Screen(columns, 24)
        self.raw = b""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def seen(self) -> list[str]:
        """Returns the lines that are not empty."""
        self.stream.flush()
        os.set_blocking(self.master, False)
        try:
            while part := os.read(self.master, 65536):
                self.raw += part
        except BlockingIOError:
            pass
        self.screen.reset()
        pyte.ByteStream(self.screen).feed(self.raw)
        return [line.rstrip() for line in self.screen.display if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(monkeypatch)
    yield made
    made.stream.close()
    os.close(made.master)


def test_what_is_said_stands_above_the_display(terminal: Terminal, moment: Snapshot) -> None:
    screen = progress.Screen()
    screen.start()
    screen.draw(moment)
    block = terminal.seen()
    assert len(block) == 7
    console.print_line("split failed split=s file=\x1b[2J\x07bad\nand why")
    screen.draw(moment)
    console.print_line("one more")
    seen = terminal.seen()
    assert seen[:3] == ["split failed split=s file=\ufffd[2J\ufffdbad", "and why", "one more"]
    assert seen[3:] == block
    screen.stop()
    console.print_line("the end")
    assert terminal.seen() == [
        "split failed split=s file=\ufffd[2J\ufffdbad",
        "and why",
        "one more",
        "the end",
    ]
    assert not terminal.screen.cursor.hidden


def test_the_display_follows_the_size_of_the_terminal(terminal: Terminal, moment: Snapshot) -> None:
    screen = progress.Screen()
    screen.start()
    screen.draw(moment)
    assert any("39,104/75,520 rows" in line for line in terminal.seen())
    terminal.resize(60)
    terminal.screen.resize(columns=60)
    screen.draw(moment)
    last = terminal.seen()[-7:]
    assert "611/1,180 splits" in last[0]
    assert not any("39,104/75,520 rows" in line for line in last)
    screen.stop()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    terminal: Terminal, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with Progress(total(1), OURS) as progress:
        progress.add(record())
    terminal.seen()
    assert (b"\x1b" in terminal.raw) == (term == "xterm")


def test_quiet_says_nothing(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pipeline")
    with Progress(total(1), OURS, quiet=True) as progress:
        progress.stand(standing(1))
        progress.add(record())
    assert terminal.seen() == []
    assert caplog.messages == []


def test_a_log_gets_lines_and_the_last_of_them_is_where_it_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "pipeline")
    monkeypatch.setattr(log_line, "FIRST_SECONDS", 0.001)
    said = []
    with Progress(total(2), OURS) as progress:
        progress.add(record())
        while not caplog.messages:
            pass
        said = caplog.messages[:]
    assert said[0].startswith("50%  1/2 splits  10/20 rows")
    assert caplog.messages[-1].startswith(
        "1/2 splits  10/20 rows  1 rows/s  10 tokens/s  0 rejects  0 failed  in "
    )
    assert capsys.readouterr().err == ""


def test_what_others_write_goes_elsewhere_and_ours_does_not(tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "theirs"
    file.touch()
    with console.redirect_fds(str(file)):
        os.write(1, b"their output\n")
        os.write(2, b"their error\n")
        console.print_line("ours")
        with console.redirect_fds(str(file)):
            os.write(2, b"deeper\n")
            console.print_line("ours, too")
    os.write(2, b"after\n")
    assert file.read_text() == "their output\ntheir error\ndeeper\n"
    assert capfd.readouterr() == ("", "ours\nours, too\nafter\n")


def test_descriptors_come_back_after_an_error(tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "theirs"
    file.touch()
    with pytest.raises(KeyboardInterrupt), console.redirect_fds(str(file)):
        raise KeyboardInterrupt
    telemetry.event("not shown: nobody listens")
    os.write(1, b"back")
    assert capfd.readouterr().out == "back"
    with pytest.raises(FileNotFoundError), console.redirect_fds(str(tmp_path / "nowhere")):
        pass
    os.write(1, b"as before")
    assert capfd.readouterr().out == "as before"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process whose standard error is descriptor 2, as outside of tests."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_who_is_interrupted_while_descriptors_are_put_back_can_still_speak(tmp_path: Path) -> None:
    """The signal comes at the second of two descriptors that are copied back."""
    file = tmp_path / "theirs"
    file.touch()
    code = """
import os, sys
from pipeline.telemetry import console
copy, copies = os.dup2, []
def interrupted(*descriptors):
    copies.append(descriptors)
    if len(copies) == 4:
        raise SystemExit
    copy(*descriptors)
os.dup2 = interrupted
try:
    with console.redirect_fds(sys.argv[1]):
        os.write(2, b"theirs")
except SystemExit:
    console.print_line("the last word")
"""
    ended = python(code, str(file))
    assert (ended.stderr, file.read_text()) == ("the last word\n", "theirs")


def test_a_crash_of_our_own_is_where_people_look(tmp_path: Path) -> None:
    file = tmp_path / "theirs"
    file.touch()
    code = """
import sys
from pipeline.telemetry import console
with console.redirect_fds(sys.argv[1]):
    print("theirs")
    raise ValueError("a bug of ours")
"""
    ended = python(code, str(file))
    assert ended.stderr.splitlines()[-1] == "ValueError: a bug of ours"
    assert (ended.stdout, file.read_text()) == ("", "theirs\n")
