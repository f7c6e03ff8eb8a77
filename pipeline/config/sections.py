"""The sections of a config: sources, model, compute, output and others.

A config is frozen, and complete once it is loaded: every default is a value here, and none is decided later.
`load` reports all mistakes of a file at once.
"""

import datetime
import fnmatch
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config.location import (
    DEFAULT_OPTIONS,
    READ_ONLY,
    Name,
    Options,
    Path_,
    PathOptions,
    Section,
    absolute,
    check_url,
    is_url,
    protocol_of,
    refuse_meaningless,
    refuse_relative,
)
from pipeline.config.source import Source, in_place_of_prefix

SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class TokenizerRules(Section):
    """The rules of a tokenizer whose folder does not state them. `tokenizer.json` states its own."""

    lower_case: bool | None = Field(
        None,
        description="Whether texts are lower-cased, for a folder of `vocab.txt` or `spiece.model` alone. "
        "Default: `do_lower_case` of its tokenizer_config.json, else true.",
    )
    keep_accents: bool | None = Field(
        None,
        description="Whether marks such as accents are kept, for the same folders. Default: what its "
        "tokenizer_config.json says, else not; for a `vocab.txt` they are kept if texts are not lower-cased.",
    )

    @property
    def stated(self) -> dict[str, bool]:
        """Returns the rules that the config states."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


OutputName = Literal["embedding", "classification", "entities", "tokens"]
OUTPUTS: tuple[str, ...] = get_args(OutputName)
"""What can be kept of a text, in the order of the columns."""

NO_RULES = TokenizerRules()
"""The folder's own rules hold."""


