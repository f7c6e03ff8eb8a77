"""Names of the datasets of a series: a run date, and the retries of its rejects."""

import re


def retry_of(path: str, number: int) -> str:
    """Where the rejects of the dataset at a path are tried again, for the first time, the second, ..."""
    return f"{path}-retry{number}"


def without_retry(path: str) -> str:
    """The path or name that `retry_of` was given; any other as it is."""
    return re.sub(r"-retry\d+$", "", path)


def retry_order(name: str) -> tuple[str, int]:
    """Orders the datasets of one run date: the run's own, then its retries by their numbers."""
    first = without_retry(name)
    return first, int(name.removeprefix(f"{first}-retry")) if name != first else 0


def is_dataset_name(name: object) -> bool:
    """Tells whether a dataset of a series may have this name: one folder's, visible, and safe to print."""
    return isinstance(name, str) and name.isprintable() and not re.match(r"$|\.|.*/", name)
