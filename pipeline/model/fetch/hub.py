"""Fetches a model from the Hub, pinned to its commit, into the cache of its client."""

import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from pipeline.errors import HubBusyError, ModelError
from pipeline.model.fetch.names import ELSEWHERE

ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
CONVERTED = "refs/pr/N"
"""The revision of a pull request on the Hub; a bot offers safetensors in one."""
BUSY, SERVER_ERROR = (408, 425, 429), 500
"""HTTP status codes of a Hub that may answer later."""
BUSY_PAUSES_SECONDS = (2.0, 10.0, 30.0)
"""Approximate pauses before each new request to a busy Hub."""
_COMMIT = re.compile(r"snapshots/([0-9a-f]{40})$")


def fetch(name: str, revision: str | None, files: Sequence[str]) -> tuple[Path, str | None]:
    """Returns the folder of a Hub id on this node, and the commit that it is of.

    Args:
        files: patterns of the files to fetch.

    Raises:
        ModelError: the Hub does not provide it.
        HubBusyError: the Hub can't answer now.
    """
    if not ID.fullmatch(name):
        raise ModelError(
            "is neither a folder here nor a Hub id",
            f"model.name = {name!r}",
            hint="name albert-mini, an existing folder, a URL such as s3://bucket/folder, or a Hub id such "
            "as albert/albert-base-v2",
        )
    folder = _fetched(name, revision, files)
    commit = _COMMIT.search(folder.as_posix())
    return folder, commit.group(1) if commit else revision


def _fetched(name: str, revision: str | None, files: Sequence[str]) -> Path:
    pauses = iter(BUSY_PAUSES_SECONDS)
    while True:
        try:
            return Path(_snapshot(name, revision, files))
        except Exception as error:  # its client raises whatever its own libraries raise
            refused = _not_given(name, error)
        pause = next(pauses, None) if isinstance(refused, HubBusyError) else None
        if pause is None:
            raise refused
        time.sleep(pause * random.uniform(0.5, 1.5))  # a cluster's processes all ask at the same time


def _snapshot(name: str, revision: str | None, files: Sequence[str]) -> str:
    return snapshot_download(name, revision=revision, allow_patterns=[*files], ignore_patterns=ELSEWHERE)


def _not_given(name: str, error: Exception) -> ModelError:
    where = f"model.name = {name!r}"
    elsewhere = "put the folder where each node finds it, or into object storage, and name that"
    answers = [each.response for each in (error, error.__cause__) if isinstance(each, HfHubHTTPError)]
    for answer in answers:
        if answer.status_code in BUSY or answer.status_code >= SERVER_ERROR:
            got, hint = f"HTTP {answer.status_code} {answer.reason_phrase}", f"run again, or {elsewhere}"
            return HubBusyError("is not a folder here, and the Hub is too busy to answer", where, got, hint)
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    hint = f"check the name, or {elsewhere}"
    return ModelError("is not a folder here, and the Hub does not provide it", where, reason, hint)
