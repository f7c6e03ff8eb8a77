"""Reads from a dataset that may be gone or damaged; a failure costs only what was asked for."""

from collections.abc import Callable
from typing import TypeVar

from pipeline import parsing, telemetry
from pipeline.dataset.layout import Layout
from pipeline.errors import (
    CredentialsError,
    DamagedError,
    DeniedError,
    MissingError,
    OtherDatasetError,
    ReplacedError,
    StorageError,
)
from pipeline.sanitize import printable
from pipeline.storage import Storage

Found = TypeVar("Found")


UNREADABLE, NOT_COPIED = OF_A_SHARD = "the base can't be read", "not copied"
"""Events about a single shard; they are not warnings, because there may be many."""


def unless_damaged(event: str, where: str, read: Callable[[], Found], patient: bool = True) -> Found | None:
    """Returns what `read` finds in a base; returns None and warns if the base is gone or damaged.

    A base is optional: what can't be read from it is embedded as if it were new.

    Args:
        event: the event of the warning.
        patient: raise temporary failures of storage; else they cost reuse, too.

    Raises:
        StorageError: storage failed, and the base is not the cause.
    """
    try:
        return read()
    except StorageError as error:
        if patient and not is_its_own(error, event):
            raise
        reason = str(error)
    except Exception as error:  # the boundary: on damaged bytes Arrow, NumPy and JSON raise any exception
        reason = str(error) if isinstance(error, OtherDatasetError) else repr(error)
    tell = telemetry.event if event in OF_A_SHARD else telemetry.warn
    tell(event, base=where, reason=printable(reason.splitlines()[0]))
    return None


def is_its_own(error: StorageError, event: str) -> bool:
    """Tells whether the base is the cause of a storage error, and not a temporary failure of storage.

    If access to the complete base is denied, the config is wrong. A single denied shard (archived, say) is
    damage to the base.
    """
    denied = isinstance(error, DeniedError) and not isinstance(error, CredentialsError)
    return isinstance(error, DamagedError | MissingError | ReplacedError) or (denied and event in OF_A_SHARD)


def rows_of(path: str, storage: Storage) -> int:
    """Returns the number of rows of the base at a path; 0 if it can't be read any more."""
    summary = Layout(path).summary
    event = "rows that are gone are not counted"

    def read() -> int:
        return int(parsing.json_object(storage.read(summary), summary)["rows"])

    return unless_damaged(event, path, read, patient=False) or 0
