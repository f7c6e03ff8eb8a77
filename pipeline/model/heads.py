"""Computes what heads say of packed texts. Always in float32, as pooling is.

Shapes: B texts, T tokens of all texts, D dimensions, L labels, K numbers of a token.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.nn.functional import linear

from pipeline.model.checkpoint import Checkpoint
from pipeline.model.embedding_spec import EmbeddingSpec
from pipeline.model.trained_head import TrainedHead
from pipeline.model.transformer import load_head

Weights = Mapping[str, torch.Tensor]


class TextHead(Protocol):
    """A head that says something of each text."""

    def __call__(self, hidden_TD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor: ...


class TokenHead(Protocol):
    """A head that says something of each token."""

    def __call__(self, hidden_TD: torch.Tensor) -> torch.Tensor: ...


class ClassificationHead:
    """The head of a model for sequence classification: a layer over the first token, then a classifier.

    Args:
        activation: what follows the first layer, `tanh` or `relu`.
    """

    def __init__(self, weights: Weights, problem: str, activation: str) -> None:
        self.weights, self.problem, self.activation = weights, problem, getattr(torch, activation)

    def __call__(self, hidden_TD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Returns the scores of each text, (B, L) float32."""
        of = self.weights
        first_BD = hidden_TD[lengths_B.cumsum(0) - lengths_B].float()
        pooled_BD = self.activation(linear(first_BD, of["pooler.weight"], of["pooler.bias"]))
        logits_BL = linear(pooled_BD, of["classifier.weight"], of["classifier.bias"])
        if self.problem == "regression":
            return logits_BL
        return logits_BL.softmax(dim=1) if self.problem == "single_label" else logits_BL.sigmoid()


class VectorHead:
    """A head that was trained on vectors."""

    def __init__(self, head: TrainedHead, device: torch.device) -> None:
        self.weight, self.bias = (torch.tensor(each, device=device) for each in (head.weight, head.bias))

    def __call__(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        """Returns the scores of each text, (B, L) float32, which sum to 1."""
        return linear(vectors_BD, self.weight, self.bias).softmax(dim=1)


class TagHead:
    """The head of a model for token classification: a classifier over each token."""

    def __init__(self, weights: Weights) -> None:
        self.weight, self.bias = weights["classifier.weight"], weights["classifier.bias"]

    def __call__(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Returns the tag of each token, its score, and the distance to the next score: (T, 3) float32."""
        scores_TL = linear(hidden_TD.float(), self.weight, self.bias).softmax(dim=1)
        tag_T1 = scores_TL.argmax(dim=1, keepdim=True)
        score_T1 = scores_TL.gather(1, tag_T1)
        next_T1 = scores_TL.scatter(1, tag_T1, 0.0).amax(dim=1, keepdim=True)
        return torch.cat([tag_T1.float(), score_T1, score_T1 - next_T1], dim=1)


def hidden_state(hidden_TD: torch.Tensor) -> torch.Tensor:
    """Returns the last hidden state of each token, (T, D) float32."""
    return hidden_TD.float()


def token_heads(checkpoint: Checkpoint, recipe: EmbeddingSpec, device: torch.device) -> list[TokenHead]:
    """Loads what makes a recipe's outputs of tokens, in their order.

    Raises:
        ModelError: the checkpoint lacks a weight of a head.
    """
    found: list[TokenHead] = []
    if recipe.tags:
        found.append(TagHead(load_head(checkpoint, "entities", len(recipe.tags.tags), device)))
    return [*found, hidden_state] if "tokens" in recipe.outputs else found


def text_heads(checkpoint: Checkpoint, recipe: EmbeddingSpec, device: torch.device) -> list[TextHead]:
    """Loads the heads of a checkpoint that a recipe's outputs need, in the order of the outputs.

    Raises:
        ModelError: the checkpoint lacks a weight of a head.
    """
    if recipe.classes is None or recipe.head:
        return []
    weights = load_head(checkpoint, "classification", len(recipe.classes.labels), device)
    return [ClassificationHead(weights, recipe.classes.problem, checkpoint.family.HEAD_ACTIVATION)]
