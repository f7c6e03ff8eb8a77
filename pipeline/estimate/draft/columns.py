"""Guesses from the first rows which column is the text and which is the id."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

TEXT_NAMES = (
    "text", "content", "body", "document", "article", "passage", "paragraph", "review", "comment", "message",
    "description", "abstract", "summary", "docstring", "sentence", "question", "raw_content", "page_content",
)  # fmt: skip
"""Names that people give to a column of texts."""
KNOWN_NAME = 4.0
"""How many times as long the values of another column must be to win over one with such a name."""
ID_NAMES = ("id", "key", "uid", "uuid", "guid", "url", "uri", "doi", "docid", "doc", "pk", "path")
LONGEST_ID = 500


@dataclass(frozen=True)
class TextColumn:
    """A column of texts, and the mean number of characters of its values."""

    name: str
    characters: float


def text_columns(rows: pa.Table) -> list[TextColumn]:
    """Returns the columns of strings, the likeliest text first: known names, then long values."""
    found = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            characters = pc.mean(pc.utf8_length(column)).as_py() or 0.0
            found.append(TextColumn(name, characters))
    return sorted(
        found, key=lambda each: -each.characters * (KNOWN_NAME if _is(each.name, TEXT_NAMES) else 1)
    )


def id_column(rows: pa.Table, text: str) -> str | None:
    """Returns the column that identifies a row: unique, never null, and named like an id; None if none is."""
    candidates = [name for name in rows.column_names if name != text and _identifies(rows.column(name))]
    named = [name for name in candidates if _is(name, ID_NAMES)]
    return min(named, key=lambda name: ID_NAMES.index(_last(name, ID_NAMES)), default=None)


def _identifies(column: pa.ChunkedArray) -> bool:
    if not len(column) or column.null_count or pc.count_distinct(column).as_py() < len(column):
        return False
    return bool(pa.types.is_integer(column.type) or pc.max(pc.utf8_length(column)).as_py() <= LONGEST_ID)


def _is(name: str, known: tuple[str, ...]) -> bool:
    return bool(_last(name, known))


def _last(name: str, known: tuple[str, ...]) -> str:
    """Returns the known name that is the last word of a name, such as `id` of `article_id`; empty if none."""
    words = name.lower().rpartition(".")[2].replace("-", "_")
    return next((each for each in known if words == each or words.endswith(f"_{each}")), "")
