"""`python -m pipeline`, `albert-embed`, `jobs`: the command line, under a parent that has the last word."""

import sys
from collections.abc import Sequence
from functools import partial

from pipeline.supervise import supervised


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command in a process of its own, and returns its exit code."""
    return supervised(partial(_command, argv))


def _command(argv: Sequence[str] | None) -> int:
    from pipeline.cli import main as command  # noqa: PLC0415  (in the child alone: the parent stays small)

    return command(argv)


if __name__ == "__main__":
    sys.exit(main())
