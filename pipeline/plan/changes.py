"""Finds source files that have changed since they were planned."""

from collections.abc import Mapping

from pipeline import storage
from pipeline.config.sections import Config
from pipeline.errors import MissingError
from pipeline.plan.make import list_sources
from pipeline.plan.plan import Plan
from pipeline.source.formats import file_name

CHANGED, GONE = "has changed since it was planned", "is gone since it was planned"
NEW = "is new since it was planned"


def current_versions(config: Config, planned: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Returns what `Plan.versions` would be if the sources were planned now.

    Args:
        planned: the versions of a plan. A version that still holds is returned as the plan writes it.

    Raises:
        MissingError: a source names nothing.
    """
    now = {}
    for name, info in list_sources(config):
        source = config.source[name]
        key = name, file_name(source, info)
        before = planned.get(key, info.version)
        store = storage.connect(source.path, source.options)
        same = before == info.version if source.table_folder else store.same(before, info.version)
        now[key] = before if same else info.version
    return now


def source_changes(config: Config, frozen: Plan) -> dict[str, str]:
    """Says what happened to each file that is not as it was planned: planned files first, then new ones.

    Raises:
        StorageError: the sources can't be listed, or name nothing.
    """
    planned = frozen.versions()
    now = current_versions(config, planned)
    changed = {
        key: CHANGED if key in now else GONE for key, version in planned.items() if now.get(key) != version
    }
    return {"/".join(key): what for key, what in (changed | dict.fromkeys(now.keys() - planned, NEW)).items()}


def no_longer_as_planned(config: Config, frozen: Plan) -> dict[str, str]:
    """Says what happened to each planned file that no longer has the planned version; omits new files.

    Raises:
        StorageError: the sources can't be listed, or name nothing.
    """
    return {file: what for file, what in source_changes(config, frozen).items() if what != NEW}


def moved_sources(config: Config, frozen: Plan) -> list[str]:
    """Returns the files that were added, removed or changed since the plan was frozen."""
    try:
        return sorted(source_changes(config, frozen))
    except MissingError:
        return sorted("/".join(key) for key in frozen.versions())
