"""The run as data: what to read, the model, the compute, where to write.

A config is frozen, and complete once loaded: every default is a value here, none is decided later.
`load` reports every mistake of a file at once.
"""

import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config.location import (
    READ_ONLY,
    Options,
    Path_,
    PathOptions,
    Section,
    absolute,
    check_url,
    protocol_of,
    refuse_relative,
)
from pipeline.config.source import Source

SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Model(Section):
    """The checkpoint, and all that turns a text into a vector."""

    name: str = Field("albert-mini", description="`albert-mini` (ships inside), a local folder, or a Hub id.")
    revision: str | None = Field(
        None, description="Hub ids: branch, tag or commit. Default: the main branch."
    )
    allow_pickle: bool = Field(
        False, description="Read weights from `pytorch_model.bin` where there are no safetensors."
    )
    max_tokens: int | None = Field(
        None,
        ge=3,
        description="Tokens of a text, or of a window of it, special ones included. Default: what the "
        "sentence-transformers folder says, else 512, or the checkpoint's positions if these are fewer.",
    )
    prefix: str | None = Field(
        None,
        description="Put before each text. Default: the default prompt of a sentence-transformers folder, "
        "else nothing.",
    )
    pooling: Literal["auto", "mean", "cls", "max", "mean_sqrt_len"] = Field(
        "auto",
        description="How token vectors become one. `auto`: what the sentence-transformers folder says, "
        "else `mean`.",
    )
    normalize: bool | None = Field(
        None,
        description="Scale each vector to length 1 (L2). Default: what the sentence-transformers folder "
        "says, else true.",
    )
    truncate_dim: int | None = Field(
        None, ge=1, description="Keep only the first dimensions (and scale again, if `normalize`)."
    )
    long_text: Literal["truncate", "mean_of_chunks", "chunks"] = Field(
        "truncate",
        description="What becomes of a text of more than `max_tokens`: its start; the mean of its windows, "
        "weighted by their tokens; or a row for each window.",
    )
    chunk_overlap: int = Field(
        0, ge=0, description="Tokens that neighbouring windows share at most; windows begin with a word."
    )
    vector: Literal["float32", "int8", "binary"] = Field(
        "float32",
        description="How vectors are stored. `int8`: with `embedding_scale`; `binary`: a bit a dimension.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the model; `auto`: float32 on cpu, bfloat16 on cuda."
    )


