"""Embeds texts in this process: the vectors are those of a job, without its files.

Shapes: N texts, G texts that can be embedded, D dimensions.
"""

import platform
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.dataset import vectors
from pipeline.errors import ConfigError
from pipeline.library.settings import Settings
from pipeline.model import outputs
from pipeline.model.check import usable_model
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec, prefix_of
from pipeline.model.output_spec import OutputSpec
from pipeline.model.tokenizer.texts import tokenize_all, tokenized
from pipeline.ragged import Ints, unchecked_strings
from pipeline.source.documents import faults

if TYPE_CHECKING:
    from pipeline.model.encoder import Encoder

REJECT = "reject"
"""The column that says why a text has no outputs; it is null where the text has them."""
Values = dict[str, npt.NDArray[Any]]


class Embedder:
    """A checkpoint on a device of this machine, loaded once.

    It takes about two seconds to start. It may be used as a context, which frees the memory at its end.

    Args:
        model: `albert-mini`, a folder, the URL of a folder in object storage, or a Hub id.
        device: `cpu` or `cuda`.
        batch_tokens: the tokens of a micro-batch; by default the device's.
        threads: on a CPU, micro-batches at the same time. By default torch's number.
        settings: further fields of the config's section `model`, such as `prefix`, `pooling`, `truncate_dim`,
            `outputs` or `dtype` (docs/configuration.md).

    Raises:
        PipelineError: the settings are wrong, or the checkpoint can't be used.
    """

    def __init__(
        self,
        model: str = "albert-mini",
        *,
        device: str = "cpu",
        batch_tokens: int | None = None,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        compute = {"device": device, "batch_tokens": batch_tokens, "threads": threads}
        asked = Settings.of("Embedder", model, compute | settings)
        self._checkpoint, self._tokenizer = usable_model(asked.model)
        self._recipe = EmbeddingSpec.of(self._checkpoint, asked.model)
        self._spec = self._recipe.output_spec(self._checkpoint)
        self._encoder: Encoder | None = _encoder(self._checkpoint, self._recipe, asked)

    def embed(
        self, texts: Iterable[str | None], *, prefix: str | None = None, prompt: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Returns the vector of each text, (N, D) float32; NaN for a text that a job would reject.

        Args:
            texts: a list of texts, a column of pandas or Polars, or an Arrow array.
            prefix: what is put before these texts, in place of the embedder's own.
            prompt: the name of one of the checkpoint's prompts, which is put there.

        Raises:
            PipelineError: `outputs` names no vectors, the prompt is unknown, or the device failed.
        """
        if "embedding" not in self._spec.names:
            got = ", ".join(self._spec.names)
            raise ConfigError("has no vectors", "outputs", got, hint="add embedding, or call table")
        reasons_N, kept = self._run(texts, prefix, prompt)
        vectors_ND = np.full((len(reasons_N), self._spec.dimension), np.nan, np.float32)
        vectors_ND[reasons_N == ""] = kept["embedding"]
        return vectors_ND

    def table(
        self, texts: Iterable[str | None], *, prefix: str | None = None, prompt: str | None = None
    ) -> pa.Table:
        """Returns the columns that a shard has of each text, and `reject`: why a text has nulls in them.

        Takes the arguments of `embed`.

        Raises:
            PipelineError: the prompt is unknown, or the device failed.
        """
        reasons_N, kept = self._run(texts, prefix, prompt)
        good_N = reasons_N == ""
        place_N = pa.array(np.cumsum(good_N) - 1, mask=~good_N)
        columns = [column.take(place_N) for column in outputs.store(kept, self._spec)]
        columns.append(pa.array(reasons_N.tolist(), pa.string(), mask=good_N))
        return pa.Table.from_arrays(columns, schema=self.schema)

    @property
    def schema(self) -> pa.Schema:
        """The columns of `table`."""
        return columns_of(self._spec)

    def close(self) -> None:
        """Frees the memory of the model. The embedder can't be used afterwards."""
        self._encoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self, texts: Iterable[str | None], prefix: str | None, prompt: str | None
    ) -> tuple[npt.NDArray[np.str_], Values]:
        """Returns why each text has no outputs, (N,), and the outputs of the others, (G, ...)."""
        if self._encoder is None:
            raise ConfigError("is closed", "Embedder", hint="make another one")
        array = _array(texts)
        reasons_N = faults(array).astype(np.dtypes.StringDType())
        good = np.flatnonzero(reasons_N == "")
        recipe = self._prefixed(prefix, prompt)
        (tokens, chunks), cut_G = tokenize_all(
            array.take(pa.array(good)), lambda some: tokenized(some, self._tokenizer, recipe)
        )
        reasons_N[good[~cut_G]] = "tokenizer_failed"
        good = good[cut_G]
        encoded = self._encoder.run(tokens)
        values_GD, large_G = encoded.values, encoded.too_large
        if chunks is not None:
            counts_G = np.bincount(chunks.text, minlength=len(good))
            values_GD = vectors.mean_of_chunks(values_GD, tokens.lengths, counts_G, recipe.normalize)
            large_G = np.bincount(chunks.text, large_G, len(good)) > 0
        return self._finite(outputs.parted(values_GD, self._spec), large_G, reasons_N, good)

    def _prefixed(self, prefix: str | None, prompt: str | None) -> EmbeddingSpec:
        """Returns the settings for texts of another prefix."""
        if prefix is None and prompt is None:
            return self._recipe
        return replace(self._recipe, prefix=prefix_of(self._checkpoint, prefix, prompt, "Embedder"))

    def _finite(
        self, kept: Values, large_G: npt.NDArray[np.bool_], reasons_N: npt.NDArray[Any], good: Ints
    ) -> tuple[npt.NDArray[Any], Values]:
        """Rejects the texts whose numbers are not finite, as the writer of a shard does."""
        bad_G = ~outputs.finite(kept)
        vectors.refuse_many_non_finite(bad_G, large_G, platform.node())
        reasons_N[good[bad_G]] = np.where(large_G[bad_G], "out_of_memory", "non_finite_vector")
        return reasons_N, {name: values[~bad_G] for name, values in kept.items()}


def columns_of(spec: OutputSpec) -> pa.Schema:
    """Returns the columns of `Embedder.table`; needs no torch."""
    fields = [field.with_nullable(True) for field in outputs.fields(spec)]
    return pa.schema([*fields, pa.field(REJECT, pa.string())])


def _encoder(checkpoint: Checkpoint, recipe: EmbeddingSpec, asked: Settings) -> "Encoder":
    # Importing torch takes seconds, and whoever only checks settings needs none of it.
    from pipeline.model.encoder import Encoder  # noqa: PLC0415

    compute = asked.compute
    return Encoder(
        checkpoint,
        device=compute.device,
        dtype=asked.model.dtype_on(compute.device),
        recipe=recipe,
        batch_tokens=compute.batch_tokens,
        threads=compute.threads_per_replica,
    )


def _array(texts: Iterable[str | None]) -> pa.Array:
    """Returns texts as large strings whose bytes nobody has checked."""
    if isinstance(texts, str | bytes):
        raise ConfigError("is one text", "texts", type(texts).__name__, hint="pass a list of texts")
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    some = texts if isinstance(texts, pa.Array) else list(texts)
    try:
        found = some if isinstance(some, pa.Array) else pa.array(some, from_pandas=True)
    except UnicodeEncodeError:
        return _with_halves(some)
    except (pa.ArrowException, TypeError) as error:
        raise _not_texts(str(error)) from None
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    if not (_is_text(found.type) or pa.types.is_null(found.type)):
        raise _not_texts(str(found.type))
    return found.cast(pa.large_string())


def _with_halves(texts: Iterable[Any]) -> pa.Array:
    """Returns texts of which some hold half of a pair of surrogates, which is not UTF-8."""
    encoded = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    try:
        return unchecked_strings(pa.array(encoded, pa.large_binary(), from_pandas=True))
    except (pa.ArrowException, TypeError) as error:
        raise _not_texts(str(error)) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _not_texts(got: str) -> ConfigError:
    return ConfigError("are not texts", "texts", got, hint="pass strings, and None where there is no text")
