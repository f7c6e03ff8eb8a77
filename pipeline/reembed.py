"""Rows embedded once more, from their sources, and compared with what a shard says: the deepest check.

Whether a vector belongs to its text can't be seen in a shard. A sample of rows is drawn, the same for the
same dataset; their texts are read, each piece once, and go through tokenizer and model again.

Cost: torch; each piece that holds a drawn row is read whole, and a model run for each drawn row.

Shapes: N drawn rows, K of them in one piece, D dimensions.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import audit, checkpoint, schema, sources, vectors
from pipeline.audit import Finding, Trouble
from pipeline.checkpoint import Checkpoint
from pipeline.config import Config
from pipeline.dataset import Dataset, Identity
from pipeline.errors import ModelError, SourceError
from pipeline.formats import Piece
from pipeline.ragged import Ints
from pipeline.recipe import Recipe
from pipeline.tokenizer import Tokenizer
from pipeline.vectors import Vectors
from pipeline.windows import prefixed, windows

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
"""Between a vector and its text's, by the arithmetic that made it."""
MEASURES = {"float32": "cosine", "int8": "cosine", "binary": "share of equal bits"}
"""How near a stored vector is to its text's."""
UNLIKE_BITS = 0.01
"""Of a binary vector's dimensions, those that may differ: values near zero fall on either side."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a shard to embed again: each by the chance of `fraction`, drawn by the dataset's digest."""

    root: str
    split_id: str
    pieces: Sequence[Piece]
    fraction: float
    dataset_digest: str
    vector_digest: str
    config: str  # as JSON


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a sample.

    rows: compared.  unchecked: drawn, but their source is gone or has changed.
    nearness: the least cosine (of bits the least share that is equal); infinite where none was compared.
    """

    findings: tuple[Finding, ...]
    rows: int
    unchecked: int
    nearness: float


def resolve(config: Config, vector_digest: str) -> Checkpoint:
    """The checkpoint that made a dataset; needs no torch.

    Raises:
        ModelError: it is no longer there, or another has its name.
    """
    model = config.model
    found = checkpoint.resolve(model.name, model.revision, allow_pickle=model.allow_pickle)
    if Identity.of(config, found).vector_digest != vector_digest:
        raise ModelError(
            "is not the model that made the dataset", model.name, hint="put that one in its place"
        )
    return found


def reembed_shard(sample: Sample) -> Compared:
    """Embed the drawn rows of a shard again.

    Raises:
        ModelError: the model that made the dataset is no longer there.
        StorageError: storage failed.
    """
    dataset = Dataset(sample.root)
    path = dataset.layout.shard(sample.split_id)
    drawn = _drawn(sample, pq.read_table(pa.BufferReader(dataset.storage.read(path))))
    rows, texts = _with_texts(sample, drawn)
    troubles: list[Trouble] = []
    nearness = math.inf
    same_N = _hashes(texts) == np.array(rows["text_hash"].to_pylist(), object)
    troubles += audit.some("deep", ~same_N, rows, "have another text_hash than their source's text")
    rows, texts = rows.filter(pa.array(same_N)), texts.filter(pa.array(same_N))
    if rows.num_rows:
        more, nearness = _compared(sample, rows, texts)
        troubles += more
    where = dataset.layout.name(path)
    findings = tuple(Finding(check, where, what) for check, what in troubles)
    return Compared(findings, len(same_N), drawn.num_rows - len(same_N), nearness)


def _drawn(sample: Sample, shard: pa.Table) -> pa.Table:
    seed = blake2b(f"{sample.dataset_digest} {sample.split_id}".encode(), digest_size=8).digest()
    chances_N = np.random.default_rng(int.from_bytes(seed)).random(shard.num_rows)
    ours = [name for name in shard.column_names if name in schema.reserved_names()]
    return shard.select(ours).filter(pa.array(chances_N < sample.fraction))


def _with_texts(sample: Sample, drawn: pa.Table) -> tuple[pa.Table, pa.Array]:
    """Drawn rows whose source is as it was, with their documents."""
    config = Config.model_validate_json(sample.config)
    ranges = [
        {"source": piece.source, "file": piece.file, "first": piece.start, "last": piece.stop}
        for piece in sample.pieces
    ]
    range_N = audit.range_of(drawn, ranges)
    rows, texts = [drawn.slice(0, 0)], [pa.array([], pa.large_string())]
    for index in np.unique(range_N).tolist():
        rows_K = drawn.filter(pa.array(range_N == index))
        try:
            texts_K = sources.texts(config, sample.pieces[index], rows_K["source_row"].to_pylist())
        except SourceError:
            continue
        rows.append(rows_K)
        texts.append(texts_K)
    return pa.concat_tables(rows).combine_chunks(), pa.concat_arrays(texts)


def _hashes(texts: pa.Array) -> npt.NDArray[np.object_]:
    """(N,) BLAKE2b-128 of each text's bytes; None where there is no text."""
    data = texts.cast(pa.large_binary()).to_pylist()
    found = [None if text is None else blake2b(text, digest_size=audit.HASH_BYTES).digest() for text in data]
    return np.array(found, object)


