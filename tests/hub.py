"""Provides a Hub that answers every request with a status, to the real clients."""

import threading
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

from pipeline.model.fetch import hub as fetching


def hub(patch: pytest.MonkeyPatch, *statuses: HTTPStatus) -> Counter[HTTPStatus]:
    """Starts a Hub that answers with these statuses in turn, then always with the last; returns its answers.

    It is used as long as the patch lasts, and ends with the process.
    """
    answered: Counter[HTTPStatus] = Counter()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(("/api/models/", "/api/datasets/")):  # the client asks for more
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            status = statuses[min(answered.total(), len(statuses) - 1)]
            answered[status] += 1
            self.send_error(status)

        def log_message(self, *_: Any) -> None:
            """Keeps the requests out of the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    patch.setattr(fetching, "BUSY_PAUSES_SECONDS", (0.01, 0.01))
    return answered
