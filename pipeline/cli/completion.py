"""The command `completion`: a script that makes a shell complete our commands and options."""

import sys
from argparse import ArgumentParser, Namespace

import shtab

from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult
from pipeline.errors import ExitCode

SHELLS = ("bash", "zsh")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: Namespace) -> CommandResult:
    """Prints a script for a shell, made from the parser that parsed these arguments."""
    sys.stdout.write(shtab.complete(arguments.parser, shell=arguments.shell) + "\n")
    return ExitCode.DONE, ""


COMMAND = Command(
    name="completion",
    help="print what makes a shell complete our commands and options",
    run=run,
    add_arguments=add_arguments,
    config=None,
    settings=False,
    date=False,
    json=False,
    examples=(
        ("completion bash", "in ~/.bashrc: source <(albert-embed completion bash)"),
        ("completion zsh", "into a file _albert-embed of a folder in $fpath"),
    ),
)
