"""Defines every path inside a dataset; no other module knows them.

Some names come from files that others may have written: a base's manifest or a shard's footer. Each is
checked here before it becomes part of a path, so that none leads out of its folder.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import OtherDatasetError

_SPLIT = re.compile(r"[0-9A-Za-z_]{1,64}")
_REJECTS = re.compile(rf"part-{_SPLIT.pattern}-[0-9a-z]{{1,64}}\.parquet")
_OURS = re.compile(
    r"(dataset\.json|plan\.parquet|manifest\.parquet|summary\.json|report\.html"
    r"|data/(part-[^/]+\.parquet|_SUCCESS)"
    r"|matches/(part-[^/]+\.parquet|_DONE)"
    r"|rejects/part-[^/]+\.parquet"
    r"|ledger/[^/]+(-\d{5}\.parquet|\.json)"
    r"|changes/[^/.][^/]*/(part-[^/]+\.parquet|_since\.json|_counts\.json|_SUCCESS)"
    r"|\.lock|\.probe-[0-9a-f]{32}(/[^/]+)?)"
)
LOCK = ".lock"
"""The file that a file system locks in a folder while it replaces a file there."""
_NAME = re.compile(r"[^/.][^/]*")
"""The name of a dataset: a single visible folder."""
_HALF_WRITTEN = re.compile(r"(.*/)?\.([^/]+)\.[0-9a-f]{32}")
"""A file left by a killed writer on a file system without unnamed files: its final name, hidden."""


@dataclass(frozen=True, slots=True)
class ChangesLayout:
    """Paths below the folder `root` of the changes of one dataset since another.

    Names that begin with `_` are hidden from what reads all Parquet files of a folder.
    """

    root: str

    @property
    def since(self) -> str:
        return f"{self.root}/_since.json"

    @property
    def counts(self) -> str:
        return f"{self.root}/_counts.json"

    @property
    def success(self) -> str:
        return f"{self.root}/_SUCCESS"

    def part(self, name: str) -> str:
        return f"{self.root}/{name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the folder or URL `root` of one dataset."""

    root: str

    @property
    def identity(self) -> str:
        return f"{self.root}/dataset.json"

    @property
    def plan(self) -> str:
        return f"{self.root}/plan.parquet"

    @property
    def data(self) -> str:
        return f"{self.root}/data"

    def shard(self, split_id: str) -> str:
        """Returns the path of a split's shard.

        Raises:
            OtherDatasetError: no split of ours has such an id.
        """
        return f"{self.data}/part-{self._checked(split_id, _SPLIT)}.parquet"

    @staticmethod
    def shard_edges() -> list[str]:
        """Returns names that divide the shards about equally, because split ids are digests."""
        return [f"part-{digit}" for digit in "123456789abcdef"]

    @staticmethod
    def split_of_shard(name: str) -> str | None:
        """Returns the split id in the file name of a shard; None if the name is not that of a shard."""
        split_id = name.removeprefix("part-").removesuffix(".parquet")
        return split_id if _SPLIT.fullmatch(split_id) and name == f"part-{split_id}.parquet" else None

    @property
    def success(self) -> str:
        return f"{self.data}/_SUCCESS"

    def rejects(self, split_id: str, digest: str) -> str:
        return f"{self.root}/rejects/part-{split_id}-{digest}.parquet"

    def rejects_file(self, name: str) -> str:
        """Returns the path of the reject file that a shard's record names.

        Raises:
            OtherDatasetError: no reject file of ours has such a name.
        """
        return f"{self.root}/rejects/{self._checked(name, _REJECTS)}"

    @property
    def all_matches(self) -> str:
        """Returns the folder of the vectors found in the base for each split; it exists until the commit."""
        return f"{self.root}/matches"

    def matches(self, split_id: str) -> str:
        return f"{self.all_matches}/part-{self._checked(split_id, _SPLIT)}.parquet"

    @property
    def matches_done(self) -> str:
        return f"{self.all_matches}/_DONE"

    def name(self, path: str) -> str:
        """Returns a path of this dataset relative to its root."""
        return path.removeprefix(f"{self.root}/")

    @property
    def ledger(self) -> str:
        return f"{self.root}/ledger"

    def ledger_file(self, attempt: str, number: int) -> str:
        return f"{self.ledger}/{attempt}-{number:05d}.parquet"

    def attempt(self, attempt: str) -> str:
        return f"{self.ledger}/{attempt}.json"

    @property
    def manifest(self) -> str:
        return f"{self.root}/manifest.parquet"

    @property
    def summary(self) -> str:
        return f"{self.root}/summary.json"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def all_changes(self) -> str:
        """Returns the folder with a folder of changes for each dataset that was compared with this one."""
        return f"{self.root}/changes"

    def changes(self, since: str) -> ChangesLayout:
        """Returns the paths of the changes since the dataset of a name.

        Raises:
            OtherDatasetError: no dataset of ours has such a name.
        """
        return ChangesLayout(f"{self.all_changes}/{self._checked(since, _NAME)}")

    def folders_of(self, names: Iterable[str]) -> list[str]:
        """Returns the folders that a dataset makes, inner ones first.

        Args:
            names: its files, relative to the root: their folders are among those of changes.
        """
        compared = sorted({name.rpartition("/")[0] for name in names if name.startswith("changes/")})
        inner = [f"{self.root}/{folder}" for folder in compared]
        outer = [self.all_changes, self.data, f"{self.root}/rejects", self.all_matches, self.ledger]
        return [*inner, *outer, self.root]

    def below(self, name: str) -> str:
        """Returns the path of a name that is relative to the root."""
        return f"{self.root}/{name}"

    @staticmethod
    def is_ours(name: str) -> bool:
        """Tells whether a dataset has a file of this name, relative to its root; all others are foreign."""
        half = _HALF_WRITTEN.fullmatch(name)
        return _OURS.fullmatch((half[1] or "") + half[2] if half else name) is not None

    def _checked(self, name: str, pattern: re.Pattern[str]) -> str:
        if not isinstance(name, str) or not pattern.fullmatch(name):
            raise OtherDatasetError(
                "names a file that no dataset of ours has", self.root, repr(name), "don't use this dataset"
            )
        return name
