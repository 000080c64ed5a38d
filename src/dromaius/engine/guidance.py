"""Classifier-free guidance: pull the prediction away from what an unwanted prompt would give.

Legend: B rows, V ids.
"""

import torch
from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """u + scale * (c - u) in float32; [...,V], [...,V], [...] -> [...,V].

    Upstream takes log-softmax of both over the whole vocabulary first. That subtracts one number
    from each row, so it shifts a row's scores as a whole: neither a softmax nor an order changes,
    and the logits of the allowed ids are enough. A scale of 1 returns the conditional row itself.
    """
    c, u, scale = conditional.float(), unconditional.float(), scale[..., None]
    return torch.where(scale == 1, c, u + scale * (c - u))


def plausible(conditional: Tensor, min_p: Tensor) -> Tensor:
    """bool [...,V]: ids whose conditional probability is at least min_p [...] of the likeliest's.

    Guidance also lifts ids that both branches rule out; small models need this mask before it
    (nano-recipe section 4).
    """
    log_share = conditional.float() - conditional.float().amax(-1, keepdim=True)
    return log_share >= min_p[..., None].log()
