"""Token vectors become one vector a text. Pure torch; always in float32.

Shapes: B texts, T tokens, D dimensions.
"""

import torch


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, mode: str, normalize: bool) -> torch.Tensor:
    """Vectors of shape (B, D), float32.

    Args:
        mask_BT: bool, true where a token is real; all of them (special ones too) take part.
        mode: `mean`, `cls` (the first token) or `max`.
        normalize: scale to length 1; a zero vector stays zero.
    """
    hidden_BTD = hidden_BTD.float()
    real_BT1 = mask_BT.unsqueeze(-1)
    if mode == "mean":
        pooled_BD = (hidden_BTD * real_BT1).sum(1) / real_BT1.sum(1)
    elif mode == "cls":
        pooled_BD = hidden_BTD[:, 0]
    else:
        pooled_BD = hidden_BTD.masked_fill(~real_BT1, -torch.inf).amax(1)
    return torch.nn.functional.normalize(pooled_BD, dim=-1) if normalize else pooled_BD
