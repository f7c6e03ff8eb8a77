"""States the facts of BERT, and of the models that differ from it in names and positions alone.

Each `Geometry` is a `families.Family`. Planning and committing use it, so it starts without torch.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import ModelError
from pipeline.model.config_checks import check_layers
from pipeline.model.model_config import ModelConfig

_BERT: dict[str, Any] = {
    "vocab_size": 30_522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "type_vocab_size": 2,
}  # fmt: skip
_ROBERTA = _BERT | {"pad_token_id": 1}
_DIGESTED = (
    "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
    "hidden_act", "layer_norm_eps",
)  # fmt: skip
_OTHERS = r"cls\.|lm_head|classifier|pre_classifier|vocab_|qa_outputs|.*(position_ids|token_type_ids)$"
_ATTENTION = ("query", "key", "value", "dense")


@dataclass
class Geometry:
    """The facts of a family; see `families.Family`.

    CLASSIFIER: the class of transformers with a head of classes for texts; that for tokens is named alike.
    LAYER: the prefix of a layer's weights, before its number.
    STORED: the stored name of each part of a layer, by its name in `layer.Layer`.
    typed: tokens have types.
    after_padding: a text's first position follows that of padding, whose number is the padding's id.
    """

    NAME: str
    CLASSIFIER: str
    PREFIX: str
    DEFAULTS: Mapping[str, Any]
    LAYER: str
    STORED: Mapping[str, str]
    HEAD_NAMES: Mapping[str, str]
    ALIASES: Mapping[str, str] = field(default_factory=dict)
    typed: bool = True
    after_padding: bool = False
    FORWARD: str = "pipeline.model.bert.forward:Bert"
    LIMITS: Mapping[str, int] = field(default_factory=lambda: {"num_hidden_layers": 1000})
    HEAD_ACTIVATION: str = "tanh"
    ARCHITECTURES: Mapping[str, str] = field(init=False)
    DIGESTED: Sequence[str] = field(init=False)
    HEADS: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self.DIGESTED = (*_DIGESTED, "pad_token_id") if self.after_padding else _DIGESTED
        of_tokens = self.CLASSIFIER.replace("Sequence", "Token")
        self.ARCHITECTURES = {"classification": self.CLASSIFIER, "entities": of_tokens}
        self.HEADS = re.compile(rf"({re.escape(self.PREFIX)})?pooler|{_OTHERS}")

    def check(self, config: ModelConfig) -> None:
        """Checks what would otherwise fail on the replicas, or give other vectors.

        Raises:
            ModelError: no replica could load this geometry, or the forward pass differs.
        """
        check_layers(config)
        for name, wanted in (("position_embedding_type", "absolute"), ("is_decoder", False)):
            if config.get(name) not in (wanted, None):
                hint = "name a checkpoint without it"
                raise ModelError(f"{name} must be {wanted}", str(config.path), repr(config.get(name)), hint)
        if self.positions(config) < 1:
            raise ModelError(
                "has no positions",
                str(config.path),
                str(config.size("max_position_embeddings")),
                "fetch it again",
            )

    def first_position(self, config: ModelConfig) -> int:
        """Returns the number of a text's first position."""
        return int(config.get("pad_token_id")) + 1 if self.after_padding else 0

    def positions(self, config: ModelConfig) -> int:
        """Returns the most tokens of a text."""
        return config.size("max_position_embeddings") - self.first_position(config)

    def weights(self, config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the stored name and the shape of each weight that the forward pass needs."""
        hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
        tables = [("word", "vocab_size"), ("position", "max_position_embeddings")]
        tables += [("token_type", "type_vocab_size")] if self.typed else []
        for table, key in tables:
            yield f"embeddings.{table}_embeddings.weight", (config.size(key), hidden)
        yield from _pair("embeddings.LayerNorm", (hidden,))
        shapes = dict.fromkeys(_ATTENTION, (hidden, hidden)) | {
            "ffn": (inner, hidden),
            "ffn_output": (hidden, inner),
        }
        for number in range(config.size("num_hidden_layers")):
            for part, stored in self.STORED.items():
                name = part.rpartition(".")[2]
                yield from _pair(f"{self.LAYER}{number}.{stored}", shapes.get(name, (hidden,)))

    def flops_per_token(self, config: ModelConfig) -> float:
        """Returns the matrix work of one token in all layers, without attention."""
        hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
        return 2.0 * config.size("num_hidden_layers") * (4 * hidden * hidden + 2 * hidden * inner)


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


_STORED = {
    **{f"attention.{part}": f"attention.self.{part}" for part in ("query", "key", "value")},
    "attention.dense": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}
_DISTILBERT_STORED = {
    **{f"attention.{part}": f"attention.{part[0]}_lin" for part in ("query", "key", "value")},
    "attention.dense": "attention.out_lin",
    "attention.LayerNorm": "sa_layer_norm",
    "ffn": "ffn.lin1",
    "ffn_output": "ffn.lin2",
    "full_layer_layer_norm": "output_layer_norm",
}
_DISTILBERT_ALIASES = {
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim", "hidden_act": "activation",
}  # fmt: skip

BERT = Geometry(
    "BERT",
    "BertForSequenceClassification",
    "bert.",
    _BERT,
    "encoder.layer.",
    _STORED,
    {"pooler": "pooler.dense", "classifier": "classifier"},
)
ROBERTA = Geometry(
    "RoBERTa",
    "RobertaForSequenceClassification",
    "roberta.",
    _ROBERTA | {"vocab_size": 50_265},
    "encoder.layer.",
    _STORED,
    {"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
    after_padding=True,
)
XLM_ROBERTA = replace(
    ROBERTA, NAME="XLM-RoBERTa", CLASSIFIER="XLMRobertaForSequenceClassification", DEFAULTS=_ROBERTA
)
CAMEMBERT = replace(XLM_ROBERTA, NAME="CamemBERT", CLASSIFIER="CamembertForSequenceClassification")
DISTILBERT = Geometry(
    "DistilBERT",
    "DistilBertForSequenceClassification",
    "distilbert.",
    _BERT | {"num_hidden_layers": 6},
    "transformer.layer.",
    _DISTILBERT_STORED,
    {"pooler": "pre_classifier", "classifier": "classifier"},
    ALIASES=_DISTILBERT_ALIASES,
    typed=False,
    HEAD_ACTIVATION="relu",
)
BY_TYPE: Mapping[str, Geometry] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "distilbert": DISTILBERT,
}
"""The families by config.json's `model_type`."""
