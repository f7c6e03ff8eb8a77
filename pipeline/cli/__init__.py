"""The command line: arguments in, exit codes out."""

from pipeline.cli.entry import main, parser

__all__ = ["main", "parser"]
