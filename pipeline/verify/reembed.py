"""Embeds a sample of rows again from their sources, and compares the result with the shards.

This is the deepest check: a shard alone does not show whether a vector belongs to its text. The sample is
the same for the same dataset. Its texts are read, each piece once, and go through tokenizer and model again.

Cost: torch; each piece that holds a drawn row is read completely, and the model runs for each drawn row.

Shapes: N drawn rows of D documents, K rows of one piece, W rows as they should be; D dimensions of vectors.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.location import Options
from pipeline.config.sections import Config
from pipeline.dataset import vectors
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.identity import Identity
from pipeline.dataset.writer import document_numbers
from pipeline.errors import ModelError, SourceError
from pipeline.model import checkpoint, outputs, token_places
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.outputs import Values, classification, embedding, reserved_names
from pipeline.model.outputs.embedding import Vectors
from pipeline.model.tokenizer.texts import tokenize_all, tokenized
from pipeline.model.tokenizer.tokenizer import Tokenizer
from pipeline.ragged import Ints
from pipeline.source import lookup
from pipeline.source.formats import Piece
from pipeline.verify import shard_audit
from pipeline.verify.problems import Problem, some
from pipeline.verify.shard_audit import Finding

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
"""The least cosine of a stored vector and its text's, by the arithmetic that made it (docs/decisions.md)."""
SCORE_SLACK = {"float32": 1e-3, "bfloat16": 0.05}
"""How far a stored score may be from its text's, by the arithmetic that made it."""
MEASURES = {"float32": "cosine", "int8": "cosine", "binary": "share of equal bits"}
"""The measure of how near a stored vector is to its text's, by the kind of vectors."""
UNLIKE_BITS = 0.01
"""The fraction of a binary vector's dimensions that may differ: values near zero fall on either side."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a shard's documents to embed again.

    Each document is drawn with probability `fraction`; the dataset's digest seeds the draw.
    """

    root: str
    options: Options
    split_id: str
    pieces: Sequence[Piece]
    fraction: float
    dataset_digest: str
    vector_digest: str
    config: str  # the caller's, as JSON: the dataset's own config is not trusted


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of comparing a sample.

    rows: how many rows were compared.
    unchecked: how many were drawn, but their source is gone or has changed.
    nearness: the least cosine (of bits the least share that is equal); infinite if no row was compared.
    """

    findings: tuple[Finding, ...]
    rows: int
    unchecked: int
    nearness: float


def resolve(config: Config, vector_digest: str) -> Checkpoint:
    """Returns the checkpoint that made a dataset, without torch.

    Raises:
        ModelError: the checkpoint is no longer there, or another one has its name.
    """
    model = config.model
    found = checkpoint.of_config(model)
    if Identity.of(config, found).vector_digest != vector_digest:
        raise ModelError(
            "is not the model that made the dataset", model.name, hint="put that one in its place"
        )
    return found


def reembed_shard(sample: Sample) -> Compared:
    """Embeds the drawn documents of a shard again, and compares.

    Raises:
        ModelError: the model that made the dataset is no longer there.
        StorageError: storage failed.
    """
    dataset = Dataset(sample.root, sample.options)
    path = dataset.layout.shard(sample.split_id)
    shard = dataset.read_table(path)
    rows = _draw(sample, shard.replace_schema_metadata(None))
    drawn = _with_texts(sample, rows)
    told_N = drawn.documents.column("text_hash").take(pa.array(drawn.document))
    same_N = pc.equal(drawn.rows.column("text_hash"), told_N).fill_null(False).to_numpy()
    troubles = [*some("deep", ~same_N, drawn.rows, "have another text_hash than their source's text")]
    nearness = math.inf
    sound = drawn.without(drawn.document[~same_N])
    if sound.rows.num_rows:
        more, nearness = _compared(sample, sound)
        troubles += more
    where = dataset.layout.name(path)
    findings = tuple(Finding(check, where, what) for check, what in troubles)
    return Compared(findings, len(same_N), rows.num_rows - len(same_N), nearness)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """N drawn rows, and `document` and `text_hash` of their D documents, from the source.

    document: (N,) the number of each row's document.
    """

    rows: pa.Table
    document: Ints
    documents: pa.Table

    def without(self, bad: Ints) -> "_Drawn":
        """Returns the same without some documents."""
        good_D = np.ones(self.documents.num_rows, np.bool_)
        good_D[bad] = False
        good_N = good_D[self.document]
        number_D = np.cumsum(good_D) - 1
        rows, documents = self.rows.filter(pa.array(good_N)), self.documents.filter(pa.array(good_D))
        return _Drawn(rows, number_D[self.document[good_N]], documents)


def _draw(sample: Sample, shard: pa.Table) -> pa.Table:
    """Draws some documents, and returns all their rows."""
    config = Config.model_validate_json(sample.config)
    seed = blake2b(f"{sample.dataset_digest} {sample.split_id}".encode(), digest_size=8).digest()
    ours = reserved_names(config.model.outputs)
    kept = [name for name in shard.column_names if name in ours]
    document_N = document_numbers(shard)
    chances_D = np.random.default_rng(int.from_bytes(seed)).random(document_N.max(initial=-1) + 1)
    return shard.select(kept).filter(pa.array(chances_D[document_N] < sample.fraction))


def _with_texts(sample: Sample, rows: pa.Table) -> _Drawn:
    """Reads the documents of the rows, each piece once; leaves out rows whose source is gone or changed."""
    config = Config.model_validate_json(sample.config)
    ranges = [
        {"source": piece.source, "file": piece.file, "first": piece.start, "last": piece.stop}
        for piece in sample.pieces
    ]
    range_N = shard_audit.range_of(rows, ranges)
    kept = [rows.slice(0, 0)]
    found: list[pa.Table] = []
    for index in np.unique(range_N).tolist():
        rows_K = rows.filter(pa.array(range_N == index))
        places = pc.unique(rows_K.column("source_row")).to_pylist()
        try:
            found.append(lookup.documents(config, sample.pieces[index], places))
        except SourceError:
            continue
        kept.append(rows_K)
    rows = pa.concat_tables(kept).combine_chunks()
    if not found:
        found.append(
            pa.table({"text_hash": pa.array([], pa.binary()), "document": pa.array([], pa.large_string())})
        )
    return _Drawn(rows, document_numbers(rows), pa.concat_tables(found).combine_chunks())


def _compared(sample: Sample, drawn: _Drawn) -> tuple[list[Problem], float]:
    """Embeds the documents again; returns what differs, and the nearness of the least near vector."""
    model = _model(sample.config, sample.vector_digest)
    texts, source = drawn.documents.column("document").combine_chunks(), sample.pieces[0].source
    fresh = model.embed(texts, source)
    # Row by row, in the same order: a row for each document, or for each of its windows.
    chunk_N = drawn.rows.column("chunk") if fresh.windows else pa.array(np.zeros(len(drawn.document)))
    order = np.lexsort((chunk_N.to_numpy(), drawn.document))
    drawn = _Drawn(drawn.rows.take(pa.array(order)), drawn.document[order], drawn.documents)
    bad = _cut_otherwise(drawn, fresh)
    troubles = [*some("deep", np.isin(drawn.document, bad), drawn.rows, "are not the windows of their text")]
    good_W = ~np.isin(fresh.document, bad)
    rows = drawn.without(bad).rows
    if not rows.num_rows:
        return troubles, math.inf
    other_N = rows.column("n_tokens").to_numpy() != fresh.tokens[good_W]
    troubles += some("deep", other_N, rows, "have another n_tokens than their text")
    if model.recipe.classes:
        other_N = model.other_scores(rows, fresh.outputs["classification"][good_W])
        troubles += some("deep", other_N, rows, "have other scores than their text")
    kept = {name: values[good_W] for name, values in fresh.outputs.items()}
    for name, other_N in outputs.unlike(rows, kept, model.encoder.outputs, model.dtype):
        troubles += some("deep", other_N, rows, f"have other {name} than their text")
    if "embedding" not in fresh.outputs:
        return troubles, math.inf
    far_N, nearness_N = model.unlike(rows, fresh.outputs["embedding"][good_W])
    nearness = float(nearness_N.min())
    what = f"have another vector than their text's ({MEASURES[model.recipe.vector]} {nearness:.4f})"
    return [*troubles, *some("deep", far_N, rows, what)], nearness


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The W rows that the documents should have, in the order of the documents.

    document: (W,) the number of each row's document.  tokens: (W,) token ids of each.
    outputs: the values of each output, (W, ...).
    windows: `chunk`, `char_start` and `char_stop` by name if the dataset has a row for each window; else
        empty.
    """

    document: Ints
    tokens: Ints
    outputs: Mapping[str, Any]
    windows: Mapping[str, Ints]


