"""Fixtures: three nights of a series, once; a copy for each test; a catalog of its own."""

import shutil
from pathlib import Path

import pytest

from tests.publish import nights


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The config of three nights whose shards have plain lists."""
    return nights.make(tmp_path_factory.mktemp("nights"), tiny, vector_list="plain")


@pytest.fixture
def series(made: Path, tmp_path: Path) -> Path:
    """A copy of the series."""
    return Path(shutil.copytree(made.parent / "series", tmp_path / "series"))


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Describes a catalog to pyiceberg, as its own environment variables do."""
    pytest.importorskip("pyiceberg")
    prefix = f"PYICEBERG_CATALOG__{nights.CATALOG.upper()}__"
    monkeypatch.setenv(f"{prefix}URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv(f"{prefix}WAREHOUSE", f"file://{tmp_path}/warehouse")
    refresh_configuration(monkeypatch)


def refresh_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pyiceberg see the environment: it reads it once for each process."""
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
