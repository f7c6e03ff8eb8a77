"""The command `init`: writes the config of a job from a look at its source."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.arguments import complete_file
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, write
from pipeline.config.load import load_config
from pipeline.errors import ConfigError, ExitCode
from pipeline.estimate.draft import draft


def add_arguments(parser: ArgumentParser) -> None:
    what = "what to embed: a file, a folder, a glob, or a table; local or a URL"
    complete_file(parser.add_argument("source", help=what))
    text = "the file to write (default: job.yaml)"
    complete_file(parser.add_argument("--output", default="job.yaml", metavar="FILE", help=text))


def run(arguments: Namespace) -> CommandResult:
    path = Path(arguments.output)
    text = draft(arguments.source)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError("is there already", str(path), hint="name another by --output") from None
    except OSError as error:
        raise ConfigError(
            "can't be written", str(path), error.strerror or "", "name another by --output"
        ) from None
    load_config(str(path), [], None)
    write(*text.splitlines(), "", f"written: {path}; check it, then: python -m pipeline plan {path}")
    return ExitCode.DONE, ""


COMMAND = Command(
    name="init",
    help="write the config of a job from a look at its source",
    run=run,
    add_arguments=add_arguments,
    config=None,
    settings=False,
    date=False,
    json=False,
    examples=(
        ("init .demo/source", "a folder of Parquet: its format and columns are found"),
        ("init s3://bucket/reviews --output reviews.yaml", "a folder in object storage"),
    ),
)
