"""Divides the rows of a piece into documents to embed and rejects. A bad row never costs a good one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.errors import SourceError
from pipeline.source.piece import LONGEST_DOCUMENT, Piece, RawRows

PAIR = b"pair of texts"
"""BLAKE2b's personalization of the hash of a pair."""
KEPT_CHARACTERS = 1000
"""The most characters of a rejected text that are kept."""
NOTHING_VISIBLE = r"^[\s\pZ\p{Cc}\p{Cf}]*$"
"""A text of nothing but white space, controls (NUL, the Ctrl-Z of DOS), zero-width spaces and marks."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of a piece with their columns of the shard, except those of tokens; and the rejects.

    texts: valid, non-blank large_strings, or pairs of them (`schema.TEXT_PAIR`).
    rows: `carried columns + text_hash, source_file, source_row`.
    rejects: a table of `schema.REJECTS`.
    """

    texts: pa.Array
    rows: pa.Table
    rejects: pa.Table


def separate_rejects(
    raw: RawRows,
    piece: Piece,
    columns: pa.Schema,
    keep_text: bool,
    replace_errors: bool,
    seconds: pa.Array | None = None,
) -> Documents:
    """Separates documents from rows that can't be embedded: unreadable, null, not UTF-8, blank or too long.

    Args:
        columns: the id and carried columns of the shards; the file's columns are cast to them without loss.
        replace_errors: True if bytes that are not UTF-8 become U+FFFD and their row is embedded.
        seconds: the second text of each row, as the texts are; None if documents are single texts.

    Raises:
        SourceError: a column can't be cast.
    """
    if replace_errors:
        raw = _replaced(raw)
        seconds = seconds if seconds is None else _repaired(seconds)
    checked = [_checked(each) for each in (raw.texts, seconds) if each is not None]
    texts = checked[0].texts
    faults = np.array(raw.faults.to_pylist() if raw.faults else [""] * len(texts), np.str_)
    reasons = np.select(
        [
            faults != "",
            *(_any(checked, name) for name in ("invalid", "null", "blank", "too_long")),
            ~_valid_columns(raw.columns, len(texts)),
        ],
        [faults, "invalid_utf8", "null", "blank", "too_long", "invalid_utf8_carried"],
        "",
    )
    rejects = _rejects(texts, reasons, raw.positions, piece, keep_text)
    good = pa.array(reasons == "")
    kept = [each.texts.filter(good) for each in checked]
    # Rows that are not UTF-8 must be dropped before columns are cast.
    kept_columns = raw.columns.filter(good) if raw.columns.num_columns else raw.columns
    raw = replace(raw, columns=kept_columns, positions=raw.positions.filter(good))
    rows = _carried(raw, piece, columns).append_column(schema.SHARD_TAIL.field("text_hash"), _hashes(kept))
    return Documents(_documents(kept), rows, rejects)


def faults(texts: pa.Array) -> npt.NDArray[np.str_]:
    """Returns why each text can't be embedded, (rows,): the reason of its reject; empty if it can.

    Args:
        texts: large_strings, which may be null, and whose bytes nobody has checked.
    """
    checked = _checked(texts)
    reasons = ("invalid_utf8", checked.invalid), ("null", checked.null), ("blank", checked.blank)
    found = dict((*reasons, ("too_long", checked.too_long)))
    return np.select(list(found.values()), list(found), "")


@dataclass(frozen=True, slots=True)
class _Checked:
    """Texts with nulls in the places of those that are not UTF-8, and what is wrong with which, (rows,)."""

    texts: pa.Array
    invalid: npt.NDArray[np.bool_]
    null: npt.NDArray[np.bool_]
    blank: npt.NDArray[np.bool_]
    too_long: npt.NDArray[np.bool_]


def _checked(texts: pa.Array) -> _Checked:
    valid = _valid_utf8(texts)
    # Nulls replace texts that are not UTF-8: no kernel below may see such bytes.
    texts = texts if valid.all() else pc.if_else(pa.array(valid), texts, None)
    blank = pc.match_substring_regex(texts, NOTHING_VISIBLE).fill_null(False)
    too_long = pc.greater(pc.binary_length(texts), LONGEST_DOCUMENT).fill_null(False)
    found = (each.to_numpy(zero_copy_only=False) for each in (texts.is_null(), blank, too_long))
    return _Checked(texts, ~valid, *found)


def _any(checked: Sequence[_Checked], name: str) -> npt.NDArray[np.bool_]:
    """Tells in which rows any of the texts has a fault, (rows,)."""
    return np.asarray(np.logical_or.reduce([getattr(each, name) for each in checked]))


def _documents(texts: Sequence[pa.Array]) -> pa.Array:
    """Returns single texts as they are, and two as pairs."""
    if len(texts) == 1:
        return texts[0]
    return pa.StructArray.from_arrays(list(texts), fields=list(schema.TEXT_PAIR))


