"""What backends raise, as `StorageError`s."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from pipeline.errors import DeniedError, MissingError, StorageError

DRIVERS = ("aiohttp", "azure", "gcsfs", "google", "httpx", "huggingface_hub", "requests")
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")


@contextmanager
def named_errors(path: str, lost: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn what backends raise into `StorageError`s; `lost` is what a refused condition is called."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError("does not exist", path) from None
    except FileExistsError:
        raise lost("is there already", path) from None
    except (PermissionError, NoCredentialsError) as error:
        raise DeniedError("access denied", path, str(error), "check the credentials") from None
    except OSError as error:
        if code(error) == "PreconditionFailed":
            raise lost("is there already", path) from None
        raise StorageError("storage failed", path, _brief(error), "run again") from error
    except (ParamValidationError, ProfileNotFound, PartialCredentialsError) as error:
        raise DeniedError(
            "storage can't be asked", path, _brief(error), "mend the path or the environment"
        ) from None
    except Exception as error:
        # Not every driver has errors of Python's own; and what is read from a file may fail in other ways.
        if not isinstance(error, BotoCoreError) and type(error).__module__.split(".")[0] not in DRIVERS:
            raise
        raise StorageError("storage failed", path, _brief(error), "run again") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())


def code(error: OSError) -> str:
    """What the S3 server called an error; s3fs keeps it behind its own."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
