"""A dataset: who it belongs to, which shards it has, what is known of them.

The name is the identity, existence is the commit: a shard that stands under its name is whole and final.
LIST is the truth; the ledger saves reading footers, and nothing is lost with it.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa

from pipeline import parsing, storage
from pipeline.config.location import Options
from pipeline.config.sections import Config
from pipeline.dataset import shard_records
from pipeline.dataset.attempts import parse_attempt
from pipeline.dataset.claim import Claim, begin_removal, end_removal, held
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import ShardRecord, read_records
from pipeline.errors import (
    ExistsError,
    MissingError,
    OtherDatasetError,
)
from pipeline.humanize import first_few
from pipeline.plan.plan import Plan

LARGE_PLAN_BYTES = 64 << 20
"""From about this size on storage takes a plan in parts."""


class Dataset:
    """The dataset at a path, there or not yet."""

    def __init__(self, root: str, options: Options | None = None) -> None:
        self.layout = Layout(root)
        self.storage = storage.connect(root, options)

    @classmethod
    def of(cls, config: Config) -> Self:
        """The dataset that a config writes."""
        return cls(config.output.path, config.output.options)

    def refuse_unconditional(self, live: bool = True) -> None:
        """Refuse a storage on which writers of one dataset could undo each other's work.

        Args:
            live: try it, too, unless all is written already.

        Raises:
            ConfigError: its storage has no conditional replacement, or ignores a condition.
        """
        if not self.storage.conditional:
            raise storage.no_conditional_writes(self.layout.root)
        if live and not self.complete():
            self.storage.prove(self.layout.root)

    def identity(self) -> Identity | None:
        """Whose dataset this is; None while it is nobody's."""
        found = self._claim()
        return found.identity() if found else None

    def refuse_other(self, identity: Identity) -> bool:
        """Whether the dataset is there already, as `identity`'s.

        Raises:
            OtherDatasetError: it is there as another's; every field that differs is named.
        """
        found = self.identity()
        if found is None:
            return False
        if differences := identity.differences(found):
            hint = "set output.path to a new dataset, or take the config back"
            raise OtherDatasetError(
                "was made by another config", self.layout.root, hint=hint, more=first_few(differences)
            )
        return True

    def claim_file(self) -> Claim:
        """What dataset.json says.

        Raises:
            MissingError: there is none.
            DamagedError: it is no JSON object.
        """
        return Claim.from_bytes(self.storage.read(self.layout.identity), self.layout.identity)

    def _claim(self) -> Claim | None:
        try:
            return self.claim_file()
        except MissingError:
            return None

    def base(self) -> str | None:
        """The path of the dataset whose vectors this one may reuse (`Claim.base`)."""
        return self.claim_file().base()

    def claim(self, identity: Identity, config: Config, base: str | None = None) -> bool:
        """Make the dataset this identity's, or find that it is.

        Returns:
            whether it was nobody's until now.

        Raises:
            OtherDatasetError: it is another's.
            StoppedError: it is being removed.
        """
        ours = identity.to_bytes(config, base, secrets.token_hex(8))
        try:
            self.storage.put_if_absent(self.layout.identity, ours)
        except ExistsError:
            self.refuse_other(identity)
            self.held(identity.dataset_digest)
            return False
        return True

    def held(self, dataset_digest: str, claim: str | None = None) -> str:
        """The claim that the dataset stands under.

        Args:
            dataset_digest: whose it must be.  claim: the one that it must be, if any.

        Raises:
            OtherDatasetError: it is another's.
            StoppedError: it was removed, or is being removed; it may be there anew.
        """
        return held(self._claim(), self.layout.root, dataset_digest, claim)

    def claimed(self) -> str | None:
        """The claim that the dataset stands under, whoever's it is; None where nobody's, or being removed."""
        found = self._claim()
        return None if found is None or found.being_removed else found.token

    def begin_removal(self) -> bool:
        """Say in dataset.json that the dataset is being removed; False where somebody has just changed it."""
        return begin_removal(self.storage, self.layout.identity)

    def end_removal(self) -> bool:
        """Take back what `begin_removal` said; as there."""
        return end_removal(self.storage, self.layout.identity)

    def plan_bytes(self) -> bytes | None:
        """The frozen plan, as its file."""
        try:
            return self.storage.read(self.layout.plan)
        except MissingError:
            return None

    def plan(self) -> Plan | None:
        """The frozen plan; None before there is one.

        Raises:
            DamagedError: it can't be read.
        """
        found = self.plan_bytes()
        return None if found is None else Plan.from_bytes(found, self.layout.plan)

    def required_plan(self) -> Plan:
        """The frozen plan of a dataset that must have one.

        Raises:
            DamagedError: there is none, or it can't be read.
        """
        return Plan.from_bytes(self.plan_bytes() or b"", self.layout.plan)

    def freeze(self, plan: bytes) -> bytes:
        """Freeze the plan; what comes back is the one that holds, ours or a rival's."""
        try:
            self.storage.put_if_absent(self.layout.plan, plan)
        except ExistsError:
            return self.storage.read(self.layout.plan)
        # Not every storage holds to the condition where an object comes in parts: both may think they won.
        return self.storage.read(self.layout.plan) if len(plan) > LARGE_PLAN_BYTES else plan

    def complete(self) -> bool:
        """Whether the dataset is committed: nothing in it changes any more."""
        return self.storage.exists(self.layout.success)

    def shards(self) -> dict[str, storage.ObjectInfo]:
        """The shards that are there, by split id.

        Raises:
            OtherDatasetError: a file among them is no shard.
        """
        shards = {}
        for name, info in self.storage.list_files(self.layout.data, Layout.shard_edges()).items():
            if name == "_SUCCESS":
                continue
            split_id = Layout.split_of_shard(name)
            if split_id is None:
                raise OtherDatasetError("does not belong here", info.path, hint="move it away")
            shards[split_id] = info
        return shards

    def records(self, shards: Mapping[str, storage.ObjectInfo]) -> pa.Table:
        """The record of each shard: from the ledger, and of the rest from their footers."""
        return shard_records.read_all(self.storage, self.layout, shards)

    def manifest(self) -> pa.Table:
        """The record of each shard (`RECORD`) of a complete dataset.

        Raises:
            DamagedError: it can't be read.
        """
        return read_records(self.storage.read(self.layout.manifest), self.layout.manifest)

    def summary(self) -> dict[str, Any]:
        """What summary.json says of a complete dataset.

        Raises:
            MissingError: there is none.
            DamagedError: it is no JSON object.
        """
        return parsing.json_object(self.storage.read(self.layout.summary), self.layout.summary)

    def attempts(self, ledger: Mapping[str, storage.ObjectInfo] | None = None) -> list[dict[str, Any]]:
        """What each attempt left of itself, oldest first.

        Args:
            ledger: the folder, if it was listed already.
        """
        files = self.storage.list_files(self.layout.ledger) if ledger is None else ledger
        names = sorted(name for name in files if name.endswith(".json"))
        paths = [files[name].path for name in names]
        return [parse_attempt(self.storage.read(path), path) for path in paths]

    def attempt_names(self) -> list[str]:
        """All attempts at this dataset."""
        names = self.storage.list_files(self.layout.ledger)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def footer(self, info: storage.ObjectInfo) -> ShardRecord:
        """The record in a shard's footer; its columns are those that the file really has."""
        return shard_records.read_record(self.storage, info)

    def columns(self, info: storage.ObjectInfo) -> pa.Schema:
        """The schema of a shard."""
        return shard_records.read_columns(self.storage, info)

    def read_table(self, path: str) -> pa.Table:
        """All of a Parquet file of ours.

        Raises:
            DamagedError: it is none, or has a column of an extension type.
        """
        return parsing.opened(self.storage.read(path), path).read()
