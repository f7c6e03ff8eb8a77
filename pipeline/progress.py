"""What a person sees while a run goes on: a live bar on a terminal, a line every few seconds in a log."""

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pipeline import telemetry
from pipeline.dataset import ShardRecord
from pipeline.stages import Failure

LINE_SECONDS = 5.0


class Progress:
    """Counts what arrives, and shows it until it is closed.

    Args:
        splits: of the whole plan.  done: of them, those that were there before.
        quiet: show nothing.
    """

    def __init__(self, splits: int, done: int, quiet: bool = False) -> None:
        self.splits, self.before = splits, done
        self.done = self.failed = self.rows = self.tokens = self.rejects = 0
        self.started = time.monotonic()
        self._live = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not self._live
        self._closed = threading.Event()
        self._bar = Bar(
            TextColumn("[bold]splits"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=Console(stderr=True), disable=not self._live,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=splits, completed=done)
        self._thread = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._lines:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._bar.stop()
        if self._lines:
            self._thread.join()
            telemetry.event(self.line())

    def add(self, arrived: ShardRecord | Failure) -> None:
        """Take in what became of one split."""
        if isinstance(arrived, Failure):
            self.failed += 1
        else:
            self.done += 1
            self.rows += arrived.rows
            self.tokens += arrived.tokens
            self.rejects += arrived.rejects
        self._bar.update(self._task, completed=self.before + self.done, description=self._figures())

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def line(self) -> str:
        """Where the run stands, in one line."""
        return f"{self.before + self.done}/{self.splits} splits  {self._figures()}"

    def _figures(self) -> str:
        per_second = 1 / max(self.seconds, 1e-9)
        figures = (
            f"{self.rows:,} rows  {self.rows * per_second:,.0f} rows/s"
            f"  {self.tokens * per_second:,.0f} tokens/s  {self.rejects:,} rejects  ETA {self._eta()}"
        )
        return f"{figures}  {self.failed} failed" if self.failed else figures

    def _eta(self) -> str:
        left = self.splits - self.before - self.done - self.failed
        if not self.done:
            return "?" if left else "0s"
        seconds = round(left * self.seconds / self.done)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return (
            f"{hours}h{minutes:02d}m"
            if hours
            else f"{minutes}m{seconds % 60:02d}s"
            if minutes
            else f"{seconds}s"
        )

    def _print_lines(self) -> None:
        while not self._closed.wait(LINE_SECONDS):
            telemetry.event(self.line())
