"""What backends raise: as `StorageError`s, and whether it may pass by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
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

from pipeline.errors import (
    CredentialsError,
    DeniedError,
    ExistsError,
    MissingError,
    ReplacedError,
    StorageError,
)

DRIVERS = ("aiohttp", "azure", "gcsfs", "google", "httpx", "huggingface_hub", "requests")
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")
PASSING_CODES = (
    "BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException",
    "XAmzContentSHA256Mismatch", *CONFLICTS,
)  # fmt: skip
PASSING_ERRORS = (
    HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError, aiohttp.ClientError,
    TimeoutError, ConnectionResetError,
)  # fmt: skip
UNREACHABLE = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
CREDENTIALS = (
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip
"""Refusals that say nothing of the object that was asked for."""
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
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _status(error: Exception) -> int:
    response = getattr(error.__cause__, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _named(error: OSError, path: str, lost: type[StorageError]) -> StorageError:
    if isinstance(error, FileExistsError) or code(error) == "PreconditionFailed":
        return lost(LOST.get(lost, "is there already"), path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if code(error) == "NoSuchBucket":
            return MissingError("its bucket does not exist", path, hint="make it, or check its name")
        in_the_way = isinstance(error, NotADirectoryError)
        what = "can't be there: a file stands where a folder should be" if in_the_way else "does not exist"
        return MissingError(what, path, hint="check the path")
    if isinstance(error, PermissionError):
        kind = CredentialsError if code(error) in CREDENTIALS else DeniedError
        return kind("access denied", path, _brief(error), "check the credentials and their rights")
    return StorageError("storage failed", path, _brief(error), "run again")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())