def _compared(sample: Sample, rows: pa.Table, documents: pa.Array) -> tuple[list[Trouble], float]:
    places = rows.select([name for name in rows.column_names if name.startswith("char_")]).to_pylist()
    parts = [sources.window(text, row) for text, row in zip(documents.to_pylist(), places, strict=True)]
    model = _model(sample.config, sample.vector_digest)
    vectors_ND, tokens_N = model.embed(pa.array(parts, pa.large_string()))
    other_N = rows["n_tokens"].to_numpy() != tokens_N
    troubles = [*audit.some("deep", other_N, rows, "have another n_tokens than their text")]
    far_N, nearness_N = model.unlike(rows, vectors_ND)
    nearness = float(nearness_N.min())
    what = f"have another vector than their text's ({MEASURES[model.recipe.vector]} {nearness:.4f})"
    return [*troubles, *audit.some("deep", far_N, rows, what)], nearness


class _Model:
    """The model that made a dataset, on this node."""

    def __init__(self, config: Config, vector_digest: str) -> None:
        # torch only where it is asked for: every other check starts without it.
        from pipeline.encoder import Encoder  # noqa: PLC0415

        found = resolve(config, vector_digest)
        self.recipe = Recipe.of(found, config.model)
        self.tokenizer = Tokenizer(found, self.recipe.max_tokens)
        # A sample needs no GPU; what one did in bfloat16 is near to this, if not as near.
        self.encoder = Encoder(found, device="cpu", dtype="float32", recipe=self.recipe)
        self.least_cosine = LEAST_COSINE[config.dtype]

    def embed(self, texts: pa.Array) -> tuple[Vectors, Ints]:
        """(N, D) vectors before they are stored, and (N,) `n_tokens`."""
        recipe = self.recipe
        if recipe.long_text != "mean_of_chunks":
            tokens = self.tokenizer.encode(prefixed(texts, recipe.prefix))
            return self.encoder.encode(tokens), tokens.lengths
        parts = windows(self.tokenizer, texts, recipe.chunk_overlap, recipe.prefix)
        lengths_W, windows_N = parts.tokens.lengths, np.bincount(parts.text, minlength=len(texts))
        vectors_WD = self.encoder.encode(parts.tokens)
        means_ND = vectors.mean_of_windows(vectors_WD, lengths_W, windows_N, recipe.normalize)
        return means_ND, np.bincount(parts.text, lengths_W, len(texts)).astype(np.int64)

    def unlike(self, rows: pa.Table, fresh_ND: Vectors) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """(N,) which stored vectors are not their texts'; and (N,) how near each is.

        By distance, for vectors that are not of length 1 too: at length 1 a cosine of c is a distance of
        sqrt(2 - 2c). What quantization can have moved comes on top.
        """
        dimension = fresh_ND.shape[1]
        stored_ND = vectors.load(rows, dimension)
        if self.recipe.vector == "binary":
            unlike_N = ((stored_ND > 0) != (fresh_ND > 0)).sum(axis=1)
            return unlike_N > math.ceil(UNLIKE_BITS * dimension), 1 - unlike_N / np.float32(dimension)
        cosine_N = (vectors.unit(stored_ND) * vectors.unit(fresh_ND)).sum(axis=1)
        distance_N = np.linalg.norm(stored_ND - fresh_ND, axis=1)
        bound = math.sqrt(2 - 2 * self.least_cosine)
        most_N = bound * np.linalg.norm(fresh_ND, axis=1) + audit.quantization(rows, dimension)
        return ~(distance_N <= most_N), cosine_N


@functools.lru_cache(1)
def _model(config: str, vector_digest: str) -> _Model:
    """One a process: it takes seconds to load."""
    return _Model(Config.model_validate_json(config), vector_digest)
