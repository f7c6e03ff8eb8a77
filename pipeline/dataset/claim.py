"""Reads and changes dataset.json: a dataset's identity, its claim, its base, and the mark of its removal."""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline import parsing, schema
from pipeline.config.location import check_url
from pipeline.dataset.identity import Identity
from pipeline.errors import MissingError, OtherDatasetError, ReplacedError, StoppedError
from pipeline.sanitize import redact
from pipeline.storage import Storage

BEING_REMOVED = "being_removed"
"""The field with which a prune keeps all runs away."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a dataset.json, written by any version of this program.

    where: its path, for errors.
    """

    content: Mapping[str, Any]
    where: str

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Reads a dataset.json.

        Raises:
            DamagedError: it is not a JSON object.
        """
        return cls(parsing.json_object(data, where), where)

    @property
    def is_ours(self) -> bool:
        """Tells whether this version of the program wrote it; other programs have a dataset.json, too."""
        return (
            "dataset_digest" in self.content and self.content.get("format_version") == schema.FORMAT_VERSION
        )

    @property
    def token(self) -> str:
        """Distinguishes this dataset from an earlier one at the same path that was removed."""
        return str(self.content.get("claim", ""))

    @property
    def being_removed(self) -> bool:
        """Tells whether a prune has marked the dataset for removal."""
        return bool(self.content.get(BEING_REMOVED))

    @property
    def config(self) -> Mapping[str, Any]:
        """Returns the config of the first driver; empty if the file has none."""
        return self.content.get("config") or {}

    @property
    def base_name(self) -> str | None:
        """Returns the last part of the base's path; None without a base, or if its value is not a path."""
        base = self.content.get("base")
        return base.rstrip("/").rsplit("/", 1)[-1] if isinstance(base, str) else None

    def base(self) -> str | None:
        """Returns the path of the dataset whose vectors this one may reuse; the first driver chose it.

        Raises:
            OtherDatasetError: no driver of ours can have written such a path or URL.
        """
        found = self.content.get("base")
        try:
            if found and not str(found).isprintable():
                raise ValueError("it has characters that can't be shown")
            return check_url(str(found)) if found else None
        except ValueError as error:
            hint = "put back the dataset.json that the run wrote"
            raise OtherDatasetError(f"base: {error}", self.where, redact(repr(found)), hint) from None

    def digests(self) -> tuple[str, str]:
        """Returns the dataset digest and the vector digest.

        Raises:
            KeyError: it lacks one.
        """
        return self.content["dataset_digest"], self.content["vector_digest"]

    def identity(self) -> Identity:
        """Returns the identity of the dataset.

        Raises:
            OtherDatasetError: it is not of this version of the format.
            DamagedError: it is not a dataset.json.
        """
        return Identity.of_content(self.content, self.where)


def held(found: Claim | None, root: str, dataset_digest: str, token: str | None = None) -> str:
    """Returns the token of a dataset's claim, after checking that the dataset is still the expected one.

    Args:
        found: the dataset.json found at `root`.
        dataset_digest: the digest that it must have.  token: the token that it must have, if any.

    Raises:
        OtherDatasetError: the dataset has another digest.
        StoppedError: it was removed, or is being removed; it may have been made again since.
    """
    if found is None:
        raise StoppedError("was removed while a run was at work at it", root, hint="run again")
    if found.being_removed:
        hint = "run again when that has ended; if it was stopped, prune again, or remove what is left"
        raise StoppedError("is being removed", root, hint=hint)
    if found.content.get("dataset_digest") != dataset_digest:
        raise OtherDatasetError("was claimed by another config", root, hint="use a new output.path")
    if token is not None and found.token != token:
        raise StoppedError("was removed and made again while a run was at work", root, hint="run again")
    return found.token


def begin_removal(storage: Storage, path: str) -> bool:
    """Marks the dataset in dataset.json as being removed, so that no run begins or commits here.

    Returns:
        False if another process has just changed the file.
    """
    return _retold(storage, path, lambda content: content | {BEING_REMOVED: secrets.token_hex(8)})


def end_removal(storage: Storage, path: str) -> bool:
    """Removes the mark of `begin_removal`; returns the same."""

    def without(content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name != BEING_REMOVED}

    return _retold(storage, path, without)


def _retold(storage: Storage, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Replaces dataset.json by the result of `change`, if its version is still the one that was read."""
    version, data = storage.version(path), b""
    if version is None:
        return False
    try:
        content = change(parsing.json_object(storage.read(path), path))
        data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
        storage.replace(path, data, version)
    except ReplacedError:  # by a rival; or by us: the answer got lost, and the retry was refused
        return storage.exists(path) and storage.read(path) == data
    except MissingError:
        return False
    return True
