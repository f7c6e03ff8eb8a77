"""Recognizes tables of Delta Lake, Iceberg and Hudi, whose data files also hold deleted and replaced rows.

A table's folder is looked for where the pattern found files, from each file's folder up to a few folders
above the pattern's root. Cost: nothing if the listing has passed over a table's log; else three requests for
each of a bounded number of folders.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline import storage
from pipeline.config.location import protocol_of
from pipeline.config.source import FORMATS, ICEBERG_METADATA, Source
from pipeline.errors import ConfigError, DeniedError, MissingError
from pipeline.source.tables import delta

LOGS = {delta.LOG: "Delta", ".hoodie": "Hudi"}
"""The folder in which a table keeps its log, and the kind of table."""
ICEBERG = ("Iceberg", "metadata", ICEBERG_METADATA)
"""The kind of table, the folder of its metadata, and what its snapshots' names have in them."""
MOST_FOLDERS = 64
ABOVE = 4
"""How many folders above a pattern's root may be the table's: partitions, and the `data` of Iceberg."""
THREADS = 16


def refuse_tables(name: str, source: Source, found: storage.Listing) -> None:
    """Refuses a source that reads the data files of a table.

    Raises:
        ConfigError: it does, so it would embed rows that the table does not have.
    """
    if source.format != "parquet":
        return  # no table keeps its rows in other formats that can be read here
    paths = [info.path for info in found.files]
    told = next(_told(source, paths, found.passed_over), None) or _looked_up(source, paths)
    if told is None:
        return
    kind, folder = told
    raise ConfigError(
        f"is {'an' if kind[0] in 'AEIOU' else 'a'} {kind} table: its files also hold rows that were deleted "
        "or replaced",
        f"source.{name}: {folder}",
        hint=_what_to_do(kind, folder),
    )


def _what_to_do(kind: str, folder: str) -> str:
    if kind.lower() in FORMATS:
        return f"set format: {kind.lower()} and path: {folder}"
    return (
        "write the rows of the version that you want as plain Parquet, with an engine that reads "
        f"{kind}, and embed those"
    )


def _told(source: Source, paths: Sequence[str], passed_over: storage.PassedOver) -> Iterator[tuple[str, str]]:
    """Yields the kind and the folder of the tables that the listing itself shows."""
    full = storage.connect(source.path, source.options).full
    tables = [
        (LOGS[last], full(folder))
        for folder, _, last in (path.rpartition("/") for path in passed_over)
        if last in LOGS
    ]
    kind, metadata, snapshot = ICEBERG
    for path in paths:
        folder, _, file = path.rpartition("/")
        if snapshot in file and folder.endswith(f"/{metadata}"):
            tables.append((kind, folder.removesuffix(f"/{metadata}")))
    for kind, folder in tables:
        if any(path.startswith(f"{folder}/") for path in paths):
            yield kind, folder


def _looked_up(source: Source, paths: Sequence[str]) -> tuple[str, str] | None:
    """Returns the kind and the folder of a table that storage shows when it is asked."""
    store = storage.connect(source.path, source.options)
    folders = _candidates(store.root(source.path), paths)
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = list(pool.map(partial(table_in, store), folders))
    found = zip(kinds, folders, strict=True)
    return next(((kind, folder) for kind, folder in found if kind), None)


def _candidates(root: str, paths: Sequence[str]) -> list[str]:
    """Returns the folders that may be a table's, the likeliest first: a partition's folder hardly is."""
    below = {root}
    for folder in {path.rpartition("/")[0] for path in paths}:
        while folder not in below and folder.startswith(f"{root}/"):
            below.add(folder)
            folder = folder.rpartition("/")[0]  # noqa: PLW2901  (up to the root)
    likely = sorted(below, key=lambda each: ("=" in each.removeprefix(root), each.count("/"), each))
    return [*likely[:MOST_FOLDERS], *_above(root)]


def _above(root: str) -> list[str]:
    """Returns the folders above a root, the nearest first; a Hub's repository has none."""
    above: list[str] = []
    while protocol_of(root) != "hf" and len(above) < ABOVE and "/" in root.removeprefix("/"):
        root = root.rpartition("/")[0]
        if root.endswith("/"):  # the slashes of a protocol
            break
        above.append(root)
    return above


def table_in(store: storage.Storage, folder: str) -> str | None:
    """Returns the kind of the table in a folder; None if it holds none, or may not be looked at."""
    kind, metadata, snapshot = ICEBERG
    try:
        for log, told in LOGS.items():
            if store.exists(f"{folder}/{log}"):
                return told
        if any(snapshot in name for name in store.list_files(f"{folder}/{metadata}")):
            return kind
    except (DeniedError, MissingError):
        return None
    return None