def _cut_otherwise(drawn: _Drawn, fresh: _Fresh) -> Ints:
    """Returns the documents whose rows are not the windows of their text: others, fewer, or more."""
    size = drawn.documents.num_rows
    bad_D = np.bincount(drawn.document, minlength=size) != np.bincount(fresh.document, minlength=size)
    as_many_N, as_many_W = ~bad_D[drawn.document], ~bad_D[fresh.document]
    for name, values_W in fresh.windows.items():
        differs = drawn.rows.column(name).to_numpy()[as_many_N] != values_W[as_many_W]
        bad_D[drawn.document[as_many_N][differs]] = True
    return np.flatnonzero(bad_D)


class _Model:
    """The model that made a dataset, on this node."""

    def __init__(self, config: Config, vector_digest: str) -> None:
        # Imports torch only here: every other check starts without it.
        from pipeline.model.encoder import Encoder  # noqa: PLC0415

        found = resolve(config, vector_digest)
        self.recipe = EmbeddingSpec.of_config(found, config)
        self.tokenizer = Tokenizer(found, self.recipe.max_tokens)
        # A sample needs no GPU. Vectors that a GPU made in bfloat16 are near to these, only less so.
        self.encoder = Encoder(found, device="cpu", dtype="float32", recipe=self.recipe)
        self.dtype = config.dtype
        self.least_cosine, self.score_slack = LEAST_COSINE[config.dtype], SCORE_SLACK[config.dtype]

    def embed(self, texts: pa.Array, source: str) -> _Fresh:
        """Computes the rows that documents of a source should have, with outputs as before storage."""
        recipe = self.recipe.of_source(source)
        (tokens, parts), cut_N = tokenize_all(texts, lambda some: tokenized(some, self.tokenizer, recipe))
        numbers = np.flatnonzero(cut_N)
        lengths_C = tokens.lengths
        encoded = self.encoder.run(tokens)
        kept = outputs.parted(encoded.values, self.encoder.outputs)
        one_row = parts is not None and not recipe.chunked
        chunks_N = np.bincount(parts.text, minlength=len(numbers)) if parts else np.ones(0, np.int64)
        more: dict[str, Values] = {}
        if tokens.places is not None:
            placed = token_places.of_rows(tokens.places, lengths_C, chunks_N if one_row else None)
            more = {**outputs.joined(encoded.of_tokens, placed, self.encoder.outputs)}
        if parts is None:
            return _Fresh(numbers, lengths_C, {**kept, **more}, {})
        if recipe.chunked:
            window = {"chunk": parts.numbers, "char_start": parts.char_start, "char_stop": parts.char_stop}
            return _Fresh(numbers[parts.text], lengths_C, {**kept, **more}, window)
        tokens_N = np.bincount(parts.text, lengths_C, len(numbers)).astype(np.int64)
        means = {
            name: vectors.mean_of_chunks(each, lengths_C, chunks_N, recipe.normalize)
            for name, each in kept.items()
        }
        return _Fresh(numbers, tokens_N, {**means, **more}, {})

    def other_scores(self, rows: pa.Table, fresh_NL: classification.Scores) -> npt.NDArray[np.bool_]:
        """Returns (N,) which stored scores are not their texts'."""
        stored_NL = classification.load(rows, self.encoder.outputs)
        bound_NL = self.score_slack * np.maximum(1, np.abs(fresh_NL))  # a regression may be of any size
        return np.asarray(~(np.abs(stored_NL - fresh_NL) <= bound_NL).all(axis=1))

    def unlike(self, rows: pa.Table, fresh_ND: Vectors) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """Returns (N,) which stored vectors are not their texts', and (N,) how near each is.

        Compares distances, so that it holds for vectors of any length: at length 1 a cosine of c is a
        distance of sqrt(2 - 2c). The largest error of quantization is added to the bound.
        """
        dimension = fresh_ND.shape[1]
        stored_ND = embedding.load(rows, dimension)
        if self.recipe.vector == "binary":
            unlike_N = ((stored_ND > 0) != (fresh_ND > 0)).sum(axis=1)
            return unlike_N > math.ceil(UNLIKE_BITS * dimension), 1 - unlike_N / np.float32(dimension)
        cosine_N = (vectors.unit(stored_ND) * vectors.unit(fresh_ND)).sum(axis=1)
        distance_N = np.linalg.norm(stored_ND - fresh_ND, axis=1)
        bound = math.sqrt(2 - 2 * self.least_cosine)
        most_N = bound * np.linalg.norm(fresh_ND, axis=1) + shard_audit.quantization(rows, dimension)
        return ~(distance_N <= most_N), cosine_N


@functools.lru_cache(1)
def _model(config: str, vector_digest: str) -> _Model:
    """Loads the model once per process, since that takes seconds."""
    return _Model(Config.model_validate_json(config), vector_digest)
