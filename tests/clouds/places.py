"""Places to store objects at, one of each kind that an output may have."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage, telemetry
from pipeline.config.location import Options
from pipeline.storage import Storage, azure, objects, s3
from tests.clouds import azurite_server, fake_gcs
from tests.s3.proxy import FaultProxy, fault_proxy
from tests.s3.server import environment

SERVERS = ("s3", "gs", "abfs")
KINDS = ("memory", "file", *SERVERS)
AZURE_VARIABLES = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN")


@dataclass(frozen=True)
class Place:
    """A new bucket, container or folder, and what leads to it.

    nowhere: a URL in a bucket that does not exist.
    """

    kind: str
    root: str
    options: Options
    nowhere: str = ""
    proxy: FaultProxy | None = None
    behind: Options | None = None

    def store(self) -> Storage:
        """Returns its storage."""
        return storage.connect(self.root, self.options)

    @property
    def faulty(self) -> Storage:
        """Returns its storage, behind the proxy."""
        return storage.connect(self.root, self.behind)

    def section(self, faulty: bool = False) -> dict[str, Any]:
        """Returns the options as a config has them."""
        options = self.behind if faulty and self.behind else self.options
        return {"options": options.model_dump(exclude_defaults=True)} if self.proxy else {}


Places = Callable[[str], Place]


@contextmanager
def places(request: pytest.FixtureRequest, patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Places]:
    """Yields a function that makes a place of a kind; servers start when they are first needed."""
    storage._connect.cache_clear()
    telemetry.retries.clear()
    with ExitStack() as ending:

        def make(kind: str) -> Place:
            name = f"b{uuid.uuid4().hex[:8]}"
            if kind not in SERVERS:
                return Place(kind, f"{folder}/{name}" if kind == "file" else f"memory:///{name}", Options())
            url = request.getfixturevalue(f"{kind}_url")
            upstream, path = (
                url.removesuffix(f"/{azurite_server.ACCOUNT}"),
                url[len("http://") :].partition("/")[2],
            )
            proxy = ending.enter_context(fault_proxy(upstream, seed=7, stall_seconds=0.2))
            anonymous = kind == "gs"
            behind = Options(endpoint_url=f"{proxy.url}/{path}".rstrip("/"), anonymous=anonymous)
            options = Options(endpoint_url=url, anonymous=anonymous)
            MAKERS[kind](url, name, patch)
            return Place(kind, f"{kind}://{name}", options, f"{kind}://nowhere", proxy, behind)

        yield make
    storage._connect.cache_clear()


def _s3(url: str, name: str, patch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(url).items():
        patch.setenv(variable, value)
    storage.connect(f"s3://{name}").filesystem.mkdir(name)


def _gs(url: str, name: str, patch: pytest.MonkeyPatch) -> None:
    fake_gcs.make_bucket(url, name)


def _abfs(url: str, name: str, patch: pytest.MonkeyPatch) -> None:
    for variable in AZURE_VARIABLES:
        patch.delenv(variable, raising=False)
    patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite_server.KEY)
    client = storage.connect(f"abfs://{name}", Options(endpoint_url=url)).filesystem
    client.service.create_container(name)


MAKERS = {"s3": _s3, "gs": _gs, "abfs": _abfs}


def read_in_parts(patch: pytest.MonkeyPatch, part: int, first: int) -> None:
    """Lets objects be read in parts of so many bytes, after so many first bytes."""
    for module in (s3, objects):
        patch.setattr(module, "PART_BYTES", part)
        patch.setattr(module, "FIRST_BYTES", first)


def write_in_parts(patch: pytest.MonkeyPatch, part: int) -> None:
    """Lets objects be written and copied in parts of so many bytes, where a store has parts."""
    for name in ("MULTIPART_BYTES", "PART_BYTES", "COPY_BYTES", "COPY_PART_BYTES"):
        patch.setattr(s3, name, part)
    for name in ("BLOCKS_BYTES", "PART_BYTES", "COPY_BYTES"):
        patch.setattr(azure, name, part)