class Model(Section):
    """The checkpoint, and all settings that decide the vector of a text."""

    name: str = Field(
        "albert-mini",
        description="`albert-mini` (part of the package), a local folder, the URL of a folder in object "
        "storage (`s3://`, `gs://`, `abfs://`), or a Hub id.",
    )
    options: Options = Field(DEFAULT_OPTIONS, description="How to reach the storage of a URL in `name`.")
    revision: str | None = Field(
        None, description="Hub ids: branch, tag or commit. Default: the main branch."
    )
    allow_pickle: bool = Field(
        False, description="Read weights from `pytorch_model.bin` if the model lacks safetensors."
    )
    engine: Literal["auto", "native", "transformers"] = Field(
        "auto",
        description="What runs the model. `native`: this program, packed and without padding, for the types "
        "of [models.md](models.md); `transformers`: that library, for any encoder of safetensors that it "
        "loads without code of the folder; `auto`: `native` where there is one.",
    )
    tokenizer: TokenizerRules = Field(
        NO_RULES, description="The rules of a tokenizer whose folder does not state them."
    )
    max_tokens: int | None = Field(
        None,
        ge=3,
        description="Most tokens of a text, or of a window of it, including special tokens. Default: the "
        "value of the sentence-transformers folder, else 512, or the checkpoint's positions if these are "
        "fewer.",
    )
    prefix: str | None = Field(
        None,
        description="Text to put before each text. Default: the default prompt of a sentence-transformers "
        "folder, else nothing.",
    )
    prompt: str | None = Field(
        None,
        description="The name of a prompt of a sentence-transformers folder (`prompts` in its "
        "config_sentence_transformers.json), to put before each text. In place of `prefix`.",
    )
    pooling: Literal["auto", "mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token"] = Field(
        "auto",
        description="How token vectors become one vector. `auto`: the pooling of the sentence-transformers "
        "folder, else `mean`.",
    )
    normalize: bool | None = Field(
        None,
        description="Scale each vector to length 1 (L2). Default: the setting of the sentence-transformers "
        "folder, else true.",
    )
    truncate_dim: int | None = Field(
        None, ge=1, description="Keep only the first dimensions (and scale again, if `normalize`)."
    )
    long_text: Literal["truncate", "mean_of_chunks", "chunks"] = Field(
        "truncate",
        description="What to embed of a text of more than `max_tokens`: its start; the mean of its windows, "
        "weighted by their tokens; or each window as a row.",
    )
    chunk_overlap: int = Field(
        0, ge=0, description="Most tokens that neighbouring windows share; windows begin with a word."
    )
    vector: Literal["float32", "int8", "binary"] = Field(
        "float32",
        description="How vectors are stored. `int8`: with `embedding_scale`; `binary`: one bit a dimension.",
    )
    outputs: tuple[OutputName, ...] = Field(
        ("embedding",),
        description="What to keep of a text: `embedding` (the vector), `classification` (`label`, `score` "
        "and `scores` of a model for sequence classification), `entities` (label, score and place of each "
        "entity, by a model for token classification), `tokens` (place and vector of each token).",
    )
    aggregation: Literal["simple", "first"] | None = Field(
        None,
        description="How tokens become entities, as transformers' `aggregation_strategy` does it. `simple`: "
        "neighbours of one label are joined; `first`: first each word gets the label of its first token. "
        "Default: `simple` with the output `entities`.",
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Score above which a text has a label, for a head that gives several labels to a text. "
        "Default: 0.5 for such a head.",
    )
    head: str | None = Field(
        None,
        min_length=1,
        description="The head of `classification`: a folder or URL that `jobs.train_head` wrote. Default: "
        "the checkpoint's own head.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the model; `auto`: float32 on cpu, bfloat16 on cuda."
    )

    @field_validator("name")
    @classmethod
    def _of_a_known_kind(cls, value: str) -> str:
        if is_url(value):
            check_url(value)
            if protocol_of(value) in READ_ONLY:
                raise ValueError(f"{protocol_of(value)} is for sources only: name the Hub id alone")
        return value.removeprefix("file://")

    @field_validator("options")
    @classmethod
    def _of_a_url(cls, value: Options, info: ValidationInfo) -> Options:
        name = info.data.get("name", "s3://")
        if value != DEFAULT_OPTIONS and not is_url(name):
            raise ValueError("means nothing unless name is a URL: drop it")
        refuse_meaningless(value, protocol_of(name))
        return value

    @field_validator("revision")
    @classmethod
    def _of_the_hub(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and is_url(info.data.get("name", "")):
            raise ValueError("a folder in object storage has no revisions: drop it")
        return value

    @field_validator("prompt")
    @classmethod
    def _in_place_of_prefix(cls, value: str | None, info: ValidationInfo) -> str | None:
        return in_place_of_prefix(value, info)

    @field_validator("outputs")
    @classmethod
    def _in_one_order(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value:
            raise ValueError("is empty: name at least one output, such as embedding")
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice: name each output once")
        for name in ("classification", "tokens"):
            if name in value and info.data.get("long_text") == "mean_of_chunks":
                raise ValueError(f"{name} has no mean of windows: set long_text to truncate or chunks")
        if "tokens" in value and info.data.get("vector") == "binary":
            raise ValueError("tokens has no vectors of bits: set vector to float32 or int8")
        return tuple(sorted(value, key=OUTPUTS.index))

    @field_validator("aggregation")
    @classmethod
    def _is_of_entities(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "entities" not in info.data.get("outputs", ("entities",)):
            raise ValueError("means nothing without the output entities: drop it")
        return value

    @field_validator("threshold")
    @classmethod
    def _is_of_labels(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and "classification" not in info.data.get("outputs", ("classification",)):
            raise ValueError("means nothing without the output classification: drop it")
        return value

    @field_validator("head")
    @classmethod
    def _makes_classes(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if "classification" not in info.data.get("outputs", ("classification",)):
            raise ValueError("means nothing without the output classification: drop it")
        if info.data.get("threshold") is not None:
            raise ValueError("gives a text one label, so there is no threshold: drop one of both")
        if is_url(value):
            check_url(value)
        return value.removeprefix("file://").rstrip("/")

    def dtype_on(self, device: str) -> str:
        """Returns the dtype that all replicas must use on a device."""
        if self.dtype == "auto":
            return "bfloat16" if device == "cuda" else "float32"
        return self.dtype


class Compute(Section):
    """The resources. They may change on resume, except the device with `model.dtype: auto`."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the replicas run; one GPU each on cuda.")
    min_replicas: int = Field(
        1,
        ge=1,
        description="Least encoder replicas: fewer that fit are an error. A run asks at once for as many as "
        "the cluster may come to hold.",
    )
    max_replicas: int | None = Field(
        None, ge=1, description="Most replicas. Default: as many as the cluster holds."
    )
    cpus_per_replica: float | None = Field(
        None,
        gt=0,
        description="CPUs of a replica. Default: 1 on cuda; on cpu those of the smallest node that has two "
        "or more, minus those of a reader and a writer, but at least 1.",
    )
    threads_per_replica: int | None = Field(
        None,
        ge=1,
        description="Micro-batches that a CPU replica computes at the same time, each on its own thread; on "
        "cuda the threads of torch. Default: the replica's share of its node's CPUs; on cuda the default of "
        "torch.",
    )
    cpus_per_reader: float = Field(0.5, gt=0, description="CPUs that one read-and-tokenise task takes.")
    cpus_per_writer: float = Field(0.25, gt=0, description="CPUs that one write task takes.")
    watchdog_minutes: float = Field(
        30.0,
        ge=0.1,
        description="Minutes without a micro-batch, a read or a write after which the run ends (exit code "
        "4). Waiting for nodes counts, a slow split does not.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of a micro-batch; a longer text is a batch of its own. Default: 512 on cpu; on "
        "cuda 65,536, or as many as fit into half of the free memory.",
    )

    @field_validator("max_replicas")
    @classmethod
    def _above_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas", 1)
        if value is not None and value < least:
            raise ValueError(f"is below min_replicas {least}")
        return value


class Output(Section):
    """The place of the dataset, and the size of its shards."""

    path: Path_ = Field(
        description="The dataset's folder, or `s3://`, `gs://` or `abfs://` URL; may contain `{run_date}`."
    )
    run_date: datetime.date | None = Field(
        None, description="The date that replaces `{run_date}`. Default: today, in UTC."
    )
    options: PathOptions = Field(Options(), description="How to reach the storage of `path`.")
    rows_per_shard: int = Field(
        65_536,
        ge=1,
        description="Most rows of a split, and so of a shard; an estimate with `long_text: chunks`, and for "
        "files that are cut by bytes.",
    )
    target_file_bytes: int | None = Field(
        None,
        ge=1 << 20,
        description="About how many bytes a shard takes, carried columns aside: the rows of a split are as "
        "many, in place of `rows_per_shard`. The text of a split stays below `max_split_bytes`, by default "
        "64 MiB then.",
    )
    vector_list: Literal["fixed", "plain"] = Field(
        "fixed",
        description="The type of vectors and scores in the shards' Arrow schema: lists of a fixed size, or "
        "plain lists. The Parquet data are the same.",
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
    """The vectors to copy from an older dataset instead of embedding again. They never change a result."""

    base: str | None = Field(
        None,
        description="`latest` (the dataset that `LATEST.json` beside the output names), the name of a "
        "dataset beside the output, or the path or URL of any on the same storage. Default: nothing is "
        "reused.",
    )
    match: Literal["file", "dataset"] = Field(
        "file",
        description="Where to search for the texts of a changed file: in the shards of the same file, or in "
        "all of the dataset, for sources that are rewritten under other names.",
    )
    changes: bool = Field(
        False,
        description="Write the changes since the base into the dataset, before readers follow it "
        "([changes.md](changes.md)). Ids must be unique within a source.",
    )

    @field_validator("base")
    @classmethod
    def _is_no_secret(cls, value: str | None) -> str | None:
        return check_url(value) if value and "/" in value else value

    @field_validator("changes")
    @classmethod
    def _has_a_base(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("base") is None:
            raise ValueError("needs reuse.base, such as latest: without it there is nothing to compare with")
        return value


class Quality(Section):
    """The failures that a run may have and still count as done."""

    max_reject_fraction: float = Field(
        0.5, ge=0, le=1, description="Fraction of rejected rows above which the run is not done."
    )
    max_unknown_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Fraction of unknown tokens (`[UNK]`, `<unk>`) among those of the texts above which the "
        "run is not done: the model can't read so much of them. 1: any.",
    )
    unique_ids: bool = Field(
        False,
        description="The run is not done if a row of a source with an `id_column` has no id, or the id of "
        "another row of the source. The commit then reads the ids of all shards.",
    )
    allow_failed_files: bool = Field(
        False,
        description="Commit although files failed; they are listed. Does not cover a split that kills its "
        "process, nor a file that a worker misses but the driver sees.",
    )
    allow_empty: bool = Field(
        False,
        description="Commit a dataset although its source has no rows. Otherwise such a run ends with exit "
        "code 3, and the readers of a series keep the dataset that they have.",
    )


class Cost(Section):
    """The price and speed of a replica. Only `plan` reads them, for its estimate."""

    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="Price of a replica for an hour: its share of a machine. Default: no price is estimated.",
    )
    currency: str = Field(
        "USD", pattern=r"^[A-Z]{3}$", description="Currency of the price, by its ISO 4217 code."
    )
    tokens_per_second: float | None = Field(
        None,
        gt=0,
        description="Tokens that one replica computes in a second. Default: the speed of existing shards, or "
        "of those of the base, on the same device; else a rough guess on cpu, and none on cuda.",
    )


class Table(Section):
    """A table that shows the dataset that `LATEST.json` names. It never changes a shard."""

    format: Literal["delta", "iceberg"] = Field(
        description="`delta`: a log in the series' folder. `iceberg`: a table of a catalog."
    )
    catalog: Name = Field(
        "default",
        description="Iceberg: the name of a catalog in pyiceberg's own configuration, which also has its "
        "credentials.",
    )
    table: str | None = Field(
        None,
        pattern=r"^[^.\s]+(\.[^.\s]+)+$",
        description="Iceberg: the table, as `namespace.name`; it is made if it does not exist.",
    )

    @field_validator("table")
    @classmethod
    def _names_a_table(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("format") == "iceberg" and value is None:
            raise ValueError("an Iceberg table needs its name, such as search.articles")
        if info.data.get("format") == "delta" and value is not None:
            raise ValueError("means nothing to delta, whose table is the series' folder: drop it")
        return value


class Report(Section):
    """The rows and texts that `report.html` shows. They never change a shard."""

    samples: int = Field(
        2000,
        ge=0,
        le=5000,
        description="Most rows whose vectors the map shows. 0: the page contains no vector and no text of "
        "the corpus.",
    )
    texts: bool = Field(
        True, description="Show the start of the texts of rows on the map, and of some rejected texts."
    )


class Config(Section):
    """The config of a job."""

    source: dict[SourceName, Source] = Field(min_length=1, description="Sources by name.")
    model: Model = Model()
    compute: Compute = Compute()
    output: Output
    reuse: Reuse = Reuse()
    quality: Quality = Quality()
    cost: Cost = Cost()
    report: Report = Report()
    publish: dict[SourceName, Table] = Field(
        default_factory=dict, description="Tables that follow `LATEST.json`, by names of yours."
    )

    @field_validator("publish")
    @classmethod
    def _of_a_series(cls, value: dict[str, Table], info: ValidationInfo) -> dict[str, Table]:
        """Refuses tables of a dataset outside of a series, and two logs in one folder."""
        output = info.data.get("output")
        if value and output and not _is_dated(output):
            raise ValueError("tables follow LATEST.json: end output.path with /{run_date}, or drop publish")
        if sum(table.format == "delta" for table in value.values()) > 1:
            raise ValueError("names the series' folder twice: a series has one table of delta")
        return value

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
            if _reads_below(source.path, value.path) or _reads_right_in(source.path, value.path):
                raise ValueError(f"path {value.path!r} lies in source.{name}, which would read its files")
        return value

    @model_validator(mode="after")
    def _no_text_in_windows(self) -> Self:
        """Refuses to carry the text with `long_text: chunks`: each window's row would repeat it."""
        if self.model.long_text == "chunks":
            for name, source in self.source.items():
                if source.text_column in source.fields.values():
                    raise ValueError(
                        f"source.{name} carries its text, which long_text chunks would repeat in each window"
                    )
        return self

    @model_validator(mode="after")
    def _no_windows_of_pairs(self) -> Self:
        """Refuses pairs of texts in windows: a pair is one sequence."""
        if self.model.long_text != "truncate":
            for name, source in self.source.items():
                if source.text_pair_column:
                    raise ValueError(f"source.{name} has pairs of texts: set model.long_text to truncate")
        return self

    @model_validator(mode="after")
    def _no_texts_of_other_sources(self) -> Self:
        """Refuses to look for texts in other sources if the same text has another vector there."""
        if self.reuse.base and self.reuse.match == "dataset":
            for name, source in self.source.items():
                if source.has_prefix:
                    raise ValueError(
                        f"source.{name} has a prefix of its own, so a text has another vector in another "
                        "source: set reuse.match to file"
                    )
        return self

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        """Refuses a carried column `id` if the pipeline makes an `id` of its own."""
        if any(source.id_column is None for source in self.source.values()):
            for name, source in self.source.items():
                if "id" in (column.lower() for column in source.columns):
                    raise ValueError(f"source.{name} carries `id`, which is made where no id_column is named")
        return self

    def absolute(self) -> Self:
        """Returns the config with absolute local paths, so that any process finds them from any folder.

        Raises:
            ConfigError: on a cluster, where a relative path is another place on each node.
        """
        paths = [self.output.path, *(source.path for source in self.source.values())]
        for path in paths:
            refuse_relative(path)
        name, head, base = self.model.name, self.model.head, self.reuse.base
        model = {"name": absolute(name) if Path(name).is_dir() else name, "head": head and absolute(head)}
        updates = {
            "reuse": self.reuse.model_copy(update={"base": absolute(base) if base and "/" in base else base}),
            "source": {
                key: source.model_copy(update={"path": absolute(source.path)})
                for key, source in self.source.items()
            },
            "model": self.model.model_copy(update=model),
            "output": self.output.model_copy(update={"path": absolute(self.output.path)}),
        }
        return self.model_copy(update=updates)

    @property
    def dtype(self) -> str:
        """The dtype that all replicas must use."""
        return self.model.dtype_on(self.compute.device)


def _is_dated(output: Output) -> bool:
    """Tells whether the last part of the path is the run date, or stands for it."""
    name = output.path.rstrip("/").rpartition("/")[2]
    return name == "{run_date}" or (
        output.run_date is not None and name.startswith(output.run_date.isoformat())
    )


def _reads_below(pattern: str, folder: str) -> bool:
    """Tells whether a source, as a folder or by `**`, reads files of another folder."""
    literal = pattern.split("*", 1)[0].rstrip("/")
    recursive = "**" in pattern or not any(character in pattern for character in "*?[")
    return recursive and f"{absolute(folder)}/".startswith(f"{absolute(literal)}/")


_WRITTEN = (
    "dataset.json", "plan.parquet", "manifest.parquet", "summary.json", "report.html", "data/part-0.parquet",
    "rejects/part-0-0.parquet", "matches/part-0.parquet", "ledger/0-00000.parquet", "ledger/0.json",
)  # fmt: skip
"""Names like those of the files of a dataset."""


def _reads_right_in(pattern: str, folder: str) -> bool:
    """Tells whether a glob without `**` names a file that a dataset in a folder, or its series, will have."""
    folder, parts = absolute(folder).rstrip("/"), absolute(pattern).split("/")
    written = [f"{folder}/{name}" for name in _WRITTEN]
    if "{run_date}" in folder:
        written.append(f"{folder.rpartition('/')[0]}/LATEST.json")
    return any(
        len(parts) == path.count("/") + 1 and all(map(fnmatch.fnmatchcase, path.split("/"), parts))
        for path in written
    )