class Compute(Section):
    """How the work is spread: it may differ on resume, but for the device with `model.dtype: auto`."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the replicas run; one GPU each on cuda.")
    min_replicas: int = Field(1, ge=1, description="Encoder replicas to start with.")
    max_replicas: int | None = Field(
        None, ge=1, description="Most replicas. Default: what the cluster holds."
    )
    cpus_per_replica: float | None = Field(
        None,
        gt=0,
        description="CPUs of a replica. Default: 1 on cuda; on cpu those of the smallest node that has two "
        "or more, less what a reader and a writer take; 1 at least.",
    )
    threads_per_replica: int | None = Field(
        None,
        ge=1,
        description="Micro-batches of a CPU replica at the same time, each on a thread of its own; on cuda "
        "torch's threads. Default: its share of its node's CPUs; on cuda torch's own.",
    )
    cpus_per_reader: float = Field(0.5, gt=0, description="CPUs that one read-and-tokenise task takes.")
    cpus_per_writer: float = Field(0.25, gt=0, description="CPUs that one write task takes.")
    watchdog_minutes: float = Field(
        30.0,
        gt=0,
        description="A run without a micro-batch, a read or a write for so long is ended (exit code 4). "
        "Waiting for nodes counts, a slow split does not.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of a micro-batch; a longer text goes alone. Default: 512 on cpu; on cuda "
        "65,536, or what fits into half of the free memory.",
    )

    @field_validator("max_replicas")
    @classmethod
    def _above_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas", 1)
        if value is not None and value < least:
            raise ValueError(f"is below min_replicas {least}")
        return value


class Output(Section):
    """Where the dataset goes, and the size of its shards."""

    path: Path_ = Field(description="The dataset's folder or `s3://` URL; may hold `{run_date}`.")
    run_date: datetime.date | None = Field(
        None, description="What `{run_date}` stands for. Default: today, in UTC."
    )
    options: PathOptions = Field(Options(), description="How its storage is reached.")
    rows_per_shard: int = Field(
        65_536,
        ge=1,
        description="Most rows of a split, and so of a shard; an estimate with `long_text: chunks`, and for "
        "files that are cut by bytes.",
    )
    max_split_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of text of a split, 64 MiB at most. Default: 64 MiB on cuda; on cpu about a "
        "minute of the model's work.",
    )
    keep_rejected_text: bool = Field(True, description="Keep the start of a rejected text in `rejects/`.")

    @field_validator("path")
    @classmethod
    def _writable(cls, value: str) -> str:
        if protocol_of(value) in READ_ONLY:
            raise ValueError(f"{protocol_of(value)} is for sources only")
        return value


class Reuse(Section):
    """What is taken from an older dataset instead of being embedded again; never changes a result."""

    base: str | None = Field(
        None,
        description="`latest` (what `LATEST.json` beside the output names), a dataset beside the output by "
        "its name, or the path or URL of any on the same storage. Default: nothing is reused.",
    )
    match: Literal["file", "dataset"] = Field(
        "file",
        description="Where a changed file's texts are looked for: in the shards of the same file, or in the "
        "whole dataset, for sources that are rewritten under other names.",
    )

    @field_validator("base")
    @classmethod
    def _is_no_secret(cls, value: str | None) -> str | None:
        return check_url(value) if value and "/" in value else value


class Quality(Section):
    """What a run may end with and still count as done."""

    max_reject_fraction: float = Field(
        0.5, ge=0, le=1, description="Rejected rows over all rows, above which the run is not done."
    )
    allow_failed_files: bool = Field(
        False,
        description="Commit although files failed; they are listed. Covers no split that kills its process, "
        "and no file that is there when the driver looks.",
    )


class Cost(Section):
    """What a replica takes and does; `plan` estimates by it, and nothing else reads it."""

    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one replica's hour: of its share of a machine. Default: no price is estimated.",
    )
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="Of the price, by its ISO 4217 code.")
    tokens_per_second: float | None = Field(
        None,
        gt=0,
        description="Tokens that one replica computes in a second. Default: what the shards that are there, "
        "or the base's, took on the same device; else on cpu a rough guess, on cuda none.",
    )


class Report(Section):
    """What `report.html` shows of the rows themselves; never changes a shard."""

    samples: int = Field(
        2000,
        ge=0,
        le=5000,
        description="Most rows whose vectors are drawn on its map. 0: no vector and no text of the corpus "
        "gets into the page.",
    )
    texts: bool = Field(
        True, description="Show the start of texts: of the rows on the map, and of some rejected ones."
    )


class Config(Section):
    """A whole job."""

    source: dict[SourceName, Source] = Field(min_length=1, description="Sources by name.")
    model: Model = Model()
    compute: Compute = Compute()
    output: Output
    reuse: Reuse = Reuse()
    quality: Quality = Quality()
    cost: Cost = Cost()
    report: Report = Report()

    @field_validator("compute")
    @classmethod
    def _device_honours_dtype(cls, value: Compute, info: ValidationInfo) -> Compute:
        model = info.data.get("model")
        if model and model.dtype == "bfloat16" and value.device == "cpu":
            raise ValueError("model.dtype bfloat16 needs compute.device cuda: set float32 or auto")
        return value

    @field_validator("output")
    @classmethod
    def _apart_from_sources(cls, value: Output, info: ValidationInfo) -> Output:
        for name, source in info.data.get("source", {}).items():
            if _reads_below(source.path, value.path):
                raise ValueError(f"path {value.path!r} lies in source.{name}, which would read its files")
        return value

    @model_validator(mode="after")
    def _no_text_in_windows(self) -> Self:
        """Carried into a row for each window, a text would be written as often as it has windows."""
        if self.model.long_text == "chunks":
            for name, source in self.source.items():
                if source.text_column in source.fields.values():
                    raise ValueError(
                        f"source.{name} carries its text, which long_text chunks would repeat in each window"
                    )
        return self

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        """The `id` that we make must not meet another's."""
        if any(source.id_column is None for source in self.source.values()):
            for name, source in self.source.items():
                if "id" in (column.lower() for column in source.columns):
                    raise ValueError(f"source.{name} carries `id`, which is made where no id_column is named")
        return self

    def absolute(self) -> Self:
        """The same config, with local paths as every process of a job finds them, whatever its folder.

        Raises:
            ConfigError: on a cluster, where a relative path is another place on each node.
        """
        paths = [self.output.path, *(source.path for source in self.source.values())]
        for path in paths:
            refuse_relative(path)
        name, base = self.model.name, self.reuse.base
        updates = {
            "reuse": self.reuse.model_copy(update={"base": absolute(base) if base and "/" in base else base}),
            "source": {
                key: source.model_copy(update={"path": absolute(source.path)})
                for key, source in self.source.items()
            },
            "model": self.model.model_copy(update={"name": absolute(name) if Path(name).is_dir() else name}),
            "output": self.output.model_copy(update={"path": absolute(self.output.path)}),
        }
        return self.model_copy(update=updates)

    @property
    def dtype(self) -> str:
        """The dtype that every replica must use."""
        if self.model.dtype == "auto":
            return "bfloat16" if self.compute.device == "cuda" else "float32"
        return self.model.dtype


def _reads_below(pattern: str, folder: str) -> bool:
    """Whether a source, as a folder or by `**`, reaches into another folder."""
    literal = pattern.split("*", 1)[0].rstrip("/")
    recursive = "**" in pattern or not any(character in pattern for character in "*?[")
    return recursive and f"{absolute(folder)}/".startswith(f"{absolute(literal)}/")
