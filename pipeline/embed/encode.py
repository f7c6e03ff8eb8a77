"""Runs a replica, an actor that stays: it takes token ids and returns the values that each output keeps.

Shapes: S sequences that the model runs, N rows, D dimensions.
"""

import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import telemetry
from pipeline.dataset import vectors
from pipeline.embed.job import Job
from pipeline.embed.row import run_on_row
from pipeline.embed.split import EncodedSplit, ReadSplit
from pipeline.errors import ENDS, DeviceError, NonFiniteError, PipelineError, StartError
from pipeline.model import outputs, token_places
from pipeline.model.batching import TokenBatch
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.outputs import Values
from pipeline.model.outputs.embedding import Vectors
from pipeline.ragged import offsets_from_lengths
from pipeline.telemetry.liveness import Heartbeat

if TYPE_CHECKING:
    from pipeline.model.encoder import Encoded

RETRY_SHARE = 0.1
"""The share of the watchdog's time for which a replica tries to start before it gives up a split."""
FIRST_PAUSE_SECONDS = 1.0
Bools = npt.NDArray[np.bool_]


class Encode:
    """A replica that stays.

    If a replica can't start, the splits that it gets fail with its error. Raised in the constructor, the
    error would end the job and not name the replica. It tries again for a while before each split: the Hub or
    a mount may be back soon, and meanwhile replicas that did start take the other splits.
    """

    def __init__(self, job: Job, sentry: Heartbeat | None = None) -> None:
        self.job, self.sentry, self.ended = job, sentry, time.perf_counter()
        self.works = False
        self.broken = self._start()

    def __call__(self, row: pa.Table) -> pa.Table:
        try:
            return run_on_row("encode", row, self.encode_split, self.sentry)
        finally:
            self.ended = time.perf_counter()

    def encode_split(self, split: ReadSplit) -> EncodedSplit:
        """Embeds a split.

        Raises:
            StartError: this replica can't start.
            DeviceError: the device failed.
            NonFiniteError: its vectors must not be written.
        """
        if self.broken:
            self._start_again()
        started = time.perf_counter()
        encoded = self._run(split.tokens)
        values_ND, too_large_N = _of_rows(encoded, split, self.encoder.recipe.normalize)
        of_texts = outputs.parted(values_ND, self.encoder.outputs)
        kept: dict[str, Values] = {**of_texts, **self._of_tokens(encoded, split)}
        took = {
            "computed_tokens": encoded.computed_tokens,
            "padded_tokens": encoded.padded_tokens,
            "encode_seconds": time.perf_counter() - started,
            "idle_seconds": started - self.ended,
        }
        self._refuse_non_finite(kept, too_large_N)
        return _encoded(split, took, kept, too_large_N)

    def _of_tokens(self, encoded: "Encoded", split: ReadSplit) -> dict[str, Values]:
        """Returns the values that outputs of tokens keep of the rows."""
        if split.places is None:
            return {}
        placed = token_places.of_rows(split.places, split.lengths, split.chunks)
        return outputs.joined(encoded.of_tokens, placed, self.encoder.outputs)

    def _run(self, tokens: TokenBatch) -> "Encoded":
        try:
            return self.encoder.run(tokens)
        except DeviceError as error:
            self._end_process(error)
            raise

    def _start(self) -> StartError | None:
        # The driver, readers and writers do not import torch: it would take 2 s and 300 MB in each.
        from pipeline.model.encoder import Encoder  # noqa: PLC0415

        config = self.job.config
        try:
            replica = self.job.replica()
            self.encoder = Encoder(
                replica,
                device=config.compute.device,
                dtype=config.dtype,
                recipe=EmbeddingSpec.of(replica, config.model, self.job.recipe.head),
                batch_tokens=config.compute.batch_tokens,
                threads=self.job.threads,
            )
        except PipelineError as error:
            where = f"{error.where} on {platform.node()}".strip()
            return StartError(error.what, where, error.got, error.hint, error.exit_code)
        except ENDS:
            raise
        except BaseException as error:  # torch may raise anything, and safetensors panics
            where = f"{config.model.name} on {platform.node()}"
            hint = "check the checkpoint's files and the device"
            return StartError("a replica can't start", where, repr(error), hint)
        return None

    def _start_again(self) -> None:
        patience = RETRY_SHARE * 60 * self.job.config.compute.watchdog_minutes
        until, pause = time.monotonic() + patience, FIRST_PAUSE_SECONDS
        while self.broken and time.monotonic() + pause <= until:
            time.sleep(pause)
            telemetry.heartbeat()
            self.broken = self._start()
            pause *= 2
        if self.broken:
            raise self.broken

    def _end_process(self, error: DeviceError) -> None:
        """Ends this process if a sentry counts the deaths at a split: a new process gets a new device."""
        if self.sentry:
            telemetry.warn("the process ends", reason=error)
            sys.stderr.flush()
            os._exit(int(error.exit_code))

    def _refuse_non_finite(self, kept: Mapping[str, Values], too_large_N: Bools) -> None:
        """Refuses a split with too many numbers that are not finite; a device that worked before has failed.

        Raises:
            NonFiniteError: its outputs must not be written.
        """
        where = f"{self.job.config.compute.device} on {platform.node()}"
        try:
            vectors.refuse_many_non_finite(~outputs.finite(kept), too_large_N, where)
        except NonFiniteError as error:
            if self.works:
                self._end_process(error)
            raise
        self.works = True


def _of_rows(encoded: "Encoded", split: ReadSplit, normalize: bool) -> tuple[Vectors, Bools]:
    """Returns the numbers of rows, (N, D), and the rows for which memory did not suffice, (N,).

    Only vectors have a mean: with other outputs a row is one sequence.
    """
    if split.chunks is None:
        return encoded.values, encoded.too_large
    vectors_ND = vectors.mean_of_chunks(encoded.values, split.lengths, split.chunks, normalize)
    return vectors_ND, _any_of_chunks(encoded.too_large, split.chunks)


def _encoded(
    split: ReadSplit, took: Mapping[str, float], kept: Mapping[str, Values], too_large_N: Bools
) -> EncodedSplit:
    return EncodedSplit(
        split_id=split.split_id,
        pieces=split.pieces,
        rows=split.rows,
        rejects=split.rejects,
        reused=split.reused,
        order=split.order,
        figures={**split.figures, **took},
        outputs=kept,
        too_large=too_large_N,
    )


def _any_of_chunks(which_S: Bools, chunks_N: npt.NDArray[np.int64]) -> Bools:
    """Tells for each row whether any of its chunks is in `which_S`, (N,)."""
    if not len(chunks_N):
        return which_S
    which_N: Bools = np.logical_or.reduceat(which_S, offsets_from_lengths(chunks_N)[:-1])
    return which_N
