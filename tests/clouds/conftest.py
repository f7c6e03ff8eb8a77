"""Fixtures: a server of each cloud for the tests of this folder, and a place on each for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clouds.azurite_server import running_azurite
from tests.clouds.fake_gcs import keeping_conditions, running_fake_gcs
from tests.clouds.places import KINDS, SERVERS, Place, Places, places
from tests.s3.server import running_server


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("seaweed")) as url:
        yield url


@pytest.fixture(scope="session")
def abfs_url() -> Iterator[str]:
    with running_azurite() as url:
        yield url


@pytest.fixture(scope="session")
def bare_gs_url() -> Iterator[str]:
    """Yields the URL of the emulator as it is, without some of the conditions."""
    with running_fake_gcs() as url:
        yield url


@pytest.fixture(scope="session")
def gs_url(bare_gs_url: str) -> Iterator[str]:
    with keeping_conditions(bare_gs_url) as url:
        yield url


@pytest.fixture
def make_place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Places]:
    """Yields a function that makes a new place of a kind."""
    with places(request, monkeypatch, tmp_path) as make:
        yield make


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make_place: Places) -> Place:
    """Returns a place of each kind."""
    return make_place(request.param)


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, make_place: Places) -> Place:
    """Returns a place on each server, with a proxy before it that misbehaves when it is told to."""
    return make_place(request.param)
