"""A source as the config names it: which files, in which format, and what of them is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.location import Name, Options, Path_, PathOptions, Section


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What a config may say of the files of a format.

    suffixes: by which `auto` knows it.  columns: whether its rows have any beside the text.
    compressible: whether whole files of it may be compressed.
    dialect: the delimiter and quote that `csv` has by default; None where `csv` means nothing.
    """

    suffixes: tuple[str, ...] = ()
    columns: bool = True
    compressible: bool = True
    dialect: tuple[str, str] | None = None


FORMATS = {
    "parquet": FormatOptions((".parquet", ".pq"), compressible=False),
    "text": FormatOptions((".txt",), columns=False),
    "text-files": FormatOptions(columns=False),
    "jsonl": FormatOptions((".jsonl", ".ndjson")),
    "csv": FormatOptions((".csv",), dialect=(",", '"')),
    "tsv": FormatOptions((".tsv",), dialect=("\t", "")),
}
"""By their names, those of `Source.format`; how each is read is in `source.formats.FORMATS`."""
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}


class Csv(Section):
    """How a CSV or TSV file is written (RFC 4180, unless told otherwise)."""

    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="Between two fields. Default: a comma; a tab for tsv."
    )
    quote: str | None = Field(
        None, max_length=1, description='Around a field; empty: none. Default: `"` for csv, none for tsv.'
    )
    names: tuple[Name, ...] | None = Field(
        None, description="The columns, of files without a first line that names them."
    )
    newlines_in_fields: bool = Field(
        True,
        description="Whether a quoted field may hold a line end. `false` lets files be cut; one that does is "
        "then refused. Without quotes there are none.",
    )


class Source(Section):
    """One named set of files."""

    path: Path_ = Field(
        description="A file, a folder (read recursively) or a glob (`*`, `?`, `**`); local, `s3://`, "
        "`gs://`, `abfs://` (account: `AZURE_STORAGE_ACCOUNT_NAME`) or `hf://`."
    )
    options: PathOptions = Field(Options(), description="How its storage is reached.")
    format: Literal["auto", "parquet", "text", "text-files", "jsonl", "csv", "tsv"] = Field(
        "auto",
        description="`parquet`; `text` (a line a document); `text-files` (a file a document); `jsonl` (an "
        "object a line); `csv`; `tsv`. `auto` goes by the ending of `path`.",
    )
    compression: Literal["auto", "none", "gzip", "bz2", "zstd", "xz"] = Field(
        "auto",
        description="Of whole files; `auto` goes by each file's ending (`.gz`, `.bz2`, `.zst`, `.xz`). Not "
        "for parquet, which compresses within.",
    )
    text_column: Name | None = Field(
        None,
        description="The column to embed; a dotted path leads into nested ones. Default `text`. Not for "
        "`text` and `text-files`.",
    )
    id_column: Name | None = Field(
        None,
        description="The column that identifies a row, carried under its own name. Without one, `id` is "
        "`<source>/<file>#<row>`.",
    )
    carry: tuple[Name, ...] = Field(
        (), description="Further columns to carry into the shards; dots of a path become `_`."
    )
    partitions: tuple[Name, ...] = Field(
        (), description="Keys of folders such as `date=2026-01-01/`, to carry as strings; of any format."
    )
    csv: Csv = Field(Csv(), description="How `csv` and `tsv` files are written.")
    encoding_errors: Literal["reject", "replace"] = Field(
        "reject", description="What becomes of a row that is not UTF-8; replaced, bad bytes become U+FFFD."
    )

    # Field by field, in their order, so that one mistake does not hide the others.

    @field_validator("format")
    @classmethod
    def _resolve_format(cls, value: str, info: ValidationInfo) -> str:
        if value != "auto" or "path" not in info.data:
            return value
        path = PurePosixPath(info.data["path"])
        plain = path.with_suffix("") if path.suffix in COMPRESSIONS else path
        for name, options in FORMATS.items():
            if plain.suffix in options.suffixes:
                return name
        *others, last = FORMATS
        names = f"{', '.join(others)} or {last}"
        raise ValueError(f"can't tell the format of {info.data['path']!r}: set it to {names}")

    @field_validator("compression")
    @classmethod
    def _parquet_compresses_within(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("format")
        if value not in ("auto", "none") and kind in FORMATS and not FORMATS[kind].compressible:
            raise ValueError(f"{kind} is compressed within, never as a whole: drop it")
        return value

    @field_validator("text_column", "id_column", "carry")
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
            _refuse_twice([path.replace(".", "_") for path in (*value, *others)])
        return value

    @field_validator("partitions")
    @classmethod
    def _distinct(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        others = (info.data.get("id_column") or "", *(info.data.get("carry") or ()))
        _refuse_twice([*value, *{path.replace(".", "_") for path in others}])
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
        return value.model_copy(
            update={
                "delimiter": value.delimiter or delimiter,
                "quote": quote,
                "newlines_in_fields": value.newlines_in_fields and bool(quote),
            }
        )

    @property
    def has_columns(self) -> bool:
        """Whether its rows have columns beside the text."""
        return FORMATS[self.format].columns

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that reach the shards, by their names there: the id first, then what is carried."""
        return (*self.fields, *self.partitions)

    @property
    def fields(self) -> dict[str, str]:
        """Where in a row each of them is, but for those of the path: the dotted path by the shards' name."""
        paths = ((self.id_column,) if self.id_column else ()) + self.carry
        return {path.replace(".", "_"): path for path in paths}


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two columns of the shards would be called {name}")
