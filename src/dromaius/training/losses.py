"""The objectives, as functions of tensors.

Legend: B batch, T tokens, N positions, V vocabulary, C channels.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A label that asks for nothing (torch's own number for it)."""


def next_token_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in float32 over the labels that are not IGNORED.

    Args:
        logits: [...,V], already standing at the position before each label.
        labels: int64 [...].
        weights: float [...]; the mean is then weighted: sum(w * loss) / sum(w).
    """
    flat, wanted = logits.float().flatten(0, -2), labels.flatten()
    if weights is None:
        return F.cross_entropy(flat, wanted, ignore_index=IGNORED)
    losses = F.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="none")
    share = weights.flatten() * (wanted != IGNORED)
    return (losses * share).sum() / share.sum()


def picture_loss(pixels: Tensor, target: Tensor) -> Tensor:
    """L1 + 2 * L2 + 0.5 * L1 of the differences of neighbouring pixels. Both [B,3,H,W], -1..1."""
    error = pixels - target
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2.0 * error.pow(2).mean() + 0.5 * slopes


def commitment_loss(latents: Tensor, quantized: Tensor) -> Tensor:
    """How far the encoder is from the codebook; the codebook gets no gradient (VQ-VAE eq. 3)."""
    return F.mse_loss(latents, quantized.detach())
