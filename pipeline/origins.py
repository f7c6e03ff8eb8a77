"""What the sources say today of rows that were embedded: which files are still as planned, and the documents.

Nothing here writes, and nothing decides: a source may be gone without harm to its dataset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import plan, reader
from pipeline.config import Config
from pipeline.formats import Piece
from pipeline.plan import Plan


def no_longer_as_planned(config: Config, frozen: Plan) -> dict[str, str]:
    """What became of each planned file that is not the planned version any more; what is new is left out.

    Raises:
        StorageError: the sources can't be listed, or name nothing.
    """
    planned = frozen.versions()
    now = plan.current_versions(config, planned)
    return {
        "/".join(key): "has changed since it was planned" if key in now else "is gone since it was planned"
        for key, version in planned.items()
        if now.get(key) != version
    }


def documents(config: Config, piece: Piece, places: Sequence[int]) -> pa.Table:
    """`text` and `text_hash` of the documents at these places of a piece; nulls where no document is.

    Cost: the whole piece is read.

    Raises:
        SourceError: the file is gone, changed or damaged.
    """
    [part] = reader.parts([piece], config, pa.schema([]))
    [found] = reader.usable([part])
    at = pc.index_in(pa.array(places, pa.int64()), found.rows.column("source_row").combine_chunks())
    return pa.table({"text": found.texts, "text_hash": found.rows.column("text_hash")}).take(at)


def window(text: str, row: Mapping[str, Any]) -> str:
    """The part of a document that a row is of: all of it, unless there is a row for each window."""
    return text[slice(row.get("char_start"), row.get("char_stop"))]
