"""A dataset: who it belongs to, which shards it has, what is known of them.

The name is the identity, existence is the commit: a shard that stands under its name is whole and final.
LIST is the truth; the ledger saves reading footers, and nothing is lost with it.
"""

import dataclasses
import datetime
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parsing, schema, storage, telemetry
from pipeline.config.location import Options, check_url
from pipeline.config.sections import Config
from pipeline.dataset.identity import Identity
from pipeline.dataset.layout import Layout
from pipeline.dataset.record import ShardRecord, read_records, to_table
from pipeline.errors import (
    DamagedError,
    ExistsError,
    MissingError,
    OtherDatasetError,
    ReplacedError,
    StoppedError,
)
from pipeline.humanize import first_few
from pipeline.sanitize import redact

BEING_REMOVED = "being_removed"
"""The field of dataset.json by which a prune keeps everybody else away."""
ATTEMPT = {
    "attempt": str,
    "host": str,
    "started": str,
    "ended": str,
    "code": int,
    "reason": str,
    "summary": dict,
}
"""What an attempt leaves of itself: the type of each, where it is there."""
FOOTER_THREADS = 32


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
            raise storage.unconditional(self.layout.root)
        if live and not self.complete():
            self.storage.prove(self.layout.root)

    def identity(self) -> Identity | None:
        """Whose dataset this is; None while it is nobody's."""
        try:
            data = self.storage.read(self.layout.identity)
        except MissingError:
            return None
        return Identity.from_bytes(data, self.layout.identity)

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

    def base(self) -> str | None:
        """The path of the dataset whose vectors this one may reuse: what its first driver chose.

        Raises:
            OtherDatasetError: it can't be a path or URL that a driver of ours wrote.
        """
        found = parsing.json_object(self.storage.read(self.layout.identity), self.layout.identity).get("base")
        try:
            if found and not str(found).isprintable():
                raise ValueError("it has characters that can't be shown")
            return check_url(str(found)) if found else None
        except ValueError as error:
            hint = "put back the dataset.json that the run wrote"
            got = redact(repr(found))
            raise OtherDatasetError(f"base: {error}", self.layout.identity, got, hint) from None

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
        root = self.layout.root
        try:
            content = parsing.json_object(self.storage.read(self.layout.identity), self.layout.identity)
        except MissingError:
            raise StoppedError("was removed while a run was at work at it", root, hint="run again") from None
        if content.get(BEING_REMOVED):
            hint = "run again when that has ended; if it was stopped, prune again, or remove what is left"
            raise StoppedError("is being removed", root, hint=hint)
        if content.get("dataset_digest") != dataset_digest:
            raise OtherDatasetError("was claimed by another config", root, hint="use a new output.path")
        found = str(content.get("claim", ""))
        if claim is not None and found != claim:
            raise StoppedError("was removed and made anew while a run was at work", root, hint="run again")
        return found

    def claimed(self) -> str | None:
        """The claim that the dataset stands under, whoever's it is; None where nobody's, or being removed."""
        try:
            content = parsing.json_object(self.storage.read(self.layout.identity), self.layout.identity)
        except MissingError:
            return None
        return None if content.get(BEING_REMOVED) else str(content.get("claim", ""))

    def begin_removal(self) -> bool:
        """Say in dataset.json that the dataset is being removed, so that no run begins or commits here.

        Returns:
            False where somebody else has just changed it.
        """
        return self._retold(lambda content: content | {BEING_REMOVED: secrets.token_hex(8)})

    def end_removal(self) -> bool:
        """Take back what `begin_removal` said; as there."""
        return self._retold(
            lambda content: {name: value for name, value in content.items() if name != BEING_REMOVED}
        )

    def _retold(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
        """Replace dataset.json by what `change` makes of it, over the version that it has seen."""
        path = self.layout.identity
        version, data = self.storage.version(path), b""
        if version is None:
            return False
        try:
            content = change(parsing.json_object(self.storage.read(path), path))
            data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
            self.storage.replace(path, data, version)
        except ReplacedError:  # by a rival; or by us, the answer lost, and the repetition refused
            return self.storage.exists(path) and self.storage.read(path) == data
        except MissingError:
            return False
        return True

    def plan(self) -> bytes | None:
        """The frozen plan."""
        try:
            return self.storage.read(self.layout.plan)
        except MissingError:
            return None

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
        for name, info in self.storage.folder(self.layout.data, Layout.shard_edges()).items():
            if name == "_SUCCESS":
                continue
            split_id = Layout.split_of_shard(name)
            if split_id is None:
                raise OtherDatasetError("does not belong here", info.path, hint="move it away")
            shards[split_id] = info
        return shards

    def records(self, shards: Mapping[str, storage.ObjectInfo]) -> pa.Table:
        """The record of each shard: from the ledger, and of the rest from their footers."""
        wanted = pa.array(list(shards), pa.string())
        sizes = pa.array([info.size for info in shards.values()], pa.int64())
        files = sorted(self.storage.folder(self.layout.ledger).items())
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            paths = [info.path for name, info in files if name.endswith(".parquet")]
            known = pa.concat_tables([schema.RECORD.empty_table(), *pool.map(self._told, paths)])
            # A record of another size is of a shard that was removed and made anew.
            there = pc.take(sizes, pc.index_in(known.column("split_id"), wanted))
            holds = pc.equal(there, known.column("file_bytes")).fill_null(False)
            known = known.take(_last_of_each(known.column("split_id"), pc.indices_nonzero(holds)))
            rest = pc.filter(wanted, pc.invert(pc.is_in(wanted, known.column("split_id").combine_chunks())))
            read = pool.map(lambda split_id: self.footer(shards[split_id]), rest.to_pylist())
            return pa.concat_tables([known, to_table(list(read))])

    def _told(self, path: str) -> pa.Table:
        """The records in a file of the ledger; none where it can't be read, for footers say the same."""
        try:
            return read_records(self.storage.read(path), path)
        except DamagedError as error:
            telemetry.event("a file of the ledger is passed over", reason=str(error))
            return schema.RECORD.empty_table()

    def manifest(self) -> pa.Table:
        """The record of each shard (`schema.RECORD`) of a complete dataset.

        Raises:
            DamagedError: it can't be read.
        """
        return read_records(self.storage.read(self.layout.manifest), self.layout.manifest)

    def attempts(self, ledger: Mapping[str, storage.ObjectInfo] | None = None) -> list[dict[str, Any]]:
        """What each attempt left of itself, oldest first.

        Args:
            ledger: the folder, if it was listed already.
        """
        files = self.storage.folder(self.layout.ledger) if ledger is None else ledger
        names = sorted(name for name in files if name.endswith(".json"))
        paths = [files[name].path for name in names]
        return [_attempt(self.storage.read(path), path) for path in paths]

    def attempt_names(self) -> list[str]:
        """All attempts at this dataset."""
        names = self.storage.folder(self.layout.ledger)
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def footer(self, info: storage.ObjectInfo) -> ShardRecord:
        """The record in a shard's footer; its columns are those that the file really has."""
        columns, metadata = self._footer(info)
        record = ShardRecord.from_footer(metadata, info)
        return dataclasses.replace(record, columns_digest=schema.columns_digest(columns))

    def columns(self, info: storage.ObjectInfo) -> pa.Schema:
        """The schema of a shard."""
        return self._footer(info)[0]

    def _footer(self, info: storage.ObjectInfo) -> tuple[pa.Schema, Mapping[bytes, bytes] | None]:
        with self.storage.open(info.path) as file:
            try:
                found = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:  # storage's own failures are StorageErrors here
                raise DamagedError(
                    "is damaged: a shard whose footer can't be read",
                    info.path,
                    str(error),
                    hint="remove it and run again: it is made anew",
                ) from None
        return found.schema.to_arrow_schema().remove_metadata(), found.metadata


def _attempt(data: bytes, where: str) -> dict[str, Any]:
    """What an attempt left of itself.

    Raises:
        DamagedError: no attempt of ours left that.
    """
    told = parsing.json_object(data, where)
    with parsing.damage(where):
        for name, kind in ATTEMPT.items():
            if not isinstance(told.get(name, kind()), kind):
                raise TypeError(f"{name} is {told[name]!r}")
        for name in ("started", "ended"):
            if name == "started" or name in told:
                datetime.datetime.fromisoformat(told[name])
        return told | {"attempt": told["attempt"]}


def _last_of_each(ids: pa.ChunkedArray, positions: pa.Array) -> pa.Array:
    """Of these positions the last one of each id."""
    table = pa.table({"id": ids.take(positions), "position": positions})
    return table.group_by("id").aggregate([("position", "max")]).column("position_max")
