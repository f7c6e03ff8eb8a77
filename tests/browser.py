"""Drives a real Chromium without a window over its debugging pipe, to see what a page shows and loads."""

import base64
import json
import os
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tools import program

SECONDS = 60
"""Seconds that any answer may take."""


class Tab:
    """One tab. `requests` are the URLs that it loaded, `complaints` its messages on the console."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.number, self.rest = to, back, 0, b""
        self.session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command; handles events that come before it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._take(answer)

    def open(self, url: str, width: int = 1100, dark: bool = False) -> None:
        """Loads a page in a window of some width, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=800, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._take(self._next())

    def ask(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Moves the mouse, and clicks if told to."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        """Writes an image of the complete page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _take(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialog: {parameters['message']}")
            case "Page.loadEventFired":
                self.loaded = True

    def _next(self) -> dict[str, Any]:
        """Reads the next message."""
        while b"\0" not in self.rest:
            assert select.select([self.back], [], [], SECONDS)[0], "Chromium does not answer"
            data = os.read(self.back, 1 << 16)
            assert data, "Chromium is gone"
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Opens a tab of a browser with its own profile; skips the test without Chromium."""
    command = [
        program("chromium", "Debian's chromium"), "--headless=new", "--no-sandbox", "--disable-gpu",
        "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--disable-background-networking",
    ]  # fmt: skip
    (down, to), (back, up) = os.pipe(), os.pipe()
    with _started(command, down, up) as process:
        os.close(down)
        os.close(up)
        try:
            yield Tab(to, back)
        finally:
            os.close(to)
            os.close(back)
            process.terminate()
            process.wait(SECONDS)


def _started(command: Sequence[str], down: int, up: int) -> subprocess.Popen[bytes]:
    """Starts the browser; it reads commands from descriptor 3 and answers on descriptor 4."""
    # Not sh: Debian's does not support descriptors above 9.
    shell = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up}', "bash", *command]
    return subprocess.Popen(shell, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
