"""The command `completion`: prints a script that lets a shell complete our commands and options."""

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
    """Prints the script, generated from the parser that parsed these arguments."""
    sys.stdout.write(shtab.complete(arguments.parser, shell=arguments.shell) + "\n")
    return ExitCode.DONE, ""


COMMAND = Command(
    name="completion",
    help="print a script that lets a shell complete our commands and options",
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
