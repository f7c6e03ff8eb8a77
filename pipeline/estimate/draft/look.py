"""Looks at a file, a folder, a glob or a table: finds its files, their format, and the rows at its start.

Cost: one listing, and the start of one file (of Parquet the plain columns of its first row group).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config.source import FORMATS, Source, format_of, without_compression
from pipeline.errors import ConfigError, SourceError
from pipeline.humanize import plural, size
from pipeline.source.formats import partition_keys
from pipeline.source.formats.clues import clues
from pipeline.source.formats.compression import compression
from pipeline.source.formats.delimited import OTHER_DELIMITERS
from pipeline.source.formats.encoding import content
from pipeline.source.formats.parquet import open_footer
from pipeline.source.tables import table_in

ROWS = 1_000
"""The most rows that are looked at."""
SAMPLE_BYTES = 1 << 20
"""The most bytes of a text format that are looked at, after decompression."""
SMALL_FILE = 1 << 20
"""The mean size up to which each of many plain texts is taken as one document."""
DOCUMENT_SUFFIXES = (".md", ".rst", ".html", ".htm", ".xml", ".tex")
OTHER_ENCODING = "cp1252"
"""What a text is taken as that is not UTF-8 and has no byte order mark: any bytes are text in it, nearly."""

PLAIN = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
"""The types of columns that may be the text or the id."""

Settings = dict[str, Any]
_Reader = Callable[[Source, list[storage.ObjectInfo]], tuple[pa.Table, Settings, list[str]]]


@dataclass(frozen=True)
class Look:
    """The findings of a look.

    path, settings: of the source, as the config will have them.  files: those that it reads.
    kind: the name of the format.  why: what the format rests on.
    partitions: the keys of all files' folders.
    rows: the first rows, nested columns by dotted paths; no column if each document is a line or a file.
    notes: what else should be known, a sentence each.
    """

    path: str
    kind: str
    why: str
    files: list[storage.ObjectInfo]
    settings: Settings
    partitions: list[str]
    rows: pa.Table
    notes: list[str] = field(default_factory=list)

    @property
    def extent(self) -> str:
        """Returns how many files there are, and their size."""
        return f"{plural(len(self.files), 'file')}, {size(sum(info.size for info in self.files))}"


def look(path: str) -> Look:
    """Looks at what a path names.

    Raises:
        MissingError: it names nothing.
        ConfigError: nothing there can be read as a source.
        StorageError: storage failed.
    """
    store = storage.connect(path)
    if table := None if set(path) & set("*?[") else table_in(store, path.rstrip("/")):
        return _table(path.rstrip("/"), table.lower())
    found = store.search(path).files
    suffix, files = _main_kind(found)
    others = len(found) - len(files)
    notes = [f"{plural(others, 'other file')} beside these: a source has one format"] if others else []
    path = _glob(path, suffix) if others else path
    kind, why = _format(suffix, files)
    source = Source.model_validate({"path": path, "format": kind})
    rows, settings, more = _first_rows(source, files)
    return Look(
        path=path,
        kind=kind,
        why=why,
        files=files,
        settings=settings,
        partitions=_partitions(files),
        rows=rows,
        notes=notes + more,
    )


def _table(path: str, kind: str) -> Look:
    if kind not in FORMATS:
        raise ConfigError(f"is a table of {kind}, which can't be read here", path, hint="write it as Parquet")
    source = Source.model_validate({"path": path, "format": kind})
    files = storage.connect(path).search(f"{path}/**/*.parquet").files
    notes = ["some of the files may be of older versions of the table; its log says which count"]
    rows, _, _ = _first_rows(source, files)
    return Look(path, kind, "the folder has a table's log", files, {}, [], rows, notes)


def _main_kind(found: list[storage.ObjectInfo]) -> tuple[str, list[storage.ObjectInfo]]:
    """Returns the ending of most bytes, with that of a compression, and the files that have it."""
    weights: Counter[str] = Counter()
    for info in found:
        weights[_suffix(info.path)] += info.size + 1
    suffix = weights.most_common(1)[0][0]
    return suffix, [info for info in found if _suffix(info.path) == suffix]


def _suffix(path: str) -> str:
    plain = without_compression(path)
    return plain.suffix + PurePosixPath(path).name.removeprefix(plain.name)


def _glob(path: str, suffix: str) -> str:
    """Returns the pattern of the files with an ending, below a folder or the folder of a pattern."""
    if set(path) & set("*?["):
        return path if path.endswith(suffix) else f"{path}{suffix}"
    return f"{path.rstrip('/')}/**/*{suffix}"


def _partitions(files: list[storage.ObjectInfo]) -> list[str]:
    keys = [list(partition_keys(info.path)) for info in files[:ROWS]]
    return [key for key in keys[0] if all(key in each for each in keys)]


def _format(suffix: str, files: list[storage.ObjectInfo]) -> tuple[str, str]:
    """Returns the format of files with an ending, and what that rests on."""
    kind, mean = format_of(files[0].path), sum(info.size for info in files) / len(files)
    if kind == "text" and len(files) > 1 and mean <= SMALL_FILE:
        return "text-files", "a guess: many small texts; `text` makes each line a document"
    if kind:
        return kind, f"by the ending {suffix}"
    if without_compression(files[0].path).suffix in DOCUMENT_SUFFIXES:
        return "text-files", f"a guess: a file of the ending {suffix} is a document, with its markup"
    return _by_content(files[0])


def _by_content(info: storage.ObjectInfo) -> tuple[str, str]:
    """Returns the format that the start of a file looks like."""
    source = Source.model_validate({"path": info.path, "format": "text"})
    with storage.connect(info.path).open(info.path, info) as file:
        if file.read(4) == b"PAR1":
            return "parquet", "by its content"
    start = _start(source, info)
    lines = start.splitlines()
    if lines and all(_is_object(line) for line in lines[:20]):
        return "jsonl", "by its content: each line is an object"
    if start.lstrip().startswith(("{", "[")):
        hint = "write one object a line (jq -c), as .jsonl"
        raise ConfigError("looks like one JSON document", info.path, hint=hint)
    delimiter, fields = _delimiter(start)
    if fields > 1:
        return ("tsv" if delimiter == "\t" else "csv"), "a guess: its lines have the same number of fields"
    return "text", "a guess: each line is a document; `text-files` makes each file one"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _first_rows(source: Source, files: list[storage.ObjectInfo]) -> tuple[pa.Table, Settings, list[str]]:
    """Returns the first rows of a file that has some, what the config must say of them, and notes."""
    readers: Mapping[str, _Reader] = {
        "parquet": _parquet, "delta": _parquet, "iceberg": _parquet,
        "jsonl": _jsonl, "csv": _delimited, "tsv": _delimited,
    }  # fmt: skip
    reader: _Reader = readers.get(source.format, _texts)
    filled = [info for info in files if info.size]
    if not filled:
        raise ConfigError("all of its files are empty", source.path, hint="name other files")
    try:
        return reader(source, filled)
    except SourceError as error:
        raise ConfigError(error.what, error.where or filled[0].path, error.got, error.hint) from error


def _parquet(source: Source, files: list[storage.ObjectInfo]) -> tuple[pa.Table, Settings, list[str]]:
    info = files[0]
    with storage.connect(info.path, source.options).open(info.path, info) as file:
        parquet = open_footer(file, info.size)
        plain = [each.name for each in parquet.schema_arrow if _is_plain(each.type)]
        batch = next(parquet.iter_batches(ROWS, columns=plain), None)
        if batch is None:
            return _typed({name: [] for name in plain}), {}, []
        rows: pa.Table = pa.Table.from_batches([batch])
    while any(pa.types.is_struct(each.type) for each in rows.schema):
        rows = rows.flatten()
    return rows, {}, []


def _is_plain(kind: pa.DataType) -> bool:
    """Tells whether a column is text, a number that may be an id, or a struct of such."""
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(at).type) for at in range(kind.num_fields))
    return any(matches(kind) for matches in PLAIN)


def _jsonl(source: Source, files: list[storage.ObjectInfo]) -> tuple[pa.Table, Settings, list[str]]:
    start, settings, notes = _text(source, files[0])
    lines = filter(_is_object, islice(start.splitlines(), ROWS))
    found = [dict(_leaves(json.loads(line))) for line in lines]
    names = list(dict.fromkeys(name for row in found for name in row))
    columns = {name: [row.get(name) for row in found] for name in names}
    return _typed(columns), settings, notes


def _leaves(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted path and the value of each field that is not nested."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _typed(columns: Mapping[str, list[Any]]) -> pa.Table:
    """Makes a table of the columns that are strings or whole numbers."""
    kinds = {name: {type(value) for value in values if value is not None} for name, values in columns.items()}
    typed = {str: pa.large_string(), int: pa.int64()}
    kept = {name: typed[next(iter(found))] for name, found in kinds.items() if found in ({str}, {int})}
    arrays = {}
    for name, kind in kept.items():
        try:
            arrays[name] = pa.array(columns[name], kind)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            continue  # an integer beyond 64 bits, or half of a surrogate pair
    return pa.table(arrays)


def _delimited(source: Source, files: list[storage.ObjectInfo]) -> tuple[pa.Table, Settings, list[str]]:
    start, settings, notes = _text(source, files[0])
    expected = source.csv.delimiter or ","
    delimiter, fields = _delimiter(start)
    told: Settings = {}
    if fields > 1 and delimiter != expected:
        told["delimiter"] = delimiter
    rows = _fields(start, told.get("delimiter", expected))
    header = rows[0] if rows else []
    if not _names_columns(header):
        header = [f"column_{number}" for number in range(1, len(header) + 1)]
        told["names"] = header
        notes.append("the first line does not look like names of columns, so they are numbered")
    else:
        rows = rows[1:]
    settings |= {"csv": told} if told else {}
    whole = [row for row in rows if len(row) == len(header)]
    columns = {name: [row[at] for row in whole] for at, name in enumerate(header)}
    with_dialect = Source.model_validate({"path": source.path, "format": source.format, **settings})
    notes += [f"a file {clue}" for clue in clues(start, with_dialect)]
    return _typed(columns), settings, notes


def _delimiter(start: str) -> tuple[str, int]:
    """Returns the delimiter by which lines have the most fields, all the same number, and that number."""
    found = []
    for delimiter in OTHER_DELIMITERS:
        counts = Counter(len(row) for row in _fields(start, delimiter)[:50])
        fields, rows = counts.most_common(1)[0] if counts else (1, 0)
        found.append((fields if rows > 0.8 * counts.total() else 1, delimiter))
    fields, delimiter = max(found, key=lambda each: each[0])
    return delimiter, fields


def _fields(start: str, delimiter: str) -> list[list[str]]:
    """Returns the fields of the first rows; a row that the sample cuts off is not among them."""
    try:
        return [row for row in islice(csv.reader(io.StringIO(start), delimiter=delimiter), ROWS) if row]
    except csv.Error:
        return []


def _names_columns(row: list[str]) -> bool:
    """Tells whether fields look like the names of columns: short, distinct, and none of them a number."""
    return len(set(row)) == len(row) and all(
        each.strip() and len(each) <= 100 and not each.strip().lstrip("-").replace(".", "").isdigit()
        for each in row
    )


def _texts(source: Source, files: list[storage.ObjectInfo]) -> tuple[pa.Table, Settings, list[str]]:
    _, settings, notes = _text(source, files[0])
    return pa.table({}), settings, notes


def _text(source: Source, info: storage.ObjectInfo) -> tuple[str, Settings, list[str]]:
    """Returns the start of a file, and its encoding if it is not UTF-8."""
    try:
        return _start(source, info), {}, []
    except UnicodeDecodeError:
        other = source.model_copy(update={"encoding": OTHER_ENCODING})
        notes = [f"it is not UTF-8, and {OTHER_ENCODING} is a guess: try others if letters look wrong"]
        return _start(other, info), {"encoding": OTHER_ENCODING}, notes


def _start(source: Source, info: storage.ObjectInfo) -> str:
    """Returns the complete lines at the start of a file, as text.

    Raises:
        SourceError: it is damaged, or not text.
        UnicodeDecodeError: it is text in another encoding.
    """
    start = b""
    with storage.connect(info.path, source.options).open(info.path, info) as file:
        for block in content(file, compression(info.path, source), info.size, source):
            start += block
            if len(start) >= SAMPLE_BYTES:
                start = start[:SAMPLE_BYTES]
                return start[: start.rfind(b"\n") + 1].decode()
    return start.decode()
