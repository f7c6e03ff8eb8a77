"""Pooling sees real tokens alone."""

import pytest
import torch

from pipeline.pooling import pool


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_padding_changes_nothing(mode: str, normalize: bool) -> None:
    torch.manual_seed(0)
    hidden_BTD = torch.randn(2, 5, 4)
    mask_BT = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    pooled_BD = pool(hidden_BTD, mask_BT, mode, normalize)
    alone_BD = pool(hidden_BTD[1:, :3], mask_BT[1:, :3], mode, normalize)
    torch.testing.assert_close(pooled_BD[1:], alone_BD)


def test_modes_by_hand() -> None:
    hidden_BTD = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    mask_BT = torch.ones(1, 2, dtype=torch.bool)
    assert pool(hidden_BTD, mask_BT, "mean", False).tolist() == [[2.0, 2.0]]
    assert pool(hidden_BTD, mask_BT, "cls", False).tolist() == [[1.0, 0.0]]
    assert pool(hidden_BTD, mask_BT, "max", False).tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(pool(hidden_BTD, mask_BT, "max", True), torch.tensor([[0.6, 0.8]]))


def test_half_precision_is_pooled_in_full() -> None:
    hidden_BTD = torch.ones(1, 3, 2, dtype=torch.bfloat16)
    assert pool(hidden_BTD, torch.ones(1, 3, dtype=torch.bool), "mean", True).dtype == torch.float32
