"""What the sources say today of rows that were embedded: which files are still as planned, and the documents.

Nothing here writes, and nothing decides: a source may be gone without harm to its dataset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import Config
from pipeline.source import reader
from pipeline.source.formats import Piece


def documents(config: Config, piece: Piece, places: Sequence[int]) -> pa.Table:
    """`text` and `text_hash` of the documents at these places of a piece; nulls where no document is.

    Cost: the whole piece is read.

    Raises:
        SourceError: the file is gone, changed or damaged.
    """
    [found] = reader.usable([reader.read_piece(piece, config, pa.schema([]))])
    at = pc.index_in(pa.array(places, pa.int64()), found.rows.column("source_row").combine_chunks())
    return pa.table({"text": found.texts, "text_hash": found.rows.column("text_hash")}).take(at)


def window(text: str, row: Mapping[str, Any]) -> str:
    """The part of a document that a row is of: all of it, unless there is a row for each window."""
    return text[slice(row.get("char_start"), row.get("char_stop"))]
