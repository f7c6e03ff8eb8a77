"""Tables as sources: Delta Lake and Iceberg. A snapshot names the files; nothing else is listed.

The planner takes the live data files of one snapshot, with the rows that are deleted in each, and plans them
like other Parquet files (`formats.table_files`). A Parquet source that reaches into a table is refused.
"""

import os
from collections.abc import Iterable

from pipeline import storage
from pipeline.config.location import protocol_of
from pipeline.config.source import Source
from pipeline.errors import DeniedError, MissingError
from pipeline.source.tables import delta, iceberg
from pipeline.source.tables.refusal import refuse_tables, table_in
from pipeline.source.tables.snapshot import DataFile, Snapshot

__all__ = ["DataFile", "Snapshot", "read_snapshot", "refuse_tables", "table_in"]

KINDS = {"delta": delta.read_snapshot, "iceberg": iceberg.read_snapshot}


def read_snapshot(name: str, source: Source) -> Snapshot:
    """Returns the live files of the version that a source names, or of the newest.

    Raises:
        ConfigError: its library is not installed, or it is a table or a version that can't be read.
        MissingError: there is no table, or no file in it.
        DeniedError: a file leads out of the table.
        StorageError: storage failed.
    """
    assert source.table_folder is not None
    store = storage.connect(source.path, source.options)
    folder = store.full(store.strip(source.table_folder))
    found = KINDS[source.format](f"source.{name}: {folder}", source, folder)
    if not found.files:
        hint = "run again when it has rows, or name another version"
        raise MissingError("has no rows", folder, f"version {found.version}", hint)
    if protocol_of(folder) == "file" and source.options.outside_links != "follow":
        _refuse_leaving(store.strip(folder), [store.strip(file.path) for file in found.files])
    return found


def _refuse_leaving(folder: str, paths: Iterable[str]) -> None:
    """Refuses links out of a local table: whoever writes there could let this program read other files."""
    inside = os.path.realpath(folder)
    for path in paths:
        if not os.path.realpath(path).startswith(f"{inside}/"):
            raise DeniedError(
                "is a link out of its source",
                path,
                f"it leads to {os.path.realpath(path)}",
                "remove it; or, if everyone who can write there may be trusted, set the source's "
                "options.outside_links to follow",
            )
