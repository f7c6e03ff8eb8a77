"""Shows the figures of a run: a thread draws or logs them until the run ends, however it ends."""

import os
import threading
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self, TextIO, cast

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines
from rich.text import Text

from pipeline import telemetry
from pipeline.dataset.record import Failure, ShardRecord
from pipeline.operate.progress import log_line
from pipeline.operate.progress.counts import Figures, RunTotal, Snapshot
from pipeline.operate.progress.display import display
from pipeline.telemetry import console
from pipeline.telemetry.liveness import StagesStatus

DRAW_SECONDS = 0.5
SHOW_CURSOR = "\x1b[?25h"
SIZE = ConsoleDimensions(80, 24)
"""The assumed size of a terminal that does not report its own."""


class Progress:
    """Counts what arrives, and shows it until it is closed.

    Args:
        attempt: this run's.
        quiet: true to show nothing.
    """

    def __init__(self, total: RunTotal, attempt: str, quiet: bool = False) -> None:
        self.figures = Figures(total, attempt)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._quiet = quiet
        self._thread = threading.Thread(target=self._show_on, daemon=True)
        self._screen = Screen() if Screen.possible() and not quiet else None

    def __enter__(self) -> Self:
        if self._screen:
            self._screen.start()
            self._screen.draw(self._moment())
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._quiet:
            return
        try:
            self._thread.join()
        finally:
            if self._screen:
                self._screen.stop()
            telemetry.event(log_line.ended(self._moment()))

    def add(self, arrived: ShardRecord | Failure) -> None:
        """Counts the result of one split."""
        with self._lock:
            self.figures.add(arrived)

    def stand(self, standing: StagesStatus) -> None:
        """Takes in the status of the stages."""
        with self._lock:
            self.figures.stand(standing)

    def _moment(self) -> Snapshot:
        with self._lock:
            return self.figures.moment()

    def _show_on(self) -> None:
        pause = DRAW_SECONDS if self._screen else log_line.FIRST_SECONDS
        while not self._closed.wait(pause):
            moment = self._moment()
            if self._screen:
                self._screen.draw(moment)
            else:
                telemetry.event(log_line.standing(moment))
                pause = log_line.pause(moment.seconds)


class Screen:
    """The live display on the terminal behind standard error; other lines are printed above it."""

    def __init__(self) -> None:
        self.console = Console(
            file=cast(TextIO, console.stream),
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
        )
        self._live = Live(
            console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
            transient=True,
        )  # fmt: skip
        self._lock = threading.RLock()
        self._widths: list[int] = []
        self._said_above = ExitStack()

    @staticmethod
    def possible() -> bool:
        """Tells whether standard error is a terminal that can move its cursor."""
        return console.stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")

    def start(self) -> None:
        """Starts the display at the lower end of the terminal."""
        self._live.start()
        self._said_above.enter_context(console.route_through(self._put_above))

    def draw(self, moment: Snapshot) -> None:
        """Draws a moment."""
        with self._lock:
            self._fit()
            # Leaves one column free, since a full line would wrap.
            self._show(display(moment, self.console.width - 1))

    def stop(self) -> None:
        """Clears the display, and leaves the terminal as it was."""
        with self._lock, suppress(OSError):  # a terminal that is gone must not end the run
            try:
                self._show(Text())
                self._live.stop()
            finally:
                self._said_above.close()
                console.stream.write(SHOW_CURSOR)
                console.stream.flush()

    def _put_above(self, text: str) -> None:
        with self._lock:
            self._fit()
            self.console.print(Text(text), soft_wrap=True)

    def _show(self, block: RenderableType) -> None:
        options = self.console.options.update(width=max(1, self.console.width - 1))
        drawn = self.console.render_lines(block, options, pad=False)
        self._live.update(SegmentLines(drawn, new_lines=True), refresh=True)
        self._widths = [Segment.get_line_length(line) for line in drawn]

    def _fit(self) -> None:
        """Adopts the terminal's present size, and erases our lines that a narrower terminal has wrapped."""
        size = _terminal_size()
        wrapped = sum(-(-width // size.width) - 1 for width in self._widths if width)
        if wrapped:
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
            self.console.control(
                Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up * wrapped)
            )
        self.console.size = size


def _terminal_size() -> ConsoleDimensions:
    """Returns the size of the terminal that we write to; descriptors 0 to 2 may lead to another."""
    try:
        size = os.get_terminal_size(console.stream.fileno())
    except OSError:
        return SIZE
    return ConsoleDimensions(size.columns or SIZE.width, size.lines or SIZE.height)