def _replaced(raw: RawRows) -> RawRows:
    """Replaces bytes that are not UTF-8 by U+FFFD (Unicode 5.22, "substitution of maximal subparts")."""
    columns = {
        name: _repaired(column.cast(pa.large_string()).combine_chunks()) if _is_string(column) else column
        for name, column in zip(raw.columns.column_names, raw.columns.columns, strict=True)
    }
    return replace(raw, texts=_repaired(raw.texts), columns=pa.table(columns))


def _repaired(texts: pa.Array) -> pa.Array:
    valid = _valid_utf8(texts)
    if valid.all():
        return texts
    binary = texts.cast(pa.large_binary()).to_pylist()
    return pa.array(
        [None if value is None else value.decode(errors="replace") for value in binary],
        pa.large_string(),
    )


def _is_string(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _valid_utf8(texts: pa.Array) -> npt.NDArray[np.bool_]:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        # Each text is checked on its own only if at least one is broken.
        binary = texts.cast(pa.large_binary())
        return np.fromiter((_decodes(value.as_buffer()) for value in binary), np.bool_, len(binary))
    return np.ones(len(texts), np.bool_)


def _valid_columns(columns: pa.Table, rows: int) -> npt.NDArray[np.bool_]:
    """Finds the rows whose carried strings are all UTF-8; with others, some readers can't read the shard."""
    valid = np.ones(rows, np.bool_)
    for column in columns.columns:
        if _is_string(column):
            valid &= _valid_utf8(column.cast(pa.large_string()).combine_chunks())
        elif pa.types.is_nested(column.type):
            valid &= _valid_inside(column)
    return valid


def _valid_inside(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Finds the rows of lists, structs or maps in which all strings are UTF-8."""
    if _is_valid(column):
        return np.ones(len(column), np.bool_)
    # `take`, because Arrow validates a slice by all values of the column that it was sliced from.
    return np.fromiter((_is_valid(column.take([row])) for row in range(len(column))), np.bool_, len(column))


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(value: pa.Buffer | None) -> bool:
    try:
        str(value or b"", "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _carried(raw: RawRows, piece: Piece, columns: pa.Schema) -> pa.Table:
    """Returns the carried columns as the shards have them, and the file and position of each row."""
    arrays = []
    for field in columns:
        if field.name in raw.columns.column_names:
            arrays.append(_cast(raw.columns.column(field.name), field))
        elif field.name == "id":
            positions = raw.positions.cast(pa.string())
            arrays.append(pc.binary_join_element_wise(f"{piece.source_file}#", positions, ""))
        else:
            arrays.append(pa.nulls(len(raw.positions), field.type))
    arrays.append(pa.repeat(pa.scalar(piece.source_file), len(raw.positions)))
    tail = [schema.SHARD_TAIL.field("source_file"), schema.SHARD_TAIL.field("source_row")]
    return pa.Table.from_arrays([*arrays, raw.positions], schema=pa.schema([*columns, *tail]))


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        if schema.loses_digits(column.type, field.type):
            raise pa.ArrowTypeError(f"{column.type} to {field.type} loses digits")
        return column.cast(field.type)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise SourceError(
            f"column {field.name!r} can't be cast to {field.type}",
            got=reason,
            hint="give it one type in all files, or do not carry it",
        ) from None


def _hashes(texts: Sequence[pa.Array]) -> pa.Array:
    """Returns the BLAKE2b-128 (RFC 7693) of the UTF-8 bytes of each document.

    That of a pair is over the digests of both texts, and personalized: no single text has it.
    """
    digests = [_digests(each) for each in texts]
    if len(digests) == 1:
        return pa.array(digests[0], pa.binary())
    pairs = zip(*digests, strict=True)
    joined = [blake2b(b"".join(pair), digest_size=16, person=PAIR).digest() for pair in pairs]
    return pa.array(joined, pa.binary())


def _digests(texts: pa.Array) -> list[bytes]:
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8).tolist()
    data = memoryview(texts.buffers()[2] or b"")
    return [blake2b(data[start:stop], digest_size=16).digest() for start, stop in itertools.pairwise(offsets)]


def _rejects(
    texts: pa.Array, reasons: npt.NDArray[np.str_], positions: pa.Array, piece: Piece, keep_text: bool
) -> pa.Table:
    bad = pa.array(reasons != "")
    kept = pc.utf8_slice_codeunits(texts.filter(bad), 0, KEPT_CHARACTERS).cast(pa.string())
    columns = {
        "source_file": pa.repeat(pa.scalar(piece.source_file), len(kept)),
        "source_row": positions.filter(bad),
        "reason": pa.array(reasons[reasons != ""].tolist(), pa.string()),
        "permanent": pa.repeat(pa.scalar(True), len(kept)),
        "text": kept if keep_text else pa.nulls(len(kept), pa.string()),
    }
    return pa.Table.from_pydict(columns, schema=schema.REJECTS)
