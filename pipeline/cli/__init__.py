"""The command line: one module for each command, from arguments to an exit code."""

from pipeline.cli.main import main, parser

__all__ = ["main", "parser"]
