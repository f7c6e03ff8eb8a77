"""Embeds within a Spark job: `SparkEmbedder(...).add_to(frame)`, or `frame.mapInArrow(embedder, schema)`.

Spark sends the object to its executors. Each Python process there loads the model once, however many tasks
and jobs it runs.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipeline.library.columns import refuse_columns, with_outputs
from pipeline.library.embedder import Embedder, columns_of
from pipeline.library.settings import Settings
from pipeline.model.check import usable_model
from pipeline.model.embedding_spec import EmbeddingSpec


class SparkEmbedder:
    """A function for `pyspark.sql.DataFrame.mapInArrow`, which adds outputs to rows.

    Args:
        model: as `Embedder` takes it; every executor must find it.
        text_column: the column that holds the texts.
        threads: micro-batches at the same time in each task. Spark gives a task one CPU by default.
        settings: further arguments of `Embedder`.

    Raises:
        PipelineError: the settings are wrong, or the checkpoint can't be used here.
    """

    def __init__(
        self, model: str = "albert-mini", *, text_column: str = "text", threads: int = 1, **settings: Any
    ) -> None:
        arguments = {"threads": threads, **settings}
        asked = Settings.of("SparkEmbedder", model, arguments).model
        checkpoint, _ = usable_model(asked)
        columns = columns_of(EmbeddingSpec.of(checkpoint, asked).output_spec(checkpoint))
        self._added = pa.schema([_for_spark(field) for field in columns])
        self._text_column = text_column
        self._arguments = json.dumps({"model": model, **arguments}, sort_keys=True)

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yields the batches of a partition with their outputs."""
        for batch in batches:
            rows = with_outputs(pa.Table.from_batches([batch]), self._text_column, _loaded(self._arguments))
            kept = [*batch.schema, *self._added]
            yield from rows.cast(pa.schema(kept)).combine_chunks().to_batches()

    def add_to(self, frame: Any) -> Any:
        """Returns a Spark DataFrame with the outputs of its texts, and `reject`, behind its own columns.

        Raises:
            ConfigError: the frame has no such text column, or has a column of that name already.
        """
        refuse_columns(frame.columns, self._text_column, self._added.names)
        return frame.mapInArrow(self, self.schema(frame))

    def schema(self, frame: Any) -> Any:
        """Returns the schema that `mapInArrow` needs for a frame: a `StructType` of pyspark."""
        from pyspark.sql.pandas.types import from_arrow_schema  # noqa: PLC0415
        from pyspark.sql.types import StructType  # noqa: PLC0415

        return StructType([*frame.schema.fields, *from_arrow_schema(self._added).fields])


@functools.lru_cache(maxsize=1)
def _loaded(arguments: str) -> Embedder:
    """Loads the model once in this process."""
    return Embedder(**json.loads(arguments))


def _for_spark(field: pa.Field) -> pa.Field:
    """Returns a field as Spark has it: it knows no lists of a fixed size."""
    kind = field.type
    return field.with_type(pa.list_(kind.value_type)) if pa.types.is_fixed_size_list(kind) else field
