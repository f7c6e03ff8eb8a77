"""Adds the outputs of texts to the rows that hold them."""

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.library.embedder import Embedder


def with_outputs(rows: pa.Table, text_column: str, embedder: Embedder) -> pa.Table:
    """Returns rows with the columns of `Embedder.table` behind their own.

    Raises:
        ConfigError: the rows have no such text column, or have a column of that name already.
    """
    refuse_columns(rows.schema.names, text_column, embedder.schema.names)
    found = embedder.table(rows.column(text_column))
    for field, column in zip(found.schema, found.columns, strict=True):
        rows = rows.append_column(field, column)
    return rows


def refuse_columns(names: list[str], text_column: str, added: list[str]) -> None:
    """Refuses rows that lack the text column, or that have a column which would be added.

    Raises:
        ConfigError: the columns do not fit.
    """
    if text_column not in names:
        raise ConfigError("no such column", "text_column", text_column, f"one of {', '.join(names)}")
    if twice := [name for name in added if name in names]:
        hint = "drop or rename them before"
        raise ConfigError("columns that would be added are there already", got=", ".join(twice), hint=hint)
