"""Chooses the base of a dataset: the one that the config names, or the one in its dataset.json."""

from pipeline import telemetry
from pipeline.config.location import Options, protocol_of
from pipeline.config.sections import Config
from pipeline.dataset.damage import unless_damaged
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.errors import ConfigError
from pipeline.nightly import Series
from pipeline.nightly.base import NOTHING, Base, Digests
from pipeline.nightly.layout import SeriesLayout


def resolve_base(config: Config) -> str | None:
    """Returns the path of the base that a config names; None if nothing is reused.

    Raises:
        ConfigError: it is not a complete dataset.
    """
    name = config.reuse.base
    if name is None:
        return None
    folder, _, own = config.output.path.rpartition("/")
    if name == "latest":
        latest = Series(folder, config.output.options).latest()
        beside = latest.dataset if latest and latest.dataset != own else None
        return SeriesLayout(folder).dataset(beside).root if beside else None
    path = name.rstrip("/") if "/" in name else SeriesLayout(folder).dataset(name).root
    if path == config.output.path:
        raise ConfigError("a dataset can't be its own base", "reuse.base", name, hint="name another")
    if protocol_of(path) != protocol_of(config.output.path):
        hint = "name one beside the output, or leave reuse.base out"
        raise ConfigError("is on another storage than the output", "reuse.base", path, hint)
    if not Dataset(path, config.output.options).complete():
        hint = "name one that has data/_SUCCESS"
        raise ConfigError("is not a complete dataset", "reuse.base", path, hint)
    return path


def recorded_base(dataset: Dataset, identity: Identity, options: Options) -> Base | None:
    """Returns the base that `dataset.json` names, if its vectors are of the same kind."""
    path = dataset.base()
    return open_base(path, identity, options) if path else None


def open_base(path: str, identity: Identity, options: Options) -> Base | None:
    """Returns the base at a path, if it can be read and its vectors are of the same kind."""
    return unless_damaged(NOTHING, path, lambda: _usable(path, identity, options))


def _usable(path: str, identity: Identity, options: Options) -> Base | None:
    found = Base(path, options).identity
    if found.vector_digest != identity.vector_digest:
        telemetry.event(NOTHING, base=path, reason="; ".join(identity.differences(found)[:3]))
        return None
    base = Base(path, options, Digests.of(found))
    return base if base.manifest is not None else None
