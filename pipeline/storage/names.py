"""The rules of names that do not count in a source: hidden names, and markers that tools leave for folders.

The rule for hidden names is Spark's: `.x` and `_x` are hidden, but `_key=value` is a partition.
"""

from typing import Literal

Hidden = Literal["skip", "dots", "read"]
"""Which names are hidden: those that begin with `.` or `_`, only those with `.`, or none."""
HIDDEN, MARKER, UNFINISHED = "hidden", "folder_marker", "unfinished"
FOLDER = "_$folder$"
"""The end of the name of an empty object that Hadoop and EMR make for a folder."""
COPYING = "._COPYING_"
"""The end of the name of a file that Hadoop is still copying."""


def passed_over(name: str, hidden: Hidden) -> str | None:
    """Returns why a name does not count; None if it does."""
    if not name or name.endswith(FOLDER):
        return MARKER
    if name.endswith(COPYING):
        return UNFINISHED
    if hidden != "read" and name.startswith("."):
        return HIDDEN
    return HIDDEN if hidden == "skip" and name.startswith("_") and "=" not in name else None


def first_passed_over(path: str, hidden: Hidden) -> tuple[str, str] | None:
    """Returns the first folder or file of a relative path that does not count, with the reason, if any.

    Empty parts are skipped: some storages have keys such as `a//b`.
    """
    parts = path.split("/")
    for at, part in enumerate(parts):
        if part and (reason := passed_over(part, hidden)):
            return "/".join(parts[: at + 1]), reason
    return None
