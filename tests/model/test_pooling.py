"""Checks that pooling takes all tokens of a text, and no others."""

import pytest
import torch

from pipeline.model.pooling import MODES, pool


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_change_nothing(mode: str) -> None:
    torch.manual_seed(0)
    hidden_TD, lengths_B = torch.randn(9, 4), torch.tensor([5, 1, 3])
    together = pool(hidden_TD, lengths_B, (mode,))
    alone = [pool(part, torch.tensor([len(part)]), (mode,)) for part in hidden_TD.split([5, 1, 3])]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("mean", [2.0, 2.0]),
        ("cls", [1.0, 0.0]),
        ("max", [3.0, 4.0]),
        ("mean_sqrt_len", [4 / 2**0.5, 4 / 2**0.5]),
        ("weighted_mean", [7 / 3, 8 / 3]),
        ("last_token", [3.0, 4.0]),
    ],
)
def test_modes_by_hand(mode: str, wanted: list[float]) -> None:
    hidden_TD = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(pool(hidden_TD, torch.tensor([2]), (mode,)), torch.tensor([wanted]))


def test_several_modes_are_joined_in_their_order() -> None:
    hidden_TD = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert pool(hidden_TD, torch.tensor([2]), ("max", "cls")).tolist() == [[3.0, 4.0, 1.0, 0.0]]


def test_half_precision_is_pooled_in_full() -> None:
    hidden_TD = torch.ones(3, 2, dtype=torch.bfloat16)
    assert pool(hidden_TD, torch.tensor([3]), ("mean",)).dtype == torch.float32
