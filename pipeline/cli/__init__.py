"""The command line: arguments in, exit codes out."""

from pipeline.cli.main import main, parser

__all__ = ["main", "parser"]
