"""Reads and claims a dataset: its identity, its plan, its shards and their records.

A shard's name is its identity, and its existence is its commit: a shard that exists is complete and final.
LIST is the truth. The ledger only saves reading footers; nothing is lost if it is lost.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parsing, storage
from pipeline.config.location import Options
from pipeline.config.sections import Config
from pipeline.dataset import shard_records
from pipeline.dataset.attempts import parse_attempt
from pipeline.dataset.claim import Claim, begin_removal, end_removal, held
from pipeline.dataset.field_ids import field_ids, with_field_ids
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import ShardRecord, read_records
from pipeline.errors import (
    ExistsError,
    MissingError,
    OtherDatasetError,
)
from pipeline.humanize import first_few
from pipeline.plan.plan import FieldIds, Plan, columns_told

LARGE_PLAN_BYTES = 64 << 20
"""The approximate size from which a plan is uploaded in parts."""


class Dataset:
    """A dataset at a path, existing or not yet."""

    def __init__(self, root: str, options: Options | None = None) -> None:
        self.layout = Layout(root)
        self.storage = storage.connect(root, options)

    @classmethod
    def of(cls, config: Config) -> Self:
        """Returns the dataset that a config writes."""
        return cls(config.output.path, config.output.options)

    def refuse_unconditional(self, live: bool = True) -> None:
        """Refuses a storage on which writers of one dataset could undo each other's work.

        Args:
            live: also try a conditional write, unless the dataset is complete.

        Raises:
            ConfigError: the storage has no conditional replacement, or ignores a condition.
        """
        if not self.storage.conditional:
            raise storage.no_conditional_writes(self.layout.root)
        if live and not self.complete():
            self.storage.prove(self.layout.root)

    def identity(self) -> Identity | None:
        """Returns the identity of the dataset; None while it is unclaimed."""
        found = self._claim()
        return found.identity() if found else None

    def refuse_other(self, identity: Identity) -> bool:
        """Returns whether the dataset exists already with this identity.

        Raises:
            OtherDatasetError: it exists with another identity; every field that differs is named.
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
        """Reads dataset.json.

        Raises:
            MissingError: there is none.
            DamagedError: it is not a JSON object.
        """
        return Claim.from_bytes(self.storage.read(self.layout.identity), self.layout.identity)

    def _claim(self) -> Claim | None:
        try:
            return self.claim_file()
        except MissingError:
            return None

    def base(self) -> str | None:
        """Returns the path of the dataset whose vectors this one may reuse (`Claim.base`)."""
        return self.claim_file().base()

    def claim(self, identity: Identity, config: Config, base: str | None = None) -> bool:
        """Claims the dataset for this identity, or checks that it has this identity already.

        Returns:
            True if the dataset was unclaimed until now.

        Raises:
            OtherDatasetError: it has another identity.
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
        """Returns the token of the dataset's claim; checks that the dataset is still the expected one.

        Args:
            dataset_digest: the digest that it must have.  claim: the token that it must have, if any.

        Raises:
            OtherDatasetError: it has another digest.
            StoppedError: it was removed, or is being removed; it may have been made again since.
        """
        return held(self._claim(), self.layout.root, dataset_digest, claim)

    def claimed(self) -> str | None:
        """Returns the token of the dataset's claim, unchecked; None if it is unclaimed or being removed."""
        found = self._claim()
        return None if found is None or found.being_removed else found.token

    def begin_removal(self) -> bool:
        """Marks the dataset as being removed; returns False if somebody has just changed dataset.json."""
        return begin_removal(self.storage, self.layout.identity)

    def end_removal(self) -> bool:
        """Removes the mark of `begin_removal`; returns the same."""
        return end_removal(self.storage, self.layout.identity)

    def plan_bytes(self) -> bytes | None:
        """Returns the bytes of the frozen plan; None if there is none yet."""
        try:
            return self.storage.read(self.layout.plan)
        except MissingError:
            return None

    def plan(self) -> Plan | None:
        """Returns the frozen plan; None if there is none yet.

        Raises:
            DamagedError: it can't be read.
        """
        found = self.plan_bytes()
        return None if found is None else Plan.from_bytes(found, self.layout.plan)

    def required_plan(self) -> Plan:
        """Returns the frozen plan of a dataset that must have one.

        Raises:
            DamagedError: there is none, or it can't be read.
        """
        return Plan.from_bytes(self.plan_bytes() or b"", self.layout.plan)

    def field_ids(self) -> FieldIds:
        """Returns the field ids of the shards and of earlier datasets, from dataset.json and the plan.

        Raises:
            MissingError: there is no plan yet, or no dataset.json.
            DamagedError: one of them can't be read.
        """
        return self._schema_and_ids()[1]

    def shard_schema(self) -> pa.Schema:
        """Returns the schema of every shard, with its field ids; reads and raises the same as `field_ids`."""
        return with_field_ids(*self._schema_and_ids())

    def _schema_and_ids(self) -> tuple[pa.Schema, FieldIds]:
        identity, path = self.claim_file().identity(), self.layout.plan
        with self.storage.open(path, self.storage.info(path)) as file, parsing.damage(path):
            columns, known = columns_told(pq.read_metadata(file).metadata or {})
            found = identity.shard_schema(columns)
            return found, field_ids(found, known)

    def freeze(self, plan: bytes) -> bytes:
        """Freezes the plan; returns the bytes of the plan that holds, ours or a rival's."""
        try:
            self.storage.put_if_absent(self.layout.plan, plan)
        except ExistsError:
            return self.storage.read(self.layout.plan)
        # Not every storage checks the condition for an upload in parts: both writers may think that they won.
        return self.storage.read(self.layout.plan) if len(plan) > LARGE_PLAN_BYTES else plan

    def complete(self) -> bool:
        """Tells whether the dataset is committed, so that nothing in it changes any more."""
        return self.storage.exists(self.layout.success)

    def shards(self) -> dict[str, storage.ObjectInfo]:
        """Lists the existing shards, by split id.

        Raises:
            OtherDatasetError: a file among them is not a shard.
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
        """Returns the record of each shard, from the ledger if it is there, else from its footer."""
        return shard_records.read_all(self.storage, self.layout, shards)

    def manifest(self) -> pa.Table:
        """Returns the record of each shard (`RECORD`) of a complete dataset.

        Raises:
            DamagedError: it can't be read.
        """
        return read_records(self.storage.read(self.layout.manifest), self.layout.manifest)

    def summary(self) -> dict[str, Any]:
        """Reads the summary.json of a complete dataset.

        Raises:
            MissingError: there is none.
            DamagedError: it is not a JSON object.
        """
        return parsing.json_object(self.storage.read(self.layout.summary), self.layout.summary)

    def attempts(self, ledger: Mapping[str, storage.ObjectInfo] | None = None) -> list[dict[str, Any]]:
        """Returns the record of each attempt, oldest first.

        Args:
            ledger: the files of the folder, if it was listed already.
        """
        files = self.storage.list_files(self.layout.ledger) if ledger is None else ledger
        names = sorted(name for name in files if name.endswith(".json"))
        paths = [files[name].path for name in names]
        return [parse_attempt(self.storage.read(path), path) for path in paths]

    def attempt_names(self) -> list[str]:
        """Returns the names of all attempts at this dataset."""
        names = self.storage.list_files(self.layout.ledger)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def footer(self, info: storage.ObjectInfo) -> ShardRecord:
        """Returns the record in a shard's footer; its columns digest is computed from the file itself."""
        return shard_records.read_record(self.storage, info)

    def columns(self, info: storage.ObjectInfo) -> pa.Schema:
        """Returns the schema of a shard."""
        return shard_records.read_columns(self.storage, info)

    def read_table(self, path: str) -> pa.Table:
        """Reads all of a Parquet file of ours.

        Raises:
            DamagedError: it is not a Parquet file, or has a column of an extension type.
        """
        return parsing.opened(self.storage.read(path), path).read()
