"""What backends raise: as `StorageError`s, and whether it may pass by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx2
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,  # noqa: A004  (botocore's own, no OSError)
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
    httpx2.TransportError, TimeoutError, ConnectionResetError,
)  # fmt: skip
UNREACHABLE = (
    EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, httpx2.ConnectError,
    httpx2.ConnectTimeout, httpx2.ProxyError,
)  # fmt: skip
CREDENTIALS = (
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip
"""Refusals that say nothing of the object that was asked for."""
PASSING_STATUSES = (408, 409, 425, 429)
LOST = {ExistsError: "is there already", ReplacedError: "is another version than expected"}


@contextmanager
def named_errors(path: str, lost: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn what backends raise into `StorageError`s; `lost` is what a refused condition is called."""
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
            "storage can't be asked", path, _brief(error), "mend the path or the environment"
        ) from None
    except Exception as error:
        # Not every driver has errors of Python's own; and what is read from a file may fail in other ways.
        if not isinstance(error, BotoCoreError) and type(error).__module__.split(".")[0] not in DRIVERS:
            raise
        hint = "check endpoint and network, and run again" if is_unreachable(error) else "run again"
        raise StorageError("storage failed", path, _brief(error), hint) from error


def transient(error: Exception) -> str | None:
    """What may pass by itself, in a word; None of what will not."""
    if isinstance(error, SSLError):
        return None
    if status := _status(error):
        name = code(error)
        passing = name in PASSING_CODES or status == 429 or (status >= 500 and status != 501)
        return (name or str(status)) if passing else None
    return type(error).__name__ if isinstance(error, PASSING_ERRORS) else None


def is_unreachable(error: Exception) -> bool:
    """Whether no server was there at all."""
    return isinstance(error, UNREACHABLE)


def code(error: Exception) -> str:
    """What the S3 server called an error; s3fs keeps it behind its own."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _status(error: Exception) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or _web_status(error)


def _answer(error: Exception) -> Mapping[str, Any]:
    """What an S3 server answered, as botocore keeps it; the answers of other servers are of other kinds."""
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, Mapping) else {}


def _web_status(error: Exception) -> int:
    """What the Hub answered: its client keeps it with its own errors, and puts Python's in front of some."""
    answers = [getattr(each, "response", None) for each in (error, error.__cause__)]
    return next((each.status_code for each in answers if isinstance(each, httpx2.Response)), 0)


def _named(error: OSError, path: str, lost: type[StorageError]) -> StorageError:
    if isinstance(error, FileExistsError) or code(error) == "PreconditionFailed":
        return lost(LOST.get(lost, "is there already"), path)
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
    return StorageError("storage failed", path, _brief(error), "run again")


def _missing(error: OSError, path: str) -> MissingError:
    if code(error) == "NoSuchBucket":
        return MissingError("its bucket does not exist", path, hint="make it, or check its name")
    in_the_way = isinstance(error, NotADirectoryError)
    what = "can't be there: a file stands where a folder should be" if in_the_way else "does not exist"
    return MissingError(what, path, hint="check the path")


def _refused(error: Exception, path: str, status: int) -> StorageError:
    """The Hub's answer as an error of ours."""
    got = f"HTTP {status}: {_brief(error)}"
    if status == HTTPStatus.UNAUTHORIZED:
        # It says so, too, of what does not exist, to who has not logged in.
        return CredentialsError("access denied", path, got, "check the path, and HF_TOKEN")
    if status == HTTPStatus.FORBIDDEN:
        return DeniedError("access denied", path, got, "check the credentials and their rights")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return MissingError("does not exist", path, hint="check the path")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING_STATUSES:
        return DeniedError("storage can't be asked", path, got, "mend the path or the environment")
    return StorageError("storage failed", path, got, "run again")


def _brief(error: Exception) -> str:
    return redact(" ".join(str(error).split()))
