"""Turns what backends raise into `StorageError`s, and tells which failures may pass by themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx2
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,  # noqa: A004  (botocore's own, not an OSError)
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from pipeline.config.location import AZURE, protocol_of
from pipeline.errors import (
    CredentialsError,
    DeniedError,
    ExistsError,
    MissingError,
    ReplacedError,
    StorageError,
)
from pipeline.sanitize import redact

DRIVERS = ("aiohttp", "azure", "gcsfs", "google", "httpcore2", "httpx2", "huggingface_hub", "requests")
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")
PASSING_CODES = (
    "BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException",
    "XAmzContentSHA256Mismatch", *CONFLICTS,
)  # fmt: skip
PASSING_ERRORS = (
    HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError, aiohttp.ClientError,
    httpx2.TransportError, TimeoutError, ConnectionResetError, ConnectionRefusedError,
)  # fmt: skip
UNREACHABLE = (
    EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, httpx2.ConnectError,
    httpx2.ConnectTimeout, httpx2.ProxyError, ConnectionRefusedError,
)  # fmt: skip
CREDENTIALS = (
    "AuthenticationFailed", "AuthorizationFailure", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidAuthenticationInfo", "InvalidToken", "NoAuthenticationInformation", "NoCredentials",
    "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "Unauthorized",
)  # fmt: skip
"""Codes of refusals that say nothing about the requested object."""
PASSING_STATUSES = (408, 409, 425, 429)
LOST = {ExistsError: "exists already", ReplacedError: "is not the expected version"}


class RefusalError(Exception):
    """The answer of another server than S3's, in the form in which botocore keeps one.

    It is the cause of one of Python's own errors, as s3fs makes them.
    """

    def __init__(self, status: int, name: str) -> None:
        super().__init__(name)
        self.response = {"Error": {"Code": name}, "ResponseMetadata": {"HTTPStatusCode": status}}


@contextmanager
def map_errors(path: str, lost: type[StorageError] = StorageError) -> Iterator[None]:
    """Turns what backends raise into `StorageError`s; a refused condition becomes a `lost`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise _named(error, path, lost) from (error if transient(error) else None)
    except NoCredentialsError as error:
        raise CredentialsError("access denied", path, _brief(error), "check the credentials") from None
    except (ParamValidationError, ProfileNotFound, PartialCredentialsError) as error:
        raise DeniedError(
            "storage can't be asked", path, _brief(error), "correct the path or the environment"
        ) from None
    except Exception as error:
        # Not every driver raises Python's own errors, and code that reads a file may fail in other ways.
        if not isinstance(error, BotoCoreError) and type(error).__module__.split(".")[0] not in DRIVERS:
            raise
        hint = "check endpoint and network, and run again" if is_unreachable(error) else "run again"
        raise StorageError("storage failed", path, _brief(error), hint) from error


def transient(error: Exception) -> str | None:
    """Names a failure that may pass by itself in one word; returns None for one that will not."""
    if isinstance(error, SSLError):
        return None
    if status := _status(error):
        name = code(error)
        passing = name in PASSING_CODES or status == 429 or (status >= 500 and status != 501)
        return (name or str(status)) if passing else None
    return type(error).__name__ if isinstance(error, PASSING_ERRORS) else None


def is_unreachable(error: Exception) -> bool:
    """Tells whether no server was reached at all."""
    return isinstance(error, UNREACHABLE)


def code(error: Exception) -> str:
    """Returns the server's code for an error. s3fs keeps it as the cause of its own error."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _status(error: Exception) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or _web_status(error)


def _answer(error: Exception) -> Mapping[str, Any]:
    """Returns an S3 server's answer, as botocore keeps it; answers of other servers have other types."""
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, Mapping) else {}


def _web_status(error: Exception) -> int:
    """Returns the Hub's HTTP status. Its client keeps it in its own errors, and wraps some in Python's."""
    answers = [getattr(each, "response", None) for each in (error, error.__cause__)]
    return next((each.status_code for each in answers if isinstance(each, httpx2.Response)), 0)


def _named(error: OSError, path: str, lost: type[StorageError]) -> StorageError:
    if isinstance(error, FileExistsError) or code(error) == "PreconditionFailed":
        return lost(LOST.get(lost, "exists already"), path)
    if status := _web_status(error):
        return _refused(error, path, status)
    if isinstance(error, LocalTokenNotFoundError):
        return CredentialsError("access denied", path, _brief(error), "log in, or set HF_TOKEN")
    if isinstance(error, OfflineModeIsEnabled):
        return DeniedError("storage can't be asked", path, _brief(error), "unset HF_HUB_OFFLINE")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _missing(error, path)
    if isinstance(error, PermissionError):
        kind = CredentialsError if code(error) in CREDENTIALS else DeniedError
        return kind("access denied", path, _brief(error), "check the credentials and their rights")
    hint = "check endpoint and network, and run again" if is_unreachable(error) else "run again"
    return StorageError("storage failed", path, _brief(error), hint)


def _missing(error: OSError, path: str) -> MissingError:
    if code(error) == "NoSuchBucket":
        what = "container" if protocol_of(path) in AZURE else "bucket"
        return MissingError(f"its {what} does not exist", path, hint="make it, or check its name")
    in_the_way = isinstance(error, NotADirectoryError)
    what = "can't be there: a file stands where a folder should be" if in_the_way else "does not exist"
    return MissingError(what, path, hint="check the path")


def _refused(error: Exception, path: str, status: int) -> StorageError:
    """Turns the Hub's refusal into a `StorageError`."""
    got = f"HTTP {status}: {_brief(error)}"
    if status == HTTPStatus.UNAUTHORIZED:
        # The Hub gives the same answer for a missing object to a client without a login.
        return CredentialsError("access denied", path, got, "check the path, and HF_TOKEN")
    if status == HTTPStatus.FORBIDDEN:
        return DeniedError("access denied", path, got, "check the credentials and their rights")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return MissingError("does not exist", path, hint="check the path")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING_STATUSES:
        return DeniedError("storage can't be asked", path, got, "correct the path or the environment")
    return StorageError("storage failed", path, got, "run again")


def _brief(error: Exception) -> str:
    return redact(" ".join(str(error).split()))
