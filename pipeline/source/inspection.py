"""Looking at files in this process: how each can be cut, or what is wrong with it."""

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
"""An object, and the name of the source that it is of."""
Surveyed = Survey | SourceError
THREADS = 32
"""Files that a process looks at side by side: it waits for storage more than it works."""
PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a file that is not given is asked for again."""


def look(listed: Sequence[Listed], sources: Mapping[str, Source]) -> list[Surveyed]:
    """Looks at files side by side: how each can be cut, or why it can't be.

    Raises:
        StorageError: storage failed.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda entry: _survey(entry[1], sources[entry[0]]), listed))


def _survey(info: storage.ObjectInfo, source: Source) -> Surveyed:
    """How a file can be cut; one that is refused, or not there, is asked for again.

    Raises:
        StorageError: it stays so. That may pass all the same, and what a plan says of a file is for good.
    """
    for pause in PAUSES:
        try:
            return _look_at(info, source)
        except CredentialsError:
            raise  # of all files, and no pause mends them
        except (MissingError, DeniedError):
            time.sleep(pause)
    try:
        return _look_at(info, source)
    except MissingError as error:
        hint = "run again: it is listed anew"
        raise StorageError("is gone since it was listed", info.path, error.got, hint) from error
    except DeniedError as error:
        if isinstance(error, CredentialsError):
            raise
        hint = "run again, if that may pass; else check its rights, or leave it out of the source's path"
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
    except Exception as error:  # libraries raise what they like of a damaged file
        return SourceError("can't be read", got=repr(error), hint="make it anew, or leave it out")
