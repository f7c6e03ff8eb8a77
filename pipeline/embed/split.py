"""Defines a split between the stages: what the reader passes to the encoder, and the encoder to the writer.

Shapes: N rows to embed, R rows that are reused, S sequences that the model runs (the rows, or chunks of
their texts), T tokens of all sequences.
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
from pipeline.model.token_places import Places
from pipeline.ragged import Ints, offsets_from_lengths


@dataclass(frozen=True)
class PackedTable:
    """A table as an Arrow IPC stream, so that a stage that does not read it passes on its buffer."""

    buffer: pa.Buffer

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return cls(sink.getvalue())

    @cached_property
    def table(self) -> pa.Table:
        """Returns the table, which borrows the buffer."""
        return pa.ipc.open_stream(self.buffer).read_all()


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The part of a split that the reader sends to the writer; the encoder passes it on.

    pieces: the range that was consumed of each piece, or the reason why there is none.
    rows: (N,) rows of `schema.rows_schema`.  rejects: rows of `schema.REJECTS`.
    reused: (R,) more rows with their outputs as stored; None without a base.
    order: (N + R,) the keys that sort all rows; None if nothing is reused.
    figures: the cost so far, as fields of the shard record.
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
    """A split that was read and tokenized.

    ids: (T,) uint16, or int32 if the vocabulary needs it.  lengths: (S,) tokens of each sequence.
    chunks: (N,) the number of chunks whose mean each row is; None if each row is one sequence.
    second: (S,) the place in each sequence where the second text of a pair begins; None without pairs.
    places: (T,) the place of each token in its text (`token_places`); None if no output asks for them.
    """

    ids: npt.NDArray[Any]
    lengths: Ints
    chunks: Ints | None
    second: Ints | None = None
    places: Places | None = None

    @property
    def tokens(self) -> TokenBatch:
        """Returns the tokens that the model runs; the rows say which texts were truncated."""
        none = np.zeros(len(self.lengths), np.bool_)
        return TokenBatch(self.ids, offsets_from_lengths(self.lengths), none, self.second)


@dataclass(frozen=True, kw_only=True)
class EncodedSplit(SplitRows):
    """A split that was embedded.

    outputs: the values that each output keeps of the rows, (N, ...).
    too_large: (N,) bool, rows for which memory did not suffice.
    """

    outputs: Mapping[str, Values]
    too_large: npt.NDArray[np.bool_]
