"""What workers are told of a run, what they find by it on their node, and what they say of a failed split."""

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import pyarrow as pa

import pipeline
from pipeline.config.location import Options
from pipeline.config.sections import Config
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.errors import ModelError, SourceChangedError
from pipeline.model import checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.nightly.base import Digests, base_of
from pipeline.nightly.documents import read_matches
from pipeline.source.reader import Part


@dataclass(frozen=True)
class Job:
    """What every worker is told: the config, the pinned checkpoint, and whose shards these are.

    base: the path of the dataset whose vectors are reused; base_digests: whose it was when it was chosen.
    payload_bytes: of the largest split between two stages.
    dataset_digest, claim: whose shards these are; where there is none, nobody is asked.
    without: files that the driver found changed or gone; splits are done without them.
    """

    config: Config
    columns: pa.Schema
    recipe: EmbeddingSpec
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
    without: Mapping[str, SourceChangedError] = field(default_factory=dict)

    def dataset(self) -> Dataset:
        """The job's dataset, to be written to.

        Raises:
            StoppedError: it was removed, or is being removed.
            OtherDatasetError: it is another's.
        """
        dataset = Dataset.of(self.config)
        if self.dataset_digest:
            _refuse_lost(dataset.layout.root, self.config.output.options, self.dataset_digest, self.claim)
        return dataset

    def origin(self) -> dict[str, str]:
        """What a shard's record says of whose it is, and of what made it."""
        return {
            "dataset_digest": self.dataset_digest,
            "vector_digest": self.vector_digest,
            "device": self.config.compute.device,
            "software": ", ".join(f"{name} {versions()[name]}" for name in ("albert-embed", "torch")),
        }

    def replica(self) -> checkpoint.Checkpoint:
        """The driver's checkpoint, on this node.

        Raises:
            ModelError: what this node finds under its name is another.
        """
        model = self.config.model
        found = checkpoint.resolve(model.name, self.revision, allow_pickle=model.allow_pickle)
        if Identity.of(self.config, found).vector_digest != self.vector_digest:
            raise ModelError(
                "this node has another checkpoint than the driver",
                str(found.folder),
                hint="put the same files on each node, or name a Hub id",
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
        """The driver's tokenizer, on this node.

        Raises:
            ModelError: what this node finds under its name is another.
        """
        return _cached_tokenizer(
            self.config.model.name, self.revision, self.recipe.max_tokens, self.tokenizer_digest
        )


@functools.cache
def versions() -> dict[str, str]:
    """Of this program, and of what decides about its results and its speed; as this process has them."""
    others = {name: version(name) for name in ("ray", "torch", "pyarrow")}
    return {"albert-embed": pipeline.__version__, "python": platform.python_version(), **others}


@functools.lru_cache(maxsize=1)
def _refuse_lost(root: str, options: Options, dataset_digest: str, claim: str | None) -> None:
    """Asked once a process: who was at work when the dataset was removed, is of a run that can't commit."""
    Dataset(root, options).held(dataset_digest, claim)


@functools.cache
def _cached_tokenizer(model: str, revision: str | None, max_tokens: int, digest: str) -> Tokenizer:
    """One a process: it is expensive to load, and what it has seen makes it faster."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Ray runs as many readers as there are CPUs
    found = checkpoint.resolve(model, revision)
    if found.tokenizer_digest != digest:
        raise ModelError(
            "this node has another tokenizer than the driver",
            str(found.folder),
            hint="put the same files on each node, or name a Hub id",
        )
    return Tokenizer(found, max_tokens)
