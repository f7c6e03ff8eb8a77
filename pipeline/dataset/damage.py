"""Reads from a dataset that may be gone or damaged: whatever is wrong costs what was asked for alone."""

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
"""What is told of a single shard; as there may be many, it is not a warning."""


def unless_damaged(event: str, where: str, read: Callable[[], Found], patient: bool = True) -> Found | None:
    """Returns what `read` finds in a base; None, with a warning, where the base is gone or damaged.

    What a base holds is a gift: what can't be had of it is embedded as if it were new.

    Args:
        event: what is warned of.
        patient: pass on what storage did not do this time; else that costs reuse, too.

    Raises:
        StorageError: storage failed, by no fault of the base's.
    """
    try:
        return read()
    except StorageError as error:
        if patient and not is_its_own(error, event):
            raise
        reason = str(error)
    except Exception as error:  # the boundary: damaged bytes make Arrow, NumPy and JSON raise what they like
        reason = str(error) if isinstance(error, OtherDatasetError) else repr(error)
    tell = telemetry.event if event in OF_A_SHARD else telemetry.warn
    tell(event, base=where, reason=printable(reason.splitlines()[0]))
    return None


def is_its_own(error: StorageError, event: str) -> bool:
    """Tells whether what storage says is of the base, and not of storage at this moment.

    A base that may not be read at all is an error of the config; a single shard of it (archived, say) is not.
    """
    denied = isinstance(error, DeniedError) and not isinstance(error, CredentialsError)
    return isinstance(error, DamagedError | MissingError | ReplacedError) or (denied and event in OF_A_SHARD)


def rows_of(path: str, storage: Storage) -> int:
    """How many rows the base at a path has; 0 where that can't be read any more."""
    summary = Layout(path).summary
    event = "rows that are gone are not counted"

    def read() -> int:
        return int(parsing.json_object(storage.read(summary), summary)["rows"])

    return unless_damaged(event, path, read, patient=False) or 0
