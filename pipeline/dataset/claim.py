"""dataset.json: whose a dataset is, under which claim, with which base, and whether it is being removed."""

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
"""The field by which a prune keeps everybody else away."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A dataset.json as it stands, whichever version of this program wrote it.

    where: its path, for errors.
    """

    content: Mapping[str, Any]
    where: str

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Reads a dataset.json.

        Raises:
            DamagedError: it is no JSON object.
        """
        return cls(parsing.json_object(data, where), where)

    @property
    def is_ours(self) -> bool:
        """Whether this version of the program wrote it; others, too, call their files dataset.json."""
        return (
            "dataset_digest" in self.content and self.content.get("format_version") == schema.FORMAT_VERSION
        )

    @property
    def token(self) -> str:
        """Tells this dataset from one that stood here before, was removed, and was made anew."""
        return str(self.content.get("claim", ""))

    @property
    def being_removed(self) -> bool:
        """Whether a prune has said that it removes the dataset."""
        return bool(self.content.get(BEING_REMOVED))

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the first driver; empty where none is told."""
        return self.content.get("config") or {}

    @property
    def base_name(self) -> str | None:
        """The last part of the base's path; None where there is no base, or none that makes sense."""
        base = self.content.get("base")
        return base.rstrip("/").rsplit("/", 1)[-1] if isinstance(base, str) else None

    def base(self) -> str | None:
        """The path of the dataset whose vectors this one may reuse: what its first driver chose.

        Raises:
            OtherDatasetError: it can't be a path or URL that a driver of ours wrote.
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
        """The dataset digest and the vector digest that it tells.

        Raises:
            KeyError: it lacks one.
        """
        return self.content["dataset_digest"], self.content["vector_digest"]

    def identity(self) -> Identity:
        """Whose dataset it is.

        Raises:
            OtherDatasetError: it is not of this version of the format.
            DamagedError: it is no dataset.json.
        """
        return Identity.of_content(self.content, self.where)


def held(found: Claim | None, root: str, dataset_digest: str, token: str | None = None) -> str:
    """The token of the claim that a dataset stands under.

    Args:
        found: what stands at `root`.
        dataset_digest: whose it must be.  token: the one that it must be, if any.

    Raises:
        OtherDatasetError: it is another's.
        StoppedError: it was removed, or is being removed; it may be there anew.
    """
    if found is None:
        raise StoppedError("was removed while a run was at work at it", root, hint="run again")
    if found.being_removed:
        hint = "run again when that has ended; if it was stopped, prune again, or remove what is left"
        raise StoppedError("is being removed", root, hint=hint)
    if found.content.get("dataset_digest") != dataset_digest:
        raise OtherDatasetError("was claimed by another config", root, hint="use a new output.path")
    if token is not None and found.token != token:
        raise StoppedError("was removed and made anew while a run was at work", root, hint="run again")
    return found.token


def begin_removal(storage: Storage, path: str) -> bool:
    """Say in dataset.json that the dataset is being removed, so that no run begins or commits here.

    Returns:
        False where somebody else has just changed it.
    """
    return _retold(storage, path, lambda content: content | {BEING_REMOVED: secrets.token_hex(8)})


def end_removal(storage: Storage, path: str) -> bool:
    """Take back what `begin_removal` said; as there."""

    def without(content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name != BEING_REMOVED}

    return _retold(storage, path, without)


def _retold(storage: Storage, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Replace dataset.json by what `change` makes of it, over the version that it has seen."""
    version, data = storage.version(path), b""
    if version is None:
        return False
    try:
        content = change(parsing.json_object(storage.read(path), path))
        data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
        storage.replace(path, data, version)
    except ReplacedError:  # by a rival; or by us, the answer lost, and the repetition refused
        return storage.exists(path) and storage.read(path) == data
    except MissingError:
        return False
    return True
