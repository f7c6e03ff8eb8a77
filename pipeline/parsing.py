"""Parses bytes that anybody may have written: JSON, and tables of plain columns.

No value of a Parquet file becomes a Python object before the types of all columns are known. An extension
type decides itself what its values become: the values of a type that Ray registers are pickles, which run
code. No file of a dataset has such a column, so a file that has one is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DamagedError, PipelineError, one_line

EXTENSION_KEY = b"ARROW:extension:name"
"""The key in a field's metadata that names its extension type, if the type is not registered here."""
LONGEST_SHOWN = 200


def json_value(data: bytes | str) -> Any:
    """Parses a JSON text.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        DamagedError: the data are not a JSON object.
    """
    with damage(where):
        found = json_value(data)
        if not isinstance(found, dict):
            raise ValueError(f"is not a JSON object, but {type(found).__name__}")
        return found


def opened(file: Any, where: str, **options: Any) -> pq.ParquetFile:
    """Opens a Parquet file whose columns are all plain; it reads only the footer.

    Args:
        file: what Arrow can read from, or the bytes of the file.

    Raises:
        DamagedError: the file is not Parquet, or has a column of an extension type.
    """
    with damage(where):
        parquet = pq.ParquetFile(pa.BufferReader(file) if isinstance(file, bytes) else file, **options)
        refuse_extensions(parquet.schema_arrow)
        return parquet


def table(data: bytes, wanted: pa.Schema, where: str) -> pa.Table:
    """Reads the columns of a schema from a Parquet file, and no others.

    Raises:
        DamagedError: the file lacks a column, or its values have another type.
    """
    return columns(opened(data, where), wanted, where)


def columns(parquet: pq.ParquetFile, wanted: pa.Schema, where: str) -> pa.Table:
    """Reads the columns of a schema from an open Parquet file, as `table` does."""
    with damage(where):
        return parquet.read(wanted.names).select(wanted.names).cast(wanted)


def refuse_other(parquet: pq.ParquetFile, wanted: pa.Schema, where: str) -> None:
    """Refuses a file that does not have exactly these columns.

    Raises:
        DamagedError: the file has other columns.
    """
    with damage(where):
        if not parquet.schema_arrow.equals(wanted, check_metadata=False):
            raise TypeError(difference(parquet.schema_arrow, wanted))


def difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """Describes the first difference between two schemas in a few words."""
    for field in wanted:
        if found.names.count(field.name) != 1:
            return f"column {field.name!r} is {'missing' if field.name not in found.names else 'there twice'}"
        if not found.field(field.name).equals(field):
            return f"column {field.name!r} is {found.field(field.name)}, not {field}"
    extra = [name for name in found.names if name not in wanted.names]
    return f"column {extra[0]!r} does not belong here" if extra else "its columns are in another order"


def refuse_extensions(found: pa.Schema) -> None:
    """Refuses extension types, at any depth.

    Raises:
        TypeError: a column has an extension type.
    """
    for field in found:
        if _is_extended(field):
            raise TypeError(f"column {field.name!r} has an extension type, which no file of a dataset has")


def _is_extended(field: pa.Field) -> bool:
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType) or EXTENSION_KEY in (field.metadata or {}):
        return True
    if pa.types.is_dictionary(kind):  # it has values, and no fields
        return _is_extended(pa.field("", kind.value_type))
    return any(_is_extended(kind.field(index)) for index in range(kind.num_fields))


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Turns what a library raises for damaged bytes into an error that names the file; our own errors pass.

    Raises:
        DamagedError: a library raised any error.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # the boundary: damaged bytes can make Arrow and JSON raise anything
        hint = "put back the file that was written; `verify` shows what else is damaged"
        raise DamagedError("can't be read", where, brief(error), hint) from None


def brief(error: Exception) -> str:
    """Describes an error in one short line."""
    if isinstance(error, DamagedError):
        return error.got
    known = isinstance(error, pa.ArrowException | OSError | TypeError | ValueError)
    text = one_line(error) if known else repr(error)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
