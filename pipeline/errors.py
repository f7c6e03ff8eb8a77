"""Defines every error that a user can meet, and its exit code.

PipelineError
├── ConfigError                 2  the config, or what it names, is wrong; a retry does not help
│   ├── ModelError              2  the checkpoint or its tokenizer can't be used
│   │   ├── TokenizerError      2  the tokenizer can't cut a text
│   │   └── HubBusyError        4  the Hub can't give the checkpoint now; a retry may
│   ├── ResourceError           2  the machine or cluster can't hold the job
│   └── SeriesError             2  a series of datasets can't be moved or pruned as asked
├── StorageError                4  storage did not answer as it should; a retry may
│   ├── MissingError            2  the object or bucket does not exist
│   ├── DeniedError             2  credentials are missing, wrong or too weak
│   │   └── CredentialsError    2  credentials are missing, wrong or expired, whatever they are used for
│   ├── DamagedError            2  a file of a dataset is not what it should be
│   ├── ExistsError             -  put-if-absent lost: the object exists already
│   ├── ReplacedError           -  replace-if lost: the object is no longer the expected version
│   └── UnseenError             4  a worker does not see a source file as it was planned; others may
├── SourceError                 3  a source file can't be embedded; the others go on
│   └── SourceChangedError      3  a source file is no longer the version that was planned
│       └── SourceGoneError     3  a source file no longer exists
├── StartError                  -  a replica can't start; it has the exit code of its cause
├── OutputError                 -  nothing can be written any more; it has the exit code of its cause
├── DeviceError                 4  a device failed, and fails for as long as its process lives
│   └── NonFiniteError          4  a device, or the checkpoint, gives NaN or infinity for many texts
├── CrashError                  3  a split kills each process that touches it; the others go on
├── IncompleteError             3  the run ended with failed files or too many rejects
├── OtherDatasetError           5  the output belongs to another config
└── StoppedError                4  the run lost its cluster, or a race that it may win next time
    └── StalledError            4  no process showed signs of life for too long
"""

from collections.abc import Sequence
from enum import IntEnum

from pipeline.sanitize import first_line, printable

LONGEST = 4000
"""Characters of message parts that are mostly our own words: what happened, and what to do."""
STOPPED = "stopped; run again to resume"
"""The reason of a run that was asked to end (SIGTERM, Ctrl-C)."""


ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""The exceptions that every boundary lets through: they ask the process, or the task, to end.

Ray cancels a task with the first. A panic of a Rust library is neither an `Exception` nor one of these.
"""


class ExitCode(IntEnum):
    """The exit codes of the process. They are distinct so that a scheduler can tell when a retry helps."""

    DONE = 0
    BUG = 1
    CONFIG = 2
    INCOMPLETE = 3
    RETRYABLE = 4
    OTHER_DATASET = 5
    SOURCE_MOVED = 6
    RUNNING = 7
    """Only from `status --exit-code`: a run is at work."""


class PipelineError(Exception):
    """The root of all errors raised on purpose: what happened, where, what was got, what to do.

    Args:
        more: further lines. The other parts never start a new line, whatever they hold.
    """

    exit_code = ExitCode.BUG

    def __init__(
        self, what: str, where: str = "", got: str = "", hint: str = "", more: Sequence[str] = ()
    ) -> None:
        super().__init__(what, where, got, hint)  # all four, so that pickling keeps them
        self.what, self.where, self.got, self.hint, self.more = what, where, got, hint, tuple(more)

    def __str__(self) -> str:
        first = f"{self.finding}; {printable(self.hint, LONGEST)}" if self.hint else self.finding
        return "\n  ".join([first, *(printable(line, LONGEST) for line in self.more)])

    @property
    def finding(self) -> str:
        """Returns the message without its hint."""
        what = printable(self.what, LONGEST)
        text = f"{printable(self.where)}: {what}" if self.where else what
        return f"{text} (got {printable(self.got)})" if self.got else text


def one_line(error: BaseException) -> str:
    """Returns the first line of what an error says, fit to be shown; its `repr` if it says nothing."""
    return first_line(str(error), LONGEST) or printable(repr(error), LONGEST)


class ConfigError(PipelineError):
    """The config, or something that it names, can't be honoured."""

    exit_code = ExitCode.CONFIG


