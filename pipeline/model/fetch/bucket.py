"""Fetches a model's folder from object storage, once for each node, into a cache with a bound.

A cached folder is named by a digest of its files' names, sizes and versions, so another content is another
folder. The driver finds the digest and pins it: a process that has the folder in its cache then asks storage
nothing. Whether the bytes are the driver's is told by the digests of weights and tokenizer, as for any model.
"""

import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.errors import ModelError, ReplacedError, StorageError
from pipeline.model.fetch.names import ELSEWHERE
from pipeline.storage import ObjectInfo, Storage

FOLDER, MOST_BYTES = "EMBED_MODEL_CACHE", "EMBED_MODEL_CACHE_BYTES"
"""The environment's variables for the cache's folder, and for the most bytes in it."""
DEFAULT_MOST_BYTES = 20_000_000_000
IN_USE_SECONDS = 3600
"""A model that was asked for so recently is never dropped: a process may still have to open its files."""
SUBFOLDER = re.compile(r"[0-9]_.*")
"""The subfolders that sentence-transformers makes, one for each module."""
PART_BYTES = 16 << 20


def fetch(url: str, options: Options, pinned: str | None, files: Sequence[str]) -> tuple[Path, str]:
    """Returns the folder of a model on this node, and its digest.

    Args:
        pinned: the digest that the driver found; None in the driver.
        files: patterns of the files to fetch.

    Raises:
        MissingError: nothing is there.
        ModelError: no model is there, or another one than the driver's, or the cache can't be written.
        StorageError: storage failed.
    """
    cache = cache_folder()
    if pinned and _used(cache / pinned):
        return cache / pinned, pinned
    where = storage.connect(url, options)
    found = _listed(where, url.rstrip("/"), files)
    digest = _digest(found)
    if pinned and digest != pinned:
        raise ModelError("has changed since the driver looked", url, hint="run again")
    try:
        with _only_process(cache, digest):
            if not _used(cache / digest):
                telemetry.event("fetching the model", url=url, files=len(found))
                _copy(where, found, cache / digest)
                _drop_others(cache, cache / digest)
    except OSError as error:
        hint = f"set {FOLDER} to a folder that has room and can be written"
        raise ModelError("can't be cached on this node", str(cache), str(error), hint) from None
    return cache / digest, digest


def cache_folder() -> Path:
    """Returns the folder that this node caches models in."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(FOLDER) or f"{caches}/albert-embed/models").expanduser()


def _listed(where: Storage, url: str, files: Sequence[str]) -> dict[str, ObjectInfo]:
    """Returns the files to fetch, by their names relative to the folder, in order."""
    found = where.list_files(url)
    for folder in filter(SUBFOLDER.fullmatch, where.list_folders(url)):
        inside = where.list_files(f"{url}/{folder}")
        found |= {f"{folder}/{name}": info for name, info in inside.items()}
    if not found:
        where.glob(url)  # says whether it is the bucket that is missing
    wanted = {name: found[name] for name in sorted(found) if _matches(name, files)}
    if not any(name.rpartition("/")[2] == "config.json" for name in wanted):
        raise ModelError(
            "no model is here: it would have a config.json",
            url,
            ", ".join(sorted(found)),
            "name the folder that has it, and check model.options",
        )
    return wanted


def _matches(name: str, files: Sequence[str]) -> bool:
    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return among(files) and not among(ELSEWHERE)


def _digest(found: dict[str, ObjectInfo]) -> str:
    lines = "".join(f"{name}\0{info.size}\0{info.version}\n" for name, info in found.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


@contextmanager
def _only_process(cache: Path, digest: str) -> Iterator[None]:
    """Keeps all other processes of this node from fetching the same model meanwhile."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / f".{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(where: Storage, found: dict[str, ObjectInfo], folder: Path) -> None:
    """Fetches the files into a folder, which appears only when it has them all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    for name, info in found.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        _copy_file(where, info, part / name)
    part.rename(folder)


def _copy_file(where: Storage, info: ObjectInfo, path: Path) -> None:
    try:
        with where.open(info.path, info) as source, path.open("wb") as target:
            while data := source.read(PART_BYTES):
                target.write(data)
    except ReplacedError as error:
        raise StorageError("was replaced while it was fetched", info.path, hint="run again") from error
    size = path.stat().st_size
    if size != info.size:
        raise StorageError("was not fetched whole", info.path, f"{size} of {info.size} bytes", "run again")


def _used(folder: Path) -> bool:
    """Tells whether the cache has a folder, and notes that it is in use."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def _drop_others(cache: Path, kept: Path) -> None:
    """Drops the models that were in use longest ago, until the rest is small enough."""
    most = _most_bytes()
    folders = [each for each in cache.iterdir() if each.is_dir() and not each.name.startswith(".")]
    newest_first = sorted(folders, key=lambda each: (each == kept, each.stat().st_mtime), reverse=True)
    held = 0
    for folder in newest_first:
        held += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if held > most and folder != kept and time.time() - folder.stat().st_mtime > IN_USE_SECONDS:
            telemetry.event("dropping a model from the cache", folder=folder)
            gone = folder.with_name(f".{folder.name}.gone")
            folder.rename(gone)  # at once, so that nobody finds half of it
            shutil.rmtree(gone, ignore_errors=True)


def _most_bytes() -> int:
    given = os.environ.get(MOST_BYTES) or str(DEFAULT_MOST_BYTES)
    if not given.isdecimal():
        raise ModelError("is not a number of bytes", MOST_BYTES, repr(given), "write, say, 20000000000")
    return int(given)
