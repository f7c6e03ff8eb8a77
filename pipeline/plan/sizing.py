"""Computes how large splits are: in storage, in memory, between two stages."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.sections import Config
from pipeline.model import outputs
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.plan.plan import Plan

GPU_SPLIT_BYTES = 64 << 20


SECONDS_PER_CPU_SPLIT = 60


CPU_FLOPS = 1e11
"""Matrix operations per second of two ordinary cores in float32; used to size splits and guess costs."""


BYTES_PER_TOKEN = 4


BYTES_PER_LINE = 32


PLACE_BYTES = 9
"""The bytes of a token's place between two stages."""


TOKENS_BYTES = 512 << 20
"""About the most bytes of numbers of tokens in a split: a text of 4 bytes may have a vector of 3 KB."""


MAX_EXPANDED = 10
"""About how many times its stored bytes a text takes at most once it is read; used to estimate memory."""


ROW_BYTES = 40
"""Bytes of a shard's row besides outputs and carried columns: id, place and hash of its text."""


def rows_of_a_split(config: Config, checkpoint: Checkpoint) -> int:
    """Returns the most rows of a split: those of the config, or as many as make a shard of its size."""
    wanted = config.output.target_file_bytes
    if wanted is None:
        return config.output.rows_per_shard
    spec = EmbeddingSpec.of(checkpoint, config.model).output_spec(checkpoint)
    return max(1, int(wanted / (outputs.row_bytes(spec) + ROW_BYTES)))


def split_bytes(config: Config, checkpoint: Checkpoint) -> int:
    """Returns the most bytes of text in a split: the config's, or what keeps the device busy for a while.

    If a text becomes a row for each window, the limit is about the text of as many windows as a shard has
    rows. Who names the size of a shard wants that more than short splits. With outputs of tokens, the limit
    is also about the text whose tokens have `TOKENS_BYTES` of numbers.
    """
    recipe = EmbeddingSpec.of(checkpoint, config.model)
    window = (recipe.max_tokens - recipe.chunk_overlap) * BYTES_PER_TOKEN
    most = rows_of_a_split(config, checkpoint) * window if recipe.chunked else GPU_SPLIT_BYTES
    of_a_token = 4 * outputs.token_width(recipe.output_spec(checkpoint))
    if of_a_token:
        most = min(most, max(1, TOKENS_BYTES * BYTES_PER_TOKEN // of_a_token))
    busy = GPU_SPLIT_BYTES if config.output.target_file_bytes else _busy_bytes(config, checkpoint)
    return min(most, config.output.max_split_bytes or busy)


def payload_bytes(pending: Plan, config: Config, checkpoint: Checkpoint) -> int:
    """Estimates the bytes of the largest split between two stages: its outputs, its rows and its tokens."""
    recipe, pieces = EmbeddingSpec.of(checkpoint, config.model), pending.pieces
    stored = _most_of_a_split(pieces, pieces.column("stored_bytes"))
    text = min(split_bytes(config, checkpoint), MAX_EXPANDED * stored)
    by_rows = pieces.filter(pc.equal(pieces.column("unit"), "rows").fill_null(False))
    rows = _most_of_a_split(by_rows, pc.subtract(by_rows.column("stop"), by_rows.column("start")))
    if by_rows.num_rows < pieces.num_rows:
        rows = max(rows, text // BYTES_PER_LINE)
    most = rows_of_a_split(config, checkpoint)
    rows = min(most, text // BYTES_PER_LINE) if recipe.chunked else min(most, rows)
    spec = recipe.output_spec(checkpoint)
    tokens = text // BYTES_PER_TOKEN if recipe.of_tokens else 0
    return rows * 4 * outputs.width(spec) + tokens * (PLACE_BYTES + 4 * outputs.token_width(spec)) + 2 * text


def _most_of_a_split(pieces: pa.Table, values: pa.ChunkedArray) -> int:
    """Returns the greatest sum of values over the pieces of one split."""
    sums = pa.table({"split": pieces.column("split"), "value": values}).group_by("split")
    return int(pc.max(sums.aggregate([("value", "sum")]).column("value_sum")).as_py() or 0)


def _busy_bytes(config: Config, checkpoint: Checkpoint) -> int:
    if config.compute.device == "cuda":
        return GPU_SPLIT_BYTES
    tokens = SECONDS_PER_CPU_SPLIT * CPU_FLOPS / checkpoint.flops_per_token
    return int(min(max(tokens * BYTES_PER_TOKEN, 1 << 16), GPU_SPLIT_BYTES))
