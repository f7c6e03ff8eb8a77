"""Writes the draft of a config as YAML, with comments for people."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from pipeline.config.source import FORMATS
from pipeline.errors import ConfigError
from pipeline.estimate.draft.columns import TextColumn, id_column, text_columns
from pipeline.estimate.draft.look import Look, look
from pipeline.sanitize import printable

COMMENTS_AT = 34
"""The column at which comments begin, where a line leaves room."""
MOST_NAMED = 8


def draft(path: str) -> str:
    """Returns the config of a job over what a path names, as YAML.

    Raises:
        MissingError: the path names nothing.
        ConfigError: nothing there can be read as a source, or no column is text.
        StorageError: storage failed.
    """
    found = look(path)
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Look) -> Iterator[str]:
    name = _name(found.path)
    yield f"# Drafted from a look at {printable(found.path, 200)}: {found.extent}."
    yield "# What is a guess says so: check it. docs/configuration.md has all other settings."
    for note in found.notes:
        yield f"# Note: {printable(note, 300)}."
    yield "source:"
    yield f"  {name}:"
    yield from (_with_comment(f"    {line}", comment) for line, comment in _source(found))
    yield "model:"
    yield _with_comment("  name: albert-mini", "part of the package; docs/models.md has others")
    yield "output:"
    yield _with_comment(f"  path: embeddings/{name}", "a folder, or a URL such as s3://bucket/embeddings")


def _source(found: Look) -> Iterator[tuple[str, str]]:
    """Yields the settings of the source, with their comments."""
    yield f"path: {_scalar(found.path)}", ""
    yield f"format: {found.kind}", found.why
    for key, value in found.settings.items():
        yield f"{key}: {_scalar(value)}", ""
    if FORMATS[found.kind].columns:
        yield from _columns(found)
    if found.partitions:
        yield f"partitions: {_scalar(found.partitions)}", "keys of the folders, kept as columns"


def _columns(found: Look) -> Iterator[tuple[str, str]]:
    texts = text_columns(found.rows)
    if not texts:
        names = ", ".join(found.rows.column_names) or "none"
        hint = "write the config by hand: docs/configuration.md"
        raise ConfigError(
            "no column is text", found.files[0].path if found.files else found.path, names, hint
        )
    text, *others = texts
    yield f"text_column: {_scalar(text.name)}", _why(text, others)
    identity = id_column(found.rows, text.name)
    if identity:
        yield f"id_column: {_scalar(identity)}", f"a guess: unique in the first {found.rows.num_rows:,} rows"
    else:
        yield "# id_column: NAME", "no column looks like an id; without one it is made of file and row"
    rest = [name for name in found.rows.column_names if name not in (text.name, identity)]
    if rest:
        yield f"# carry: {_scalar(rest[:MOST_NAMED])}", "columns to copy into the shards"


def _why(text: TextColumn, others: list[TextColumn]) -> str:
    said = f"a guess: {text.characters:,.0f} characters on average"
    if others:
        also = ", ".join(f"{printable(each.name, 40)} {each.characters:,.0f}" for each in others[:3])
        said += f"; others: {also}"
    return said


def _name(path: str) -> str:
    """Returns a name for the source: the last part of its path that has one."""
    parts = [part for part in re.split(r"[/:]+", path) if part and not set(part) & set("*?[=")]
    words = re.sub(r"[^a-z0-9]+", "_", parts[-1].split(".")[0].lower()).strip("_") if parts else ""
    return words if re.match(r"[a-z]", words) else "docs"


def _scalar(value: Any) -> str:
    """Returns a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _with_comment(line: str, comment: str) -> str:
    return f"{line:<{COMMENTS_AT}} # {printable(comment, 200)}" if comment else line
