"""Pools token vectors into one vector per text. Pure torch; always in float32.

Texts are packed one after the other, without padding. Shapes: B texts, T tokens of all texts, D dimensions.
"""

import torch

MODES = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "last_token")


def positions(lengths_B: torch.Tensor, tokens: int) -> torch.Tensor:
    """Returns each token's position in its text, from 0: (T,). With `tokens`, T, the device is not asked."""
    starts_B = lengths_B.cumsum(0) - lengths_B
    starts_T = starts_B.repeat_interleave(lengths_B, output_size=tokens)
    return torch.arange(tokens, device=lengths_B.device) - starts_T


def pool(hidden_TD: torch.Tensor, lengths_B: torch.Tensor, modes: tuple[str, ...]) -> torch.Tensor:
    """Returns one vector per text, (B, D times modes) float32.

    Args:
        lengths_B: int64 tokens of each text, at least one; all tokens take part, special ones too.
        modes: some of `MODES`; their vectors are concatenated. `mean_sqrt_len` divides the sum by the root of
            the length; `weighted_mean` weights a token by its position, from 1.
    """
    hidden_TD = hidden_TD.float()
    return torch.cat([_pool(hidden_TD, lengths_B, mode) for mode in modes], dim=-1)


def _pool(hidden_TD: torch.Tensor, lengths_B: torch.Tensor, mode: str) -> torch.Tensor:
    stops_B = lengths_B.cumsum(0)
    if mode == "cls":
        return hidden_TD[stops_B - lengths_B]
    if mode == "last_token":
        return hidden_TD[stops_B - 1]
    if mode == "max":
        return _reduced(hidden_TD, lengths_B, "max")
    if mode == "weighted_mean":
        weights_B = lengths_B * (lengths_B + 1) / 2
        weighted_TD = hidden_TD * (positions(lengths_B, len(hidden_TD)) + 1).unsqueeze(-1)
        return _reduced(weighted_TD, lengths_B, "sum") / weights_B.unsqueeze(-1)
    divisor_B = lengths_B.float().sqrt() if mode == "mean_sqrt_len" else lengths_B
    return _reduced(hidden_TD, lengths_B, "sum") / divisor_B.unsqueeze(-1)


def _reduced(values_TD: torch.Tensor, lengths_B: torch.Tensor, how: str) -> torch.Tensor:
    # `unsafe` skips a check of the lengths, which would wait for a GPU.
    return torch.segment_reduce(values_TD, how, lengths=lengths_B, axis=0, unsafe=True)
