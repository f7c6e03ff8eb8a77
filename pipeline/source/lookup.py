"""Reads the documents of embedded rows from their sources again.

This module writes nothing and decides nothing: a dataset stays valid if its source is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config.sections import Config
from pipeline.source import reader
from pipeline.source.formats import Piece


def documents(config: Config, piece: Piece, places: Sequence[int]) -> pa.Table:
    """Returns `text`, `text_hash` and `document` of some places of a piece; null where there is none.

    `text` is the first text of a pair; `document` has both.

    Cost: reads the complete piece.

    Raises:
        SourceError: the file is gone, changed or damaged.
    """
    [found] = reader.usable([reader.read_piece(piece, config, pa.schema([]))])
    at = pc.index_in(pa.array(places, pa.int64()), found.rows.column("source_row").combine_chunks())
    return pa.table(
        {
            "text": schema.parts_of(found.texts)[0],
            "text_hash": found.rows.column("text_hash"),
            "document": found.texts,
        }
    ).take(at)


def window(text: str, row: Mapping[str, Any]) -> str:
    """Returns the part of a document that a row embeds: all of it, unless each window has a row."""
    return text[slice(row.get("char_start"), row.get("char_stop"))]
