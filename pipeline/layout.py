"""Every path inside a dataset; the only place that knows them."""

from dataclasses import dataclass


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
        return f"{self.data}/part-{split_id}.parquet"

    @staticmethod
    def split_of_shard(name: str) -> str | None:
        """The split id in the file name of a shard; None when the name is no shard's."""
        if name.startswith("part-") and name.endswith(".parquet"):
            return name.removeprefix("part-").removesuffix(".parquet")
        return None

    @property
    def success(self) -> str:
        return f"{self.data}/_SUCCESS"

    def rejects(self, split_id: str, digest: str) -> str:
        return f"{self.root}/rejects/part-{split_id}-{digest}.parquet"

    def rejects_named(self, name: str) -> str:
        """The reject file that a shard's record names."""
        return f"{self.root}/rejects/{name}"

    def name(self, path: str) -> str:
        """A path of this dataset as seen from its root."""
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
