"""States MPNet's facts: those of BERT, and a bias of attention that depends on the distance of two tokens.

This module's `MPNET` is a `families.Family`. Planning and committing use it, so it starts without torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ModelError
from pipeline.model.bert.geometry import Geometry
from pipeline.model.model_config import ModelConfig

FIRST_POSITION = 2
"""The number of a text's first position, whatever id padding has."""
BUCKETS = 32
"""The number of distances that the bias tells apart. transformers never takes another from config.json."""
BIAS = "encoder.relative_attention_bias.weight"

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30_527, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "relative_attention_num_buckets": BUCKETS, "type_vocab_size": 1,
}  # fmt: skip
_STORED = {
    **{f"attention.{part}": f"attention.attn.{part[0]}" for part in ("query", "key", "value")},
    "attention.dense": "attention.attn.o",
    "attention.LayerNorm": "attention.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}


@dataclass
class MpnetGeometry(Geometry):
    """The facts of MPNet; see `families.Family`."""

    def check(self, config: ModelConfig) -> None:
        """Checks what would otherwise fail on the replicas, or give other vectors.

        Raises:
            ModelError: no replica could load this geometry, or the forward pass differs.
        """
        super().check(config)
        buckets = config.size("relative_attention_num_buckets")
        if buckets != BUCKETS:
            what = f"relative_attention_num_buckets must be {BUCKETS}"
            raise ModelError(what, str(config.path), str(buckets), hint="name a checkpoint without it")

    def first_position(self, config: ModelConfig) -> int:  # noqa: ARG002
        """Returns the number of a text's first position."""
        return FIRST_POSITION

    def weights(self, config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the stored name and the shape of each weight that the forward pass needs."""
        yield from super().weights(config)
        yield BIAS, (BUCKETS, config.size("num_attention_heads"))


MPNET = MpnetGeometry(
    NAME="MPNet",
    CLASSIFIER="MPNetForSequenceClassification",
    PREFIX="mpnet.",
    DEFAULTS=_DEFAULTS,
    LAYER="encoder.layer.",
    STORED=_STORED,
    HEAD_NAMES={"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
    typed=False,
    FORWARD="pipeline.model.mpnet.forward:Mpnet",
)
