"""Tests which credentials Azure's client takes, and what it says if it has none; it asks no server."""

import base64
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

from pipeline import storage
from pipeline.config.location import Options
from pipeline.errors import ConfigError, CredentialsError
from pipeline.storage import azure

KEY = base64.b64encode(bytes(64)).decode()
VARIABLES = (azure.ACCOUNT, azure.CONNECTION, *azure.SECRETS)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    storage._connect.cache_clear()
    yield
    storage._connect.cache_clear()


def _client(**options: Any) -> azure.Azure:
    return azure.Azure("abfs", Options(**options))


def test_an_account_must_be_named() -> None:
    for protocol in ("abfs", "az"):
        with pytest.raises(ConfigError, match=f"no storage account is named.*set {azure.ACCOUNT}"):
            storage.connect(f"{protocol}://c").read(f"{protocol}://c/a")


def test_the_account_is_of_the_options_or_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(azure.ACCOUNT, "mine")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    assert _client().service.url == "https://mine.blob.core.windows.net/"
    other = "https://other.blob.core.windows.net/"
    assert _client(endpoint_url=other).service.url == other
    connection = (
        f"DefaultEndpointsProtocol=https;AccountName=third;AccountKey={KEY};EndpointSuffix=core.windows.net"
    )
    monkeypatch.setenv(azure.CONNECTION, connection)
    assert _client().service.url == "https://third.blob.core.windows.net/"
    assert _client(endpoint_url=other, anonymous=True).service.credential is None


def test_without_an_identity_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def get_token(self, *_: Any, **__: Any) -> AccessToken:
            raise ClientAuthenticationError(
                "no identity was found.\nAttempted credentials:\n\tA: no\n\tB: no"
            )

    monkeypatch.setenv(azure.ACCOUNT, "mine")
    monkeypatch.setattr(azure, "DefaultAzureCredential", Nobody)
    with pytest.raises(CredentialsError, match="access denied.*no identity was found") as raised:
        storage.connect("abfs://c").read("abfs://c/a")
    assert "Attempted" not in str(raised.value)


def test_an_answer_that_broke_off_may_pass() -> None:
    """Azure's library gives up on a body that ends too early with an error that has no status."""
    assert isinstance(_client().translated(HttpResponseError("Connection broken")), ConnectionResetError)


def test_a_copy_has_the_right_to_read_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azurite asks for none."""

    class Workload:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            assert scopes == (azure.SCOPE,)
            return AccessToken("secret", 1 << 40)

    monkeypatch.setenv(azure.ACCOUNT, "mine")
    monkeypatch.setattr(azure, "DefaultAzureCredential", Workload)
    url = "https://mine.blob.core.windows.net/c/a"
    assert _client()._readable("c", "a") == (url, {"source_authorization": "Bearer secret"})
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")
    assert _client()._readable("c", "a") == (f"{url}?sv=1&sig=x", {})
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    signed, more = _client()._readable("c", "a")
    assert signed.startswith(f"{url}?")
    assert "sp=r&" in signed
    assert more == {}
    assert _client(anonymous=True)._readable("c", "a") == (url, {})


def test_what_stands_for_a_folder_is_one() -> None:
    """Accounts with a hierarchical namespace list folders as empty objects; no emulator does."""
    folder = SimpleNamespace(name="x/deep", size=0, metadata={azure.FOLDER: "true"})
    assert azure._info("c", folder) == {"name": "c/x/deep", "size": 0, "type": "directory"}
