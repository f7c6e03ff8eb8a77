"""Reads which rows of a data file are deleted: deletion vectors of Delta and Iceberg, and position deletes.

Both formats frame a deletion vector alike: its length, a magic number, a bitmap of 64 bits, a checksum.
"""

import base64
import functools
import uuid
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.location import Options
from pipeline.errors import PipelineError, SourceError, one_line
from pipeline.source.deleted import NONE, Positions
from pipeline.source.tables.snapshot import Deletion

MAGIC = bytes.fromhex("d1d33964")
UUID_CHARACTERS = 20
"""The characters of a deletion vector's name in Delta's log that stand for its UUID."""
PYTHON_85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
"""The digits of base 85 that Python and ZeroMQ use; Delta's log uses the latter."""
FILES_KEPT = 4
"""The position delete files that a process keeps: one may list rows of many data files."""


def deleted_rows(deletions: Sequence[Deletion], options: Options, rows: int) -> Positions:
    """Returns the ascending positions of the deleted rows of a data file.

    Args:
        rows: how many rows the file has.

    Raises:
        SourceError: they can't be made out, so that none of the file's rows can be trusted.
        StorageError: storage failed.
    """
    found = [_checked(_read(deletion, options, rows), deletion, rows) for deletion in deletions]
    return np.unique(np.concatenate(found)) if found else NONE


def decode_z85(text: str) -> bytes:
    """Decodes bytes from the base 85 of ZeroMQ.

    Raises:
        ValueError: it is something else.
    """
    return base64.b85decode(text.encode().translate(bytes.maketrans(Z85, PYTHON_85)))


def vector_name(text: str) -> str:
    """Returns the name of the file of a deletion vector, relative to its table, from Delta's log.

    Raises:
        ValueError: the text names none.
    """
    folder, name = text[:-UUID_CHARACTERS], text[-UUID_CHARACTERS:]
    file = f"deletion_vector_{uuid.UUID(bytes=decode_z85(name))}.bin"
    return f"{folder}/{file}" if folder else file


def _read(deletion: Deletion, options: Options, rows: int) -> Positions:
    try:
        if deletion.inline:
            return _positions(decode_z85(deletion.inline), rows)
        if deletion.kind == "delta":
            return _positions(_framed(_bytes_of_delta(deletion, options)), rows)
        if deletion.kind == "puffin":
            return _of_puffin(deletion, options, rows)
        return _position_deletes(deletion.path, options).get(deletion.target, NONE)
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # libraries raise any exception over a damaged file
        raise _unreadable(deletion, one_line(error)) from None


def _bytes_of_delta(deletion: Deletion, options: Options) -> bytes:
    """Returns a deletion vector with its frame: four bytes before it, and four behind."""
    with storage.connect(deletion.path, options).open(deletion.path) as file:
        file.seek(deletion.offset)
        return bytes(file.read(deletion.size + 8))


def _framed(data: bytes) -> bytes:
    """Returns what a frame holds.

    Raises:
        ValueError: its checksum does not fit.
    """
    end = 4 + int.from_bytes(data[:4], "big")
    if int.from_bytes(data[end : end + 4], "big") != zlib.crc32(data[4:end]) or len(data) < end + 4:
        raise ValueError("its checksum does not fit")
    return data[4:end]


def _positions(data: bytes, rows: int) -> Positions:
    """Returns the positions in a bitmap. It is measured before it expands.

    Raises:
        ValueError: it is not a bitmap, or has other positions than a file of so many rows.
    """
    from pyroaring import BitMap64  # noqa: PLC0415  (an extra)

    if not data.startswith(MAGIC):
        raise ValueError("is not a bitmap that is known here")
    bitmap = BitMap64.deserialize(data[len(MAGIC) :])
    if len(bitmap) > rows or (len(bitmap) and bitmap.max() >= rows):
        raise ValueError(f"deletes row {bitmap.max()} of {rows}")
    return np.array(bitmap.to_array(), np.int64)


def _of_puffin(deletion: Deletion, options: Options, rows: int) -> Positions:
    """Returns the positions that a Puffin file lists for a data file."""
    from pyiceberg.table.puffin import PuffinFile  # noqa: PLC0415  (an extra)

    puffin = PuffinFile(storage.connect(deletion.path, options).read(deletion.path))
    for blob in puffin.footer.blobs:
        if blob.properties.get("referenced-data-file") == deletion.target:
            return _positions(_framed(puffin.get_blob_payload(blob)), rows)
    raise ValueError("does not name the data file")


@functools.lru_cache(FILES_KEPT)
def _position_deletes(path: str, options: Options) -> Mapping[str, Positions]:
    """Returns the positions that a position delete file lists, by data file."""
    with storage.connect(path, options).open(path) as file:
        table = pq.ParquetFile(file).read(["file_path", "pos"])
    encoded = table.column("file_path").cast(pa.string()).combine_chunks().dictionary_encode()
    numbers, positions = encoded.indices.to_numpy(), table.column("pos").to_numpy()
    order = np.argsort(numbers, kind="stable")
    edges = np.searchsorted(numbers[order], np.arange(len(encoded.dictionary) + 1))
    return {
        target: positions[order[edges[at] : edges[at + 1]]].astype(np.int64)
        for at, target in enumerate(encoded.dictionary.to_pylist())
    }


def _checked(positions: Positions, deletion: Deletion, rows: int) -> Positions:
    if len(positions) and not 0 <= positions.min() <= positions.max() < rows:
        raise _unreadable(deletion, f"it deletes row {positions.max()} of {rows}")
    if deletion.rows is not None and deletion.rows != len(positions):
        raise _unreadable(deletion, f"it deletes {len(positions)} rows, and the log says {deletion.rows}")
    return positions


def _unreadable(deletion: Deletion, got: str) -> SourceError:
    where = deletion.path or "the log"
    hint = "rewrite the data file without deleted rows (OPTIMIZE, REORG or rewrite_data_files)"
    return SourceError("its deleted rows are not known", got=f"{where}: {got}", hint=hint)
