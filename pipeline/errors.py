"""Every error that a user can meet, and the exit code it ends in.

PipelineError
├── ConfigError                 2  the config, or what it names, is wrong; no retry mends it
│   ├── ModelError              2  the checkpoint or its tokenizer can't be used
│   │   ├── TokenizerError      2  the tokenizer can't cut a text
│   │   └── HubBusyError        4  the Hub can't give the checkpoint now; a retry may
│   ├── ResourceError           2  the machine or cluster can't hold the job
│   └── SeriesError             2  a series of datasets can't be moved or pruned as asked
├── StorageError                4  storage did not answer as it should; a retry may
│   ├── MissingError            2  the object or bucket does not exist
│   ├── DeniedError             2  credentials are missing, wrong or too weak
│   │   └── CredentialsError    2  they are missing, wrong or past their time, whatever they are asked for
│   ├── DamagedError            2  a file of a dataset is not what it should be
│   ├── ExistsError             -  put-if-absent lost: the object is there already
│   ├── ReplacedError           -  replace-if lost: the object is no longer the expected version
│   └── UnseenError             4  a worker does not see a source file as it was planned; others may
├── SourceError                 3  a source file can't be embedded; the others go on
│   └── SourceChangedError      3  a source file is no longer the version that was planned
│       └── SourceGoneError     3  there is no such source file any more
├── StartError                  -  a replica can't start; the code is its cause's
├── OutputError                 -  nothing can be written any more; the code is its cause's
├── DeviceError                 4  a device failed, and fails for as long as its process lives
│   └── NonFiniteError          4  it, or the checkpoint, gives NaN or infinity for many texts
├── CrashError                  3  a split kills each process that touches it; the others go on
├── IncompleteError             3  the run ended with failed files or too many rejects
├── OtherDatasetError           5  the output belongs to another config
└── StoppedError                4  the run lost its cluster, or a race that it may win next time
    └── StalledError            4  nobody showed life for too long
"""

from collections.abc import Sequence
from enum import IntEnum

from pipeline.sanitize import first_line, printable

LONGEST = 4000
"""Of what is our own for the most part: what happened, and what to do."""
STOPPED = "stopped; run again to resume"
"""Why a run ended that was told to (SIGTERM, Ctrl-C)."""


ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What a boundary that lets nothing through lets through: the process, or the task, is told to end.

Ray cancels a task by the first. A panic of a library in Rust is neither an `Exception` nor one of these.
"""


class ExitCode(IntEnum):
    """What the process ends with; distinct, so that a scheduler can tell what a retry would mend."""

    DONE = 0
    BUG = 1
    CONFIG = 2
    INCOMPLETE = 3
    RETRYABLE = 4
    OTHER_DATASET = 5
    SOURCE_MOVED = 6


class PipelineError(Exception):
    """Root of all errors raised on purpose: what happened, where, what was got, what to do.

    Args:
        more: further lines; no other line begins in a message, whatever its parts hold.
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
        """The message without what to do."""
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
    """The Hub has no time for us (429), or fails (5xx)."""

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
    """Storage does not take the credentials at all."""


class DamagedError(StorageError):
    """A file of a dataset is not what it should be."""

    exit_code = ExitCode.CONFIG


class ExistsError(StorageError):
    """Put-if-absent lost: the object is there already."""


class ReplacedError(StorageError):
    """Replace-if lost: the object is no longer the expected version."""


class UnseenError(StorageError):
    """A worker does not see source files as they were planned.

    That may be its node's fault, or pass: only the driver, when it has looked itself, calls a file gone.

    Args:
        files: all of them that it asked for, `<source>/<file>`.
        exit_code: what it would come to if the driver saw the same.
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
    """There is no such source file any more."""


class CausedError(PipelineError):
    """What follows from another error.

    Args:
        exit_code: of its cause.
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
    """Nobody showed life for too long."""
