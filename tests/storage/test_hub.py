"""Tests of sources on a Hub: how its real client, and then our code, treats a real server's answers."""

from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import hf_raise_for_status

from pipeline import cli, storage
from pipeline.config.location import Options
from pipeline.errors import CredentialsError, DeniedError, ExitCode, MissingError, StorageError
from pipeline.storage import retry
from pipeline.storage.error_mapping import map_errors
from tests.conftest import write_config
from tests.hub import hub
from tests.s3.server import free_ports

PATH = "hf://datasets/somebody/corpus/*.parquet"
ANSWERS = {
    HTTPStatus.BAD_REQUEST: (DeniedError, ExitCode.CONFIG),
    HTTPStatus.UNAUTHORIZED: (CredentialsError, ExitCode.CONFIG),
    HTTPStatus.FORBIDDEN: (DeniedError, ExitCode.CONFIG),
    HTTPStatus.NOT_FOUND: (MissingError, ExitCode.CONFIG),
    HTTPStatus.GONE: (MissingError, ExitCode.CONFIG),
    HTTPStatus.TOO_MANY_REQUESTS: (StorageError, ExitCode.RETRYABLE),
    HTTPStatus.INTERNAL_SERVER_ERROR: (StorageError, ExitCode.RETRYABLE),
    HTTPStatus.BAD_GATEWAY: (StorageError, ExitCode.RETRYABLE),
    HTTPStatus.SERVICE_UNAVAILABLE: (StorageError, ExitCode.RETRYABLE),
}


@pytest.mark.parametrize("status", ANSWERS)
def test_each_answer_is_an_error_with_its_code(status: HTTPStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = hub(monkeypatch, status)
    kind, code = ANSWERS[status]
    with pytest.raises(StorageError) as raised:
        storage.connect(PATH, Options(endpoint_url=constants.ENDPOINT)).glob(PATH)
    assert answered[status]
    assert type(raised.value) is kind
    assert raised.value.exit_code == code
    assert str(raised.value).startswith(PATH)
    assert raised.value.hint


def test_a_hub_that_is_not_there_may_be_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(StorageError, match="check endpoint and network") as raised:
        storage.connect(PATH, Options(endpoint_url=url)).glob(PATH)
    assert raised.value.exit_code == ExitCode.RETRYABLE


def test_a_hub_that_must_not_be_asked_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, HTTPStatus.OK)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeniedError, match="unset HF_HUB_OFFLINE"):
        storage.connect(PATH, Options(endpoint_url=constants.ENDPOINT)).glob(PATH)


def test_a_command_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub(monkeypatch, HTTPStatus.FORBIDDEN)
    source = {"path": PATH, "options": {"endpoint_url": constants.ENDPOINT}}
    values = {"source": {"docs": source}, "output": {"path": f"{tmp_path}/out"}}
    config = write_config(tmp_path / "job.yaml", values)
    assert cli.main(["plan", str(config)]) == ExitCode.CONFIG
    said = capsys.readouterr().err.splitlines()
    assert said == [said[-1]]
    assert said[-1].startswith(f"exit 2: {PATH}: access denied (got HTTP 403: ")


@pytest.mark.parametrize("status", [HTTPStatus.FORBIDDEN, HTTPStatus.BAD_GATEWAY])
def test_a_presigned_url_in_an_error_of_its_client_loses_its_signature(
    status: HTTPStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's files lie on another server, and its client names their full URL."""
    hub(monkeypatch, status)
    url = f"{constants.ENDPOINT}/api/datasets/a?X-Amz-Credential=s3cr%2Fx&X-Amz-Signature=s3cr"
    with pytest.raises(StorageError) as raised, map_errors(PATH):
        hf_raise_for_status(httpx2.get(url))
    assert "/api/datasets/a?***" in str(raised.value)
    assert "s3cr" not in f"{raised.value} {raised.value.args}"


def test_an_error_of_s3_loses_the_query_of_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PATIENCE_SECONDS", 0.0)
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(StorageError, match="Could not connect") as raised:
        storage.connect("s3://bucket/x", Options(endpoint_url=url)).glob("s3://bucket/x/*.parquet")
    assert f"{url}/bucket?***" in raised.value.args[2]
