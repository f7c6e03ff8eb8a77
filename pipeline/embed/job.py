"""Describes a run to its workers (`Job`), which load dataset, checkpoint and tokenizer by it."""

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import pyarrow as pa

import pipeline
from pipeline.config.location import Options
from pipeline.config.sections import Config, Model
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.errors import ModelError, SourceChangedError
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.output_spec import OutputSpec
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.nightly.base import Digests, base_of
from pipeline.nightly.documents import read_matches
from pipeline.plan.plan import FieldIds
from pipeline.source.reader import Part


@dataclass(frozen=True)
class Job:
    """The description that every worker gets: config, pinned checkpoint, and the dataset of the shards.

    base: the path of the dataset whose vectors are reused.  base_digests: its identity when it was chosen.
    payload_bytes: the size of the largest split between two stages.
    dataset_digest, claim: the identity of the dataset; without a digest it is not checked.
    without: files that the driver found changed or gone; splits are done without them.
    engine: what runs the checkpoint.
    field_ids: the numbers of the shards' fields in Parquet, as the plan tells them.
    """

    config: Config
    columns: pa.Schema
    recipe: EmbeddingSpec
    outputs: OutputSpec
    revision: str | None
    vector_digest: str
    tokenizer_digest: str
    attempt: str
    threads: int | None = None
    base: str | None = None
    payload_bytes: int = 0
    base_digests: Digests | None = None
    dataset_digest: str = ""
    claim: str | None = None
    engine: str = "native"
    without: Mapping[str, SourceChangedError] = field(default_factory=dict)
    field_ids: FieldIds = field(default_factory=dict)

    def dataset(self) -> Dataset:
        """Opens the job's dataset for writing.

        Raises:
            StoppedError: it was removed, or is being removed.
            OtherDatasetError: another dataset is there.
        """
        dataset = Dataset.of(self.config)
        if self.dataset_digest:
            _refuse_lost(dataset.layout.root, self.config.output.options, self.dataset_digest, self.claim)
        return dataset

    def origin(self) -> dict[str, str]:
        """Returns the fields of a shard's record that say which dataset it belongs to, and what made it."""
        return {
            "dataset_digest": self.dataset_digest,
            "vector_digest": self.vector_digest,
            "device": self.config.compute.device,
            "software": ", ".join(f"{name} {number}" for name, number in self._software().items()),
        }

    def _software(self) -> dict[str, str]:
        """Returns the versions of what computes vectors."""
        used = {name: versions()[name] for name in ("albert-embed", "torch")}
        return used | ({"transformers": version("transformers")} if self.engine == "transformers" else {})

    def replica(self) -> checkpoint.Checkpoint:
        """Resolves the driver's checkpoint on this node.

        Raises:
            ModelError: this node has another checkpoint under its name.
        """
        found = checkpoint.of_config(self.config.model, self.revision)
        if Identity.of(self.config, found).vector_digest != self.vector_digest:
            raise ModelError(
                "this node has another checkpoint than the driver",
                str(found.folder),
                hint=_same_files(found),
            )
        return found

    def known(self, split_id: str, parts: Sequence[Part], hashes: pa.Array) -> pa.Table | None:
        """Returns the base's documents with these hashes (`group_by_document`); None if it has none."""
        if self.base is None:
            return None
        if self.config.reuse.match == "dataset":
            return read_matches(Dataset.of(self.config), split_id)
        files = [part.piece.source_file for part in parts]
        return base_of(self.base, self.config.output.options, self.base_digests).known(files, hashes)

    def tokenizer(self) -> Tokenizer:
        """Loads the driver's tokenizer on this node.

        Raises:
            ModelError: this node has another tokenizer under its name.
        """
        return _cached_tokenizer(
            self.config.model, self.revision, self.recipe.max_tokens, self.tokenizer_digest
        )


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions, in this process, of this program and of what decides its results and speed."""
    others = {name: version(name) for name in ("ray", "torch", "pyarrow")}
    return {"albert-embed": pipeline.__version__, "python": platform.python_version(), **others}


@functools.lru_cache(maxsize=1)
def _refuse_lost(root: str, options: Options, dataset_digest: str, claim: str | None) -> None:
    """Checks once per process that the dataset is still the job's: otherwise the run can't commit."""
    Dataset(root, options).held(dataset_digest, claim)


def _same_files(found: checkpoint.Checkpoint) -> str:
    """Says what to do if this node's files are not the driver's."""
    if found.revision:
        return "remove this folder from the node's cache, and run again"
    return "put the same files on each node, or name a URL or a Hub id"


@functools.cache
def _cached_tokenizer(model: Model, revision: str | None, max_tokens: int, digest: str) -> Tokenizer:
    """Loads one tokenizer per process: loading is expensive, and its cache makes later texts faster."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Ray runs as many readers as there are CPUs
    found = checkpoint.of_config(model, revision)
    if found.tokenizer_digest != digest:
        raise ModelError(
            "this node has another tokenizer than the driver",
            str(found.folder),
            hint=_same_files(found),
        )
    return Tokenizer(found, max_tokens)
