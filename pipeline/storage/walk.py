"""Walks over a file system: finds what a folder or a glob names, enters each folder once, hides no failure.

Python's `glob` treats a folder that it can't list as an empty one, and follows a link to its own parent forty
times. Here every failure is raised, except that of a name that is gone.
"""

import errno
import fnmatch
import heapq
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import telemetry
from pipeline.errors import DeniedError
from pipeline.storage.names import Hidden, passed_over

MAGIC = frozenset("*?[")
DEEP = "**"
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""The errors of a link that leads nowhere, through a file, or in a circle."""

Positions = frozenset[int]
Outside = Literal["follow", "refuse"] | None
"""The treatment of a link out of the root; None: it is followed if its owner may be trusted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file's path and its status; the status of a link that leads nowhere is None."""

    path: str
    status: os.stat_result | None


class Pattern:
    """The parts of a glob below its root. `Positions` are the parts that may be reached in a folder.

    The rules are those of `glob`: `**` stands for any number of folders, and at the end also for the files
    below them. Whether a name counts at all is not decided here.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts, self.last = parts, len(parts) - 1
        self.match = [re.compile(fnmatch.translate(part)).match for part in parts]
        self.start = self._with_what_follows({0})

    def is_file(self, at: Positions, name: str) -> bool:
        """Tells whether the glob names a file of this name in a folder at these positions."""
        return self.last in at and self.match[self.last](name) is not None

    def into(self, at: Positions, name: str) -> Positions:
        """Returns the positions in a folder of this name; none if the glob names nothing below it."""
        return self._with_what_follows(
            {
                each + (self.parts[each] != DEEP)
                for each in at
                if (self.parts[each] == DEEP or each < self.last) and self.match[each](name)
            }
        )

    def names(self, at: Positions) -> set[str] | None:
        """Returns the only names that count in a folder; None if the folder must be listed."""
        parts = {self.parts[each] for each in at}
        return None if any(MAGIC & set(part) for part in parts) else parts

    def _with_what_follows(self, at: set[int]) -> Positions:
        """Adds the positions after each `**`, since `**` may stand for no folder at all."""
        for each in range(min(at, default=self.last), self.last):
            if each in at and self.parts[each] == DEEP:
                at.add(each + 1)
        return frozenset(at)


class Walk:
    """One walk below a root.

    Each folder's files are found once, however many links lead to the folder. A folder keeps the name that it
    has without links, whatever links are added. A folder that only links reach has the first of its names.
    """

    def __init__(
        self, root: str, parts: Sequence[str], outside: Outside = None, hidden: Hidden = "skip"
    ) -> None:
        self.root, self.pattern, self.outside, self.hidden = root, Pattern(parts), outside, hidden
        self.passed_over: dict[str, str] = {}
        """The files and folders that the pattern names, but that do not count, with the reason."""
        self.inside = f"{os.path.realpath(root or '/').rstrip('/')}/"
        self.folders: deque[tuple[str, Positions, bool]] = deque([(root, self.pattern.start, False)])
        self.linked: list[tuple[str, list[int]]] = []
        self.seen: dict[tuple[int, int], Positions] = {}
        self.repeats: list[str] = []

    def files(self) -> Iterator[Found]:
        """Yields all files, in no order.

        Raises:
            OSError: something can't be listed or inspected.
            DeniedError: a link leads out of the root.
        """
        while self.folders or self.linked:
            if not self.folders:
                path, at = heapq.heappop(self.linked)
                self.folders.append((path, frozenset(at), True))
            path, positions, linked = self.folders.popleft()
            if positions := self._not_seen(path, positions, linked):
                yield from self._files_of(path, positions, linked)
        if self.repeats:
            count, first = len(self.repeats), self.repeats[0]
            telemetry.event("links to folders that are listed already", links=count, first=first)

    def _not_seen(self, folder: str, at: Positions, linked: bool) -> Positions:
        """Returns the positions at which a folder was not visited yet."""
        try:
            status = Path(folder or "/").stat()
        except FileNotFoundError:  # removed since it was listed
            return frozenset()
        key = status.st_dev, status.st_ino
        seen = self.seen.get(key, frozenset())
        self.seen[key] = seen | at
        if linked and not at - seen:
            self.repeats.append(folder)
        # A folder that no link leads to is never skipped: not every file system can tell folders apart.
        return at - seen if linked else at

    def _files_of(self, folder: str, at: Positions, linked: bool) -> Iterator[Found]:
        for name, is_link, is_file in self._names_in(folder, at):
            named, inner = self.pattern.is_file(at, name), self.pattern.into(at, name)
            if not named and (is_file or not inner):
                continue
            path = f"{folder}/{name}"
            status = _status(path, is_link)
            if reason := passed_over(name, self.hidden):
                if status and (named if stat.S_ISREG(status.st_mode) else inner):
                    self.passed_over[path] = reason
            elif status is None:
                if is_link:  # its target may also be a folder whose mount is missing
                    yield Found(path, None)
            elif stat.S_ISREG(status.st_mode) and named:
                self._refuse_leaving(path, status, is_link)
                yield Found(path, status)
            elif stat.S_ISDIR(status.st_mode) and inner:
                self._refuse_leaving(path, status, is_link)
                self._enter(path, inner, is_link, linked)

    def _enter(self, path: str, at: Positions, is_link: bool, linked: bool) -> None:
        if is_link:
            heapq.heappush(self.linked, (path, sorted(at)))
        else:
            self.folders.append((path, at, linked))

    def _names_in(self, folder: str, at: Positions) -> Iterator[tuple[str, bool, bool]]:
        """Yields the names in a folder; for each, whether it is a link or surely a file."""
        if (names := self.pattern.names(at)) is not None:
            for name in filter(None, names):
                yield name, Path(folder or "/", name).is_symlink(), False
            return
        try:
            entries = os.scandir(f"{folder}/")
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                yield entry.name, entry.is_symlink(), entry.is_file(follow_symlinks=False)

    def _refuse_leaving(self, path: str, status: os.stat_result, is_link: bool) -> None:
        """Refuses a link out of the root, unless it may be followed.

        Otherwise a user who can write here could make this program read, through a link, what only the
        program may read. A link that belongs to us, to the system, or to the owner of its target gives nobody
        new access.
        """
        if not is_link or self.outside == "follow":
            return
        if self.outside is None and Path(path).lstat().st_uid in (0, os.geteuid(), status.st_uid):
            return
        target = os.path.realpath(path)
        if not f"{target}/".startswith(self.inside):
            raise DeniedError(
                "is a link out of its source",
                path,
                f"it leads to {target}",
                "remove it; or, if everyone who can write there may be trusted, set the source's "
                "options.outside_links to follow",
            )


def _status(path: str, is_link: bool) -> os.stat_result | None:
    """Returns the status of a path's target; None if the target does not exist."""
    try:
        return Path(path).stat()
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and not (is_link and error.errno in NOWHERE):
            raise
        return None
