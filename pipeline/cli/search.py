"""The command `search`: shows the rows nearest to a text."""

from argparse import ArgumentParser, Namespace

from pipeline.cli.arguments import job_of
from pipeline.cli.command import Command
from pipeline.cli.output import CommandResult, printable, show_json, write
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode
from pipeline.model.check import usable_checkpoint
from pipeline.model.outputs import reserved_names
from pipeline.operate import search


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("query", help="a text")
    parser.add_argument("--count", type=int, default=5, help="how many rows (default: 5)")


def run(arguments: Namespace) -> CommandResult:
    job = job_of(arguments)
    hits = search.search(job, usable_checkpoint(job), arguments.query, arguments.count)
    planned = Dataset.of(job).required_plan() if hits else None
    texts = [search.source_text(job, planned, hit.row) if planned else None for hit in hits]
    if arguments.json:
        found = [{"score": hit.score, "text": text, **hit.row} for hit, text in zip(hits, texts, strict=True)]
        show_json(found)
        return ExitCode.DONE, ""
    ours = reserved_names(job.model.outputs)
    for hit, text in zip(hits, texts, strict=True):
        carried = [str(value) for name, value in hit.row.items() if name not in ours]
        write(
            f"{hit.score:7.4f}  {printable('  '.join(carried), 90)}",
            f"         {printable(text or '(its source is gone or has changed)', 90)}",
        )
    return ExitCode.DONE, ""


COMMAND = Command(
    name="search",
    help="show the rows nearest to a text; exact, and fast enough up to a few million rows",
    run=run,
    add_arguments=add_arguments,
    examples=(('search configs/demo.yaml "copy a file"', "the rows nearest to a text"),),
)
