"""Looks at the first lines of a few CSV and TSV files of a plan for signs of another dialect than told.

Cost: `FILES` files a source, opened once, and the first block of each.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config.sections import Config
from pipeline.config.source import FORMATS, Source
from pipeline.errors import PipelineError
from pipeline.source.formats import file_path
from pipeline.source.formats.clues import clues
from pipeline.source.formats.compression import compression
from pipeline.source.formats.encoding import content

FILES = 3
MOST = 1 << 16
"""Bytes of a file that are looked at."""


def dialect_clues(pieces: pa.Table, config: Config) -> Mapping[str, str]:
    """Returns the first clue of each file in which there is one, by its name with its source."""
    found = {}
    for name, source in config.source.items():
        if FORMATS[source.format].dialect is None:
            continue
        files = (
            pieces.filter(pc.equal(pieces["source"], name)).group_by(["file"]).aggregate([("size", "max")])
        )
        for row in files.slice(0, FILES).to_pylist():
            if clue := next(clues(_start(row["file"], row["size_max"], source), source), None):
                found[f"{name}/{row['file']}"] = clue
    return found


def _start(name: str, size: int, source: Source) -> str:
    """Returns the first complete lines of a file; nothing if it can't be read, which the sample tells."""
    path = file_path(source, name)
    try:
        with storage.connect(path, source.options).open(path) as file:
            start = next(content(file, compression(name, source), size, source), b"")
    except PipelineError:
        return ""
    lines = start if len(start) <= MOST else start[:MOST].rpartition(b"\n")[0]
    return lines.decode(errors="replace")
