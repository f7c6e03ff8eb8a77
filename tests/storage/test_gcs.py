"""Tests how Google's refusals and failures are read, which no emulator gives; no server is asked."""

import json
from collections.abc import Iterator

import google.auth
import pytest
import requests
import urllib3
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from pipeline import storage
from pipeline.config.location import Options
from pipeline.errors import CredentialsError
from pipeline.storage import gcs
from pipeline.storage.error_mapping import code, is_unreachable, transient


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(gcs.EMULATOR, raising=False)
    storage._connect.cache_clear()
    yield
    storage._connect.cache_clear()


def _refusal(status: int, reason: str, text: str) -> OSError:
    answer = requests.Response()
    answer.status_code, answer.reason = status, "No"
    answer._content = json.dumps({"error": {"message": text, "errors": [{"reason": reason}]}}).encode()
    return gcs._refusal(answer)


REFUSALS = [
    (401, "required", "Anonymous caller", PermissionError, "Unauthorized", None),
    (403, "forbidden", "no access", PermissionError, "forbidden", None),
    (403, "userRateLimitExceeded", "slowly", OSError, "userRateLimitExceeded", "userRateLimitExceeded"),
    (404, "notFound", "No such object: b/a", FileNotFoundError, "notFound", None),
    (404, "notFound", "The specified bucket does not exist.", FileNotFoundError, "NoSuchBucket", None),
    (412, "conditionNotMet", "a condition", FileExistsError, "PreconditionFailed", None),
    (429, "rateLimitExceeded", "slowly", OSError, "rateLimitExceeded", "rateLimitExceeded"),
    (503, "backendError", "later", OSError, "backendError", "backendError"),
]


@pytest.mark.parametrize(("status", "reason", "text", "kind", "name", "passing"), REFUSALS)
def test_a_refusal_keeps_its_kind_and_whether_it_passes(
    status: int, reason: str, text: str, kind: type[OSError], name: str, passing: str | None
) -> None:
    error = _refusal(status, reason, text)
    assert isinstance(error, kind)
    assert code(error) == name
    assert transient(error) == passing


def test_failures_of_the_network_pass_and_those_of_a_certificate_do_not() -> None:
    client = gcs.Google("gs", Options(anonymous=True))
    pool = urllib3.HTTPConnectionPool("127.0.0.1")
    never = requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/", OSError("refused")))
    for error in (never, requests.ConnectTimeout()):
        assert is_unreachable(client.translated(error))
    for error in (requests.ReadTimeout(), requests.ConnectionError("cut"), TransportError("metadata")):
        told = client.translated(error)
        assert transient(told)
        assert not is_unreachable(told)
    for error in (requests.exceptions.SSLError("expired"), RefreshError("revoked")):
        assert transient(client.translated(error)) is None


def test_without_credentials_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(**_: object) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.\nSet them up.")

    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(CredentialsError, match="access denied.*credentials were not found") as raised:
        storage.connect("gs://b").read("gs://b/a")
    assert "\n" not in str(raised.value)
