"""Normalisation layers. Legend: B batch, T tokens, C channels, h/w grid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn import few_tokens


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis, statistics in float32 (arXiv 1910.07467).

    The weight multiplies after the cast back to the input's dtype, as LLaMA's does.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if few_tokens.applies(x, self.weight):
            return few_tokens.rms_norm(x, self.weight, self.eps)
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are read from the quantized grid (MoVQ, arXiv 2209.09002).

    x [B,C,H,W], quantized [B,E,h,w] -> [B,C,H,W]; the grid is resized to x by nearest neighbour.
    """

    def __init__(self, channels: int, quant_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.conv_y = nn.Conv2d(quant_channels, channels, kernel_size=1)
        self.conv_b = nn.Conv2d(quant_channels, channels, kernel_size=1)

    def forward(self, x: Tensor, quantized: Tensor) -> Tensor:
        # A 1x1 convolution commutes with nearest resizing: computing it on the small grid first
        # would be cheaper, but upstream's order of rounding is kept so that pixels stay equal.
        grid = F.interpolate(quantized, size=x.shape[-2:], mode="nearest")
        return self.norm_layer(x) * self.conv_y(grid) + self.conv_b(grid)
