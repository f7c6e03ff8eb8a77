"""A split between the stages: as the reader leaves it to the encoder, and the encoder to the writer.

Shapes: N rows to embed, R rows that are reused, S sequences that the model runs (the rows, or chunks of
their texts), T tokens of all of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.model.batching import TokenBatch
from pipeline.model.outputs import Values
from pipeline.ragged import Ints, offsets_from_lengths


@dataclass(frozen=True)
class PackedTable:
    """A table as an Arrow IPC stream, so that a stage that does not look into it hands on its buffer."""

    buffer: pa.Buffer

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return cls(sink.getvalue())

    @cached_property
    def table(self) -> pa.Table:
        """The table, borrowing the buffer."""
        return pa.ipc.open_stream(self.buffer).read_all()


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """What the reader tells the writer of a split; the encoder hands it on.

    pieces: the range that was consumed of each piece, or why there is none.
    rows: (N,) of `schema.rows_schema`.  rejects: of `schema.REJECTS`.
    reused: (R,) further rows with their outputs as stored; None where no base is asked.
    order: (N + R,) by which all rows are sorted; None where nothing is reused.
    figures: what it took so far, as fields of the shard record.
    """

    split_id: str
    pieces: Sequence[Mapping[str, Any]]
    rows: PackedTable
    rejects: PackedTable
    reused: PackedTable | None
    order: Ints | None
    figures: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReadSplit(SplitRows):
    """A split, read and tokenized.

    ids: (T,) uint16, or int32 where the vocabulary needs it.  lengths: (S,) tokens of each sequence.
    chunks: (N,) how many chunks each row is the mean of; None where each row is embedded as one.
    """

    ids: npt.NDArray[Any]
    lengths: Ints
    chunks: Ints | None

    @property
    def tokens(self) -> TokenBatch:
        """What the model runs; which texts were truncated stands in the rows."""
        return TokenBatch(self.ids, offsets_from_lengths(self.lengths), np.zeros(len(self.lengths), np.bool_))


@dataclass(frozen=True, kw_only=True)
class EncodedSplit(SplitRows):
    """A split, embedded.

    outputs: what each output keeps of the rows, (N, ...).
    too_large: (N,) rows for which memory did not suffice.
    """

    outputs: Mapping[str, Values]
    too_large: npt.NDArray[np.bool_]
