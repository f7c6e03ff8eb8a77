"""A source in the config: its files, their format, and the columns to use."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.location import Name, Options, Path_, PathOptions, Section


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """The options that a config may set for the files of a format.

    suffixes: the endings by which `auto` finds it.  columns: True if its rows have columns beside the text.
    compressible: True if its files may be compressed, as a .gz file is.
    dialect: the default delimiter and quote of `csv`; None if `csv` means nothing to the format.
    table: True if its path is a table's folder, whose log names the files.
    """

    suffixes: tuple[str, ...] = ()
    columns: bool = True
    compressible: bool = True
    dialect: tuple[str, str] | None = None
    table: bool = False


FORMATS = {
    "parquet": FormatOptions((".parquet", ".pq"), compressible=False),
    "text": FormatOptions((".txt",), columns=False),
    "text-files": FormatOptions(columns=False),
    "jsonl": FormatOptions((".jsonl", ".ndjson")),
    "csv": FormatOptions((".csv",), dialect=(",", '"')),
    "tsv": FormatOptions((".tsv",), dialect=("\t", "")),
    "delta": FormatOptions(compressible=False, table=True),
    "iceberg": FormatOptions(compressible=False, table=True),
}
"""The formats by their names in `Source.format`. `source.formats.FORMATS` has the functions to read them."""
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
ICEBERG_METADATA = ".metadata.json"
"""What the names of an Iceberg table's metadata files end with."""
NO_ENCODINGS = ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "mbcs", "oem")
"""The codecs of Python from bytes to text that are not encodings of files."""
ENCODING_HINT = "name one such as utf-8, gbk or cp1252"


def without_compression(path: str) -> PurePosixPath:
    """Returns a path without the ending that names a compression."""
    name = PurePosixPath(path)
    return name.with_suffix("") if name.suffix in COMPRESSIONS else name


def format_of(path: str) -> str | None:
    """Returns the format that the ending of a path names; None if it names none."""
    suffix = without_compression(path).suffix
    return next((kind for kind, options in FORMATS.items() if suffix in options.suffixes), None)


class Csv(Section):
    """The dialect of a CSV or TSV file (RFC 4180 by default)."""

    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character between two fields. Default: a comma; a tab for tsv.",
    )
    quote: str | None = Field(
        None,
        max_length=1,
        description='Character around a field; empty for none. Default: `"` for csv, none for tsv.',
    )
    escape: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character before a quote within a quoted field, such as the backslash of Spark. Without "
        r"quotes: the character before a delimiter or a letter, as in `\t` of MySQL and PostgreSQL. "
        "Default: a quote is doubled.",
    )
    null_values: tuple[str, ...] = Field(
        (), description=r"Fields without quotes that stand for null, such as `\N` of Hive and MySQL."
    )
    names: tuple[Name, ...] | None = Field(
        None, description="Names of the columns, for files whose first line does not name them."
    )
    newlines_in_fields: bool = Field(
        True,
        description="A quoted field may hold a line end. `false` lets files be cut, and rejects rows with "
        "such fields. Without quotes and `escape` a field never holds one.",
    )

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _within_a_line(cls, value: str | None) -> str | None:
        if value in ("\n", "\r"):
            raise ValueError("ends a line: name another character")
        return value