class ModelError(ConfigError):
    """The checkpoint or its tokenizer can't be used."""


class TokenizerError(ModelError):
    """The tokenizer can't cut a text."""


class HubBusyError(ModelError):
    """The Hub is too busy (429), or fails (5xx)."""

    exit_code = ExitCode.RETRYABLE


class ResourceError(ConfigError):
    """The machine or cluster can't hold the job."""


class SeriesError(ConfigError):
    """A series of datasets can't be moved or pruned as asked."""


class StorageError(PipelineError):
    """Storage did not answer as it should."""

    exit_code = ExitCode.RETRYABLE


class MissingError(StorageError):
    """The object or bucket does not exist."""

    exit_code = ExitCode.CONFIG


class DeniedError(StorageError):
    """Storage refused the credentials."""

    exit_code = ExitCode.CONFIG


class CredentialsError(DeniedError):
    """Storage does not accept the credentials at all."""


class DamagedError(StorageError):
    """A file of a dataset is not what it should be."""

    exit_code = ExitCode.CONFIG


class ExistsError(StorageError):
    """Put-if-absent lost: the object exists already."""


class ReplacedError(StorageError):
    """Replace-if lost: the object is no longer the expected version."""


class UnseenError(StorageError):
    """A worker does not see source files as they were planned.

    The node may be at fault, or the failure may pass. Only the driver, after its own check, calls a file
    gone.

    Args:
        files: all files that the worker asked for, `<source>/<file>`.
        exit_code: the exit code if the driver sees the same.
    """

    def __init__(
        self,
        what: str,
        where: str = "",
        got: str = "",
        hint: str = "",
        files: Sequence[str] = (),
        exit_code: int = ExitCode.RETRYABLE,
    ) -> None:
        super().__init__(what, where, got, hint)
        self.files, self.exit_code = tuple(files), ExitCode(exit_code)


class SourceError(PipelineError):
    """A source file can't be embedded."""

    exit_code = ExitCode.INCOMPLETE


class SourceChangedError(SourceError):
    """A source file is no longer the version that was planned."""


class SourceGoneError(SourceChangedError):
    """A source file no longer exists."""


class CausedError(PipelineError):
    """An error that follows from another error.

    Args:
        exit_code: the exit code of the cause.
    """

    def __init__(
        self, what: str, where: str = "", got: str = "", hint: str = "", exit_code: int = ExitCode.CONFIG
    ) -> None:
        super().__init__(what, where, got, hint)
        self.exit_code = ExitCode(exit_code)


class StartError(CausedError):
    """A replica can't start."""


class OutputError(CausedError):
    """Nothing can be written any more."""


class DeviceError(PipelineError):
    """A device failed, and fails for as long as its process lives."""

    exit_code = ExitCode.RETRYABLE


class NonFiniteError(DeviceError):
    """A device, or the checkpoint, gives NaN or infinity for many texts."""


class CrashError(PipelineError):
    """A split kills each process that touches it."""

    exit_code = ExitCode.INCOMPLETE


class IncompleteError(PipelineError):
    """The run ended with failed files or too many rejects."""

    exit_code = ExitCode.INCOMPLETE


class OtherDatasetError(PipelineError):
    """The output belongs to another config."""

    exit_code = ExitCode.OTHER_DATASET


class StoppedError(PipelineError):
    """The run lost its cluster, or a race that it may win next time."""

    exit_code = ExitCode.RETRYABLE


class StalledError(StoppedError):
    """No process showed signs of life for too long."""
