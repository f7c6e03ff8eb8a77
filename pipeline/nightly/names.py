"""Forms the names of the datasets of a series: a run date, and the retries of its rejects."""

import re


def retry_of(path: str, number: int) -> str:
    """Returns the path for the first, second, ... retry of the rejects of the dataset at a path."""
    return f"{path}-retry{number}"


def without_retry(path: str) -> str:
    """Returns the path or name that was passed to `retry_of`; returns any other path unchanged."""
    return re.sub(r"-retry\d+$", "", path)


def retry_order(name: str) -> tuple[str, int]:
    """Returns the key that orders the datasets of a run date: the run's own, then its retries by number."""
    first = without_retry(name)
    return first, int(name.removeprefix(f"{first}-retry")) if name != first else 0


def is_dataset_name(name: object) -> bool:
    """Tells whether a dataset of a series may have this name: a single visible folder, safe to print."""
    return isinstance(name, str) and name.isprintable() and not re.match(r"$|\.|.*/", name)