class Source(Section):
    """A named set of files."""

    path: Path_ = Field(
        description="A file, a folder (read recursively) or a glob (`*`, `?`, `**`); local, `s3://`, "
        "`gs://`, `abfs://` (account: `AZURE_STORAGE_ACCOUNT_NAME`) or `hf://`. Of a table: its folder."
    )
    options: PathOptions = Field(Options(), description="How to reach the storage of `path`.")
    format: Literal[
        "auto", "parquet", "text", "text-files", "jsonl", "csv", "tsv", "delta", "iceberg"
    ] = Field(
        "auto",
        description="`parquet`; `text` (each line is a document); `text-files` (each file is a document); "
        "`jsonl` (each line is an object); `csv`; `tsv`; `delta` and `iceberg` (a table, `path` is its "
        "folder). `auto` goes by the ending of `path`.",
    )  # fmt: skip
    version: int | None = Field(
        None,
        ge=0,
        description="Of a table: the version (Delta) or the snapshot's id (Iceberg) to read. Default: the "
        "newest when the plan is made.",
    )
    compression: Literal["auto", "none", "gzip", "bz2", "zstd", "xz"] = Field(
        "auto",
        description="Compression of the files; `auto` goes by each file's ending (`.gz`, `.bz2`, `.zst`, "
        "`.xz`). Not for parquet, which compresses its own pages.",
    )
    text_column: Name | None = Field(
        None,
        description="The column to embed; a dotted path leads into nested columns. Default: `text`. Not for "
        "`text` and `text-files`.",
    )
    text_pair_column: Name | None = Field(
        None,
        description="The column of a second text, for models that read two: the tokens are those of "
        "`[CLS] text [SEP] second [SEP]`, and the longer text is shortened first. Needs "
        "`long_text: truncate`.",
    )
    prefix: str | None = Field(
        None,
        description="Text to put before each text of this source, such as `query: ` where other sources have "
        "`passage: `. Default: that of `model`.",
    )
    prompt: str | None = Field(
        None, description="The name of a prompt, as in `model`, for this source. In place of `prefix`."
    )
    id_column: Name | None = Field(
        None,
        description="The column that identifies a row, carried under its own name. Without one, `id` is "
        "`<source>/<file>#<row>`.",
    )
    carry: tuple[Name, ...] = Field(
        (), description="Other columns to copy into the shards; dots of a path become `_`."
    )
    partitions: tuple[Name, ...] = Field(
        (), description="Keys of folders such as `date=2026-01-01/`, to carry as strings. For all formats."
    )
    binary_as_string: bool = Field(
        False,
        description="Parquet: read columns of bytes that do not say what they hold as UTF-8 text. Files of "
        "old writers (Impala, Hive, ClickHouse) need it.",
    )
    hidden: Literal["skip", "dots", "read"] = Field(
        "skip",
        description="Which names do not count; `plan` tells how many. `skip`: those that begin with `.` or "
        "`_`, except `_key=value`; `dots`: those that begin with `.`; `read`: none.",
    )
    csv: Csv = Field(Csv(), description="The dialect of `csv` and `tsv` files.")
    encoding: str = Field(
        "utf-8",
        description="Encoding of the files, by the name that Python has for it: `utf-8`, `gbk`, `cp1252`, "
        "`utf-16`. A byte order mark in a file wins. Not for parquet.",
    )
    encoding_errors: Literal["reject", "replace"] = Field(
        "reject",
        description="Reject a row with bytes that are not text in its encoding, or replace them by U+FFFD.",
    )

    # There is a validator for each field, in their order, so that one mistake does not hide the others.

    @field_validator("path")
    @classmethod
    def _has_no_date(cls, value: str) -> str:
        if "{run_date}" in value:
            raise ValueError("{run_date} stands for the date in output.path alone: write the date, or a `*`")
        return value

    @field_validator("format")
    @classmethod
    def _resolve_format(cls, value: str, info: ValidationInfo) -> str:
        path = info.data.get("path", "")
        if value in FORMATS and FORMATS[value].table and set(path) & set("*?["):
            raise ValueError(f"{value} reads one table: path must be its folder, without wildcards")
        if value != "auto" or not path:
            return value
        if kind := format_of(path):
            return kind
        *others, last = FORMATS
        names = f"{', '.join(others)} or {last}"
        raise ValueError(f"can't tell the format of {path!r}: set it to {names}")

    @field_validator("version")
    @classmethod
    def _is_of_a_table(cls, value: int | None, info: ValidationInfo) -> int | None:
        kind = info.data.get("format")
        if value is not None and kind in FORMATS and not FORMATS[kind].table:
            raise ValueError(f"means nothing to {kind}: drop it")
        return value

    @field_validator("compression")
    @classmethod
    def _parquet_compresses_within(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("format")
        if value not in ("auto", "none") and kind in FORMATS and not FORMATS[kind].compressible:
            raise ValueError(f"{kind} compresses its own pages, and its files are never compressed: drop it")
        return value

    @field_validator("text_column", "text_pair_column", "id_column", "carry")
    @classmethod
    def _refuse_columns_of_text(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("format")
        columnless = kind in FORMATS and not FORMATS[kind].columns
        if value and columnless:
            raise ValueError("text files have no columns: drop it")
        if info.field_name == "text_column" and kind and not columnless:
            return value or "text"
        if info.field_name == "carry":
            _refuse_twice(value)
            others = {info.data.get("id_column")} - {None, *value}
            pair = {info.data.get("text_pair_column")} - {None, *value}
            _refuse_twice([shard_column(path) for path in (*value, *others, *(pair - others))])
        return value

    @field_validator("prompt")
    @classmethod
    def _in_place_of_prefix(cls, value: str | None, info: ValidationInfo) -> str | None:
        return in_place_of_prefix(value, info)

    @field_validator("partitions")
    @classmethod
    def _distinct(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        kind = info.data.get("format")
        if value and kind in FORMATS and FORMATS[kind].table:
            raise ValueError("the partition columns of a table are columns like others: carry them")
        others = (info.data.get("id_column") or "", *(info.data.get("carry") or ()))
        _refuse_twice([*value, *{shard_column(path) for path in others}])
        return value

    @field_validator("binary_as_string")
    @classmethod
    def _is_of_parquet(cls, value: bool, info: ValidationInfo) -> bool:
        kind = info.data.get("format")
        if value and kind and kind != "parquet":
            raise ValueError(f"means nothing to {kind}: drop it")
        return value

    @field_validator("hidden")
    @classmethod
    def _is_of_a_listing(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("format")
        if value != "skip" and kind in FORMATS and FORMATS[kind].table:
            raise ValueError(f"means nothing to {kind}, whose log names its files: drop it")
        return value

    @field_validator("csv")
    @classmethod
    def _resolve_csv(cls, value: Csv, info: ValidationInfo) -> Csv:
        kind = info.data.get("format")
        dialect = FORMATS[kind].dialect if kind in FORMATS else None
        if dialect is None:
            if kind and value != Csv():
                raise ValueError(f"means nothing to {kind}: drop it")
            return value
        delimiter, default_quote = dialect
        quote = default_quote if value.quote is None else value.quote
        delimiter = value.delimiter or delimiter
        escape = None if value.escape == quote else value.escape
        if delimiter in (quote, escape):
            raise ValueError(f"delimiter {delimiter!r} is the quote or the escape, too: name another")
        return value.model_copy(
            update={
                "delimiter": delimiter,
                "quote": quote,
                "escape": escape,
                "newlines_in_fields": value.newlines_in_fields and bool(quote or escape),
            }
        )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str, info: ValidationInfo) -> str:
        try:
            found = codecs.lookup(value)
        except (LookupError, ValueError):
            raise ValueError(f"is not an encoding that Python knows: {ENCODING_HINT}") from None
        if (
            not found._is_text_encoding
            or not found.incrementaldecoder
            or found.name.replace("_", "-") in NO_ENCODINGS
        ):
            raise ValueError(f"is not an encoding of files: {ENCODING_HINT}")
        name = "utf-8" if found.name == "utf-8-sig" else found.name
        kind = info.data.get("format")
        if name != "utf-8" and kind in FORMATS and not FORMATS[kind].compressible:
            raise ValueError(f"means nothing to {kind}, whose strings are UTF-8: drop it")
        return name

    @property
    def has_prefix(self) -> bool:
        """True if its texts have a prefix or a prompt of their own."""
        return self.prefix is not None or self.prompt is not None

    @property
    def has_columns(self) -> bool:
        """True if its rows have columns beside the text."""
        return FORMATS[self.format].columns

    @property
    def table_folder(self) -> str | None:
        """The folder of the table; None if the source is none."""
        if not FORMATS[self.format].table:
            return None
        path = self.path.rstrip("/")
        return path.rpartition("/")[0].rpartition("/")[0] if path.endswith(ICEBERG_METADATA) else path

    @property
    def with_pair(self) -> "Source":
        """The source that carries the second texts, too: so every format reads them."""
        pair = self.text_pair_column
        if pair is None or pair in self.fields.values():
            return self
        return self.model_copy(update={"carry": (*self.carry, pair)})

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in the shards of the columns that are kept: the id first, then the carried columns."""
        return (*self.fields, *self.partitions)

    @property
    def fields(self) -> dict[str, str]:
        """The dotted path of each column in a row, by its name in the shards; without partition keys."""
        paths = ((self.id_column,) if self.id_column else ()) + self.carry
        return {shard_column(path): path for path in paths}


def in_place_of_prefix(prompt: str | None, info: ValidationInfo) -> str | None:
    """Refuses a prompt beside a prefix."""
    if prompt is not None and info.data.get("prefix") is not None:
        raise ValueError("prefix is set, too: drop one of the two")
    return prompt


def shard_column(path: str) -> str:
    """Returns the name in the shards of a column of a source, given by its dotted path."""
    return path.replace(".", "_")


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two columns of the shards would be called {name}")
