"""The objectives, as functions of tensors.

Legend: B batch, T tokens, N positions, V vocabulary, C channels.
"""

import torch
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


def structural_similarity(one: Tensor, other: Tensor, peak: float) -> Tensor:
    """SSIM of each picture, [B,C,H,W] each -> [B] (Wang et al. 2004, equation 13).

    An 11x11 Gaussian window of deviation 1.5, no padding; `peak` is the range of the values.
    """
    place = torch.arange(11, dtype=one.dtype, device=one.device) - 5
    line = torch.exp(-place.square() / (2 * 1.5**2))
    line = line / line.sum()

    def blur(x: Tensor) -> Tensor:
        rows = F.conv2d(x.flatten(0, 1)[:, None], line.view(1, 1, 1, -1))
        return F.conv2d(rows, line.view(1, 1, -1, 1))

    a, b = blur(one), blur(other)
    aa, bb, ab = blur(one * one) - a * a, blur(other * other) - b * b, blur(one * other) - a * b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    score = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return score.view(one.shape[0], -1).mean(dim=1)


def flat_loss(latents: Tensor, pixels: Tensor) -> Tensor:
    """How far empty cells of like colour are from each other: latents [B,E,h,w], pixels [B,3,H,W].

    A cell is empty when its pixels and those of its neighbours are of one colour. The encoder sees
    the whole picture and would hide what is elsewhere in the codes of empty cells; a language
    model had to learn these by heart.
    """
    cell = pixels.shape[-1] // latents.shape[-1]
    high = F.max_pool2d(pixels, 3 * cell, cell, cell)  # [B,3,h,w]
    low = -F.max_pool2d(-pixels, 3 * cell, cell, cell)
    empty = (high - low).amax(dim=1) < 1e-3  # [B,h,w]
    if not empty.any():
        return latents.new_zeros(())
    vectors = latents.movedim(1, -1)[empty]  # [N,E]
    colours = (high.movedim(1, -1)[empty] * 1000).round()
    kinds = torch.unique(colours, dim=0, return_inverse=True)[1]
    counts = torch.bincount(kinds)
    sums = vectors.new_zeros(len(counts), vectors.shape[1]).index_add_(0, kinds, vectors.detach())
    return F.mse_loss(vectors, (sums / counts[:, None])[kinds])
