"""Finds the rows of a dataset nearest to a query: exact cosine, streamed over the shards, without an index.

Cost: one pass over all vectors, with one shard at a time in memory. This is fast enough up to a few million
rows; for more, load the shards into an index.

Shapes: N rows of a shard, D dimensions.
"""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import parsing, telemetry
from pipeline.config.sections import Config
from pipeline.dataset import vectors
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.expected import Expected
from pipeline.dataset.identity import Identity
from pipeline.errors import ConfigError, MissingError, PipelineError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.outputs import embedding, vector_columns
from pipeline.model.tokenizer.chunks import prefixed
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.plan import plan
from pipeline.source import lookup

MANY_ROWS = 5_000_000
"""Rows above which a search by brute force is too slow to repeat."""


@dataclass(frozen=True)
class Hit:
    """One row: its cosine to the query, and all its columns except the vector."""

    score: float
    row: Mapping[str, Any]


def search(config: Config, checkpoint: Checkpoint, query: str, count: int) -> list[Hit]:
    """Returns the rows nearest to a query, nearest first; searches an unfinished dataset's existing shards.

    Raises:
        ConfigError: the dataset has no vectors.
        MissingError: the dataset does not exist.
        OtherDatasetError: another config made the dataset, so its vectors mean something else.
        DamagedError: a shard has other columns than it should.
    """
    dataset, identity = Dataset.of(config), Identity.of(config, checkpoint)
    if "embedding" not in config.model.outputs:
        kept = ", ".join(config.model.outputs)
        raise ConfigError("has no vectors to search in", "model.outputs", kept, hint="add embedding to it")
    if not dataset.refuse_other(identity):
        raise MissingError("no dataset here", config.output.path, hint="run the config first")
    shards = dataset.shards()
    if not dataset.complete():
        telemetry.event("searching what is there", shards=len(shards))
    wanted = _columns(dataset, identity) if shards else pa.schema([])
    query_D = embed(config, checkpoint, query)
    best: list[Hit] = []
    rows = 0
    for info in shards.values():
        parquet = parsing.opened(dataset.storage.read(info.path), info.path)
        parsing.refuse_other(parquet, wanted, info.path)
        shard = parsing.columns(parquet, wanted, info.path)
        rows += shard.num_rows
        found = _nearest(shard, query_D, count)
        best = heapq.nlargest(count, itertools.chain(best, found), key=lambda hit: hit.score)
    if rows > MANY_ROWS:
        telemetry.event("every vector was read: load the shards into an index to search often", rows=rows)
    return best


def _columns(dataset: Dataset, identity: Identity) -> pa.Schema:
    """Returns the columns of every shard."""
    frozen = dataset.required_plan()
    return Expected.of(identity, frozen.columns).columns


def embed(config: Config, checkpoint: Checkpoint, text: str) -> npt.NDArray[np.float32]:
    """Returns the vector of a text as the dataset has it: (D,) float32 of length 1."""
    # Importing torch takes 2 s; besides the replicas only this command needs it.
    from pipeline.model.encoder import Encoder  # noqa: PLC0415

    recipe = EmbeddingSpec.of(checkpoint, config.model)
    texts = prefixed(pa.array([text], pa.large_string()), recipe.prefix)
    tokens = Tokenizer(checkpoint, recipe.max_tokens).encode(texts)
    vectors_1D = vectors.unit(Encoder(checkpoint, recipe=recipe).encode(tokens))
    return vectors_1D.reshape(-1)


def source_text(config: Config, planned: plan.Plan, row: Mapping[str, Any]) -> str | None:
    """Returns the text of a row, from its source; None if the source is gone or has changed."""
    name, _, file = row["source_file"].partition("/")
    source, place = config.source.get(name), row["source_row"]
    found = planned.piece(name, file, place)
    if source is None or found is None:
        return None
    piece = replace(found, start=place, stop=place + 1)
    try:
        text = lookup.documents(config, piece, [place]).column("text")[0].as_py()
    except PipelineError:
        return None
    return lookup.window(text, row)


def _nearest(shard: pa.Table, query_D: npt.NDArray[np.float32], count: int) -> Iterator[Hit]:
    score_N = vectors.unit(embedding.load(shard, len(query_D))) @ query_D
    top = np.argsort(-score_N, kind="stable")[:count]
    ours = [name for name in vector_columns() if name in shard.column_names]
    rows = shard.drop_columns(ours).take(pa.array(top)).to_pylist()
    return (Hit(float(score), row) for score, row in zip(score_N[top], rows, strict=True))
