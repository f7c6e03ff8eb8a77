"""Bytes that anybody may have written become what they should be: JSON, and tables of plain columns.

No value of a Parquet file becomes an object of Python before the types of all columns are known. A column of
an extension type decides by itself what its values become: of one that Ray registers they are pickles, which
run code. No file of a dataset has such a column, so one that has is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DamagedError, PipelineError, one_line

EXTENSION_KEY = b"ARROW:extension:name"
"""In a field's metadata, where its extension type is not registered here."""
LONGEST_SHOWN = 200


def json_value(data: bytes | str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DamagedError: it is none.
    """
    with damage(where):
        found = json_value(data)
        if not isinstance(found, dict):
            raise ValueError(f"is no JSON object, but {type(found).__name__}")
        return found


def opened(file: Any, where: str, **options: Any) -> pq.ParquetFile:
    """A Parquet file whose columns are all plain; its footer is read, and no more.

    Args:
        file: what Arrow can read from, or the bytes of the file.

    Raises:
        DamagedError: it is none, or has a column of an extension type.
    """
    with damage(where):
        parquet = pq.ParquetFile(pa.BufferReader(file) if isinstance(file, bytes) else file, **options)
        refuse_extensions(parquet.schema_arrow)
        return parquet


def table(data: bytes, wanted: pa.Schema, where: str) -> pa.Table:
    """The columns of a schema in a Parquet file; its others are not read.

    Raises:
        DamagedError: it lacks one, or its values are not of that type.
    """
    return columns(opened(data, where), wanted, where)


def columns(parquet: pq.ParquetFile, wanted: pa.Schema, where: str) -> pa.Table:
    """As `table`, of a file that is open."""
    with damage(where):
        return parquet.read(wanted.names).select(wanted.names).cast(wanted)


def refuse_other(parquet: pq.ParquetFile, wanted: pa.Schema, where: str) -> None:
    """Refuse a file that has not exactly these columns.

    Raises:
        DamagedError: it has others.
    """
    with damage(where):
        if not parquet.schema_arrow.equals(wanted, check_metadata=False):
            raise TypeError(difference(parquet.schema_arrow, wanted))


def difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """Where two schemas part, in a few words."""
    for field in wanted:
        if found.names.count(field.name) != 1:
            return f"column {field.name!r} is {'missing' if field.name not in found.names else 'there twice'}"
        if not found.field(field.name).equals(field):
            return f"column {field.name!r} is {found.field(field.name)}, not {field}"
    extra = [name for name in found.names if name not in wanted.names]
    return f"column {extra[0]!r} does not belong here" if extra else "its columns are in another order"


def refuse_extensions(found: pa.Schema) -> None:
    """Refuse extension types, however deep.

    Raises:
        TypeError: there is one.
    """
    for field in found:
        if _is_extended(field):
            raise TypeError(f"column {field.name!r} is of an extension type, which no file of ours has")


def _is_extended(field: pa.Field) -> bool:
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType) or EXTENSION_KEY in (field.metadata or {}):
        return True
    if pa.types.is_dictionary(kind):  # it has values, and no fields
        return _is_extended(pa.field("", kind.value_type))
    return any(_is_extended(kind.field(index)) for index in range(kind.num_fields))


@contextmanager
def damage(where: str) -> Iterator[None]:
    """What damaged bytes make a library raise, as an error that names their file; our own errors pass.

    Raises:
        DamagedError: anything was raised that is not ours.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # the boundary: damaged bytes make Arrow and JSON raise what they like
        hint = "put back the file that was written; `verify` tells what else is damaged"
        raise DamagedError("can't be read", where, brief(error), hint) from None


def brief(error: Exception) -> str:
    """An error in one short line."""
    if isinstance(error, DamagedError):
        return error.got
    known = isinstance(error, pa.ArrowException | OSError | TypeError | ValueError)
    text = one_line(error) if known else repr(error)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
