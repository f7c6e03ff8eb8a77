"""Surveys files in this process: finds how each can be cut, or what is wrong with it."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import storage
from pipeline.config.source import Source
from pipeline.errors import (
    CredentialsError,
    DeniedError,
    MissingError,
    PipelineError,
    SourceError,
    StorageError,
)
from pipeline.source import formats
from pipeline.source.formats import Survey, file_name

Listed = tuple[str, storage.ObjectInfo]
"""The name of a source, and an object of it."""
Surveyed = Survey | SourceError
THREADS = 32
"""The files that a process surveys at the same time: it waits for storage more than it computes."""
PAUSES = (0.2, 1.0, 3.0)
"""Seconds to wait before a file that was missing or denied is tried again."""


def look(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    """Surveys files in parallel. Returns for each how it can be cut, or the error if it can't be.

    Raises:
        StorageError: storage failed.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda entry: _survey(entry[1], sources[entry[0]]), listed))


def _survey(info: storage.ObjectInfo, source: Source) -> Surveyed:
    """Surveys a file. Tries again if it is missing or denied.

    Raises:
        StorageError: it still is after the last try. This may pass later, but a plan is never changed.
    """
    for pause in PAUSES:
        try:
            return _look_at(info, source)
        except CredentialsError:
            raise  # the credentials are the same for all files, and waiting does not correct them
        except (MissingError, DeniedError):
            time.sleep(pause)
    try:
        return _look_at(info, source)
    except MissingError as error:
        hint = "run again: the source is then listed again"
        raise StorageError("is gone since it was listed", info.path, error.got, hint) from error
    except DeniedError as error:
        if isinstance(error, CredentialsError):
            raise
        hint = "run again if this may pass; else check its rights, or leave it out of the source's path"
        raise StorageError("is listed, but may not be read", info.path, error.got, hint) from error


def _look_at(info: storage.ObjectInfo, source: Source) -> Surveyed:
    try:
        info.path.encode()
        return formats.survey(info, file_name(source, info), source)
    except UnicodeEncodeError:
        return SourceError("its name is not UTF-8", hint="rename it")
    except SourceError as error:
        return error
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # libraries raise any exception over a damaged file
        return SourceError("can't be read", got=repr(error), hint="make it again, or leave it out")
