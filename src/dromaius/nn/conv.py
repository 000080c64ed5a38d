"""Convolution blocks of VQ autoencoders: 2-D for space, causal 3-D for time.

Parameter names follow the LDM / MoVQ line of checkpoints. Every convolution has a bias.
Legend: B batch, C channels, T frames, H/W pixels or grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.norm import SpatialNorm


def make_norm(channels: int, quant_channels: int | None, num_groups: int) -> nn.Module:
    """Group norm in an encoder, spatial norm (conditioned on the quantized grid) in a decoder."""
    if quant_channels is None:
        return nn.GroupNorm(num_groups, channels, eps=1e-6)
    return SpatialNorm(channels, quant_channels, num_groups)


def swish(x: Tensor) -> Tensor:
    # x * sigmoid(x) rather than F.silu: the two differ in the last bit, and codes are an argmin.
    return x * torch.sigmoid(x)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with norm and swish before each, plus the input. [B,C,H,W]."""

    def __init__(
        self, in_channels: int, out_channels: int, quant_channels: int | None, num_groups: int
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, quant_channels, num_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels, quant_channels, num_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x, *quantized)))
        h = self.conv2(swish(self.norm2(h, *quantized)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class AttentionBlock(nn.Module):
    """Self-attention over the H*W positions of one frame, plus the input. [B,C,H,W]."""

    def __init__(
        self, channels: int, quant_channels: int | None, num_groups: int, num_heads: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = make_norm(channels, quant_channels, num_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        h = self.norm(x, *quantized)
        q, k, v = (self._heads(f(h)) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)  # scale: head size ^ -0.5
        y = y.transpose(-1, -2).reshape(x.shape)  # [B,heads,HW,C/heads] -> [B,C,H,W]
        return x + self.proj_out(y)

    def _heads(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, self.num_heads, channels // self.num_heads, height * width)
        return x.transpose(-1, -2)  # [B,heads,HW,C/heads]


class Downsample(nn.Module):
    """Halve H and W: zero pad right and bottom by one, 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double H and W by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class CausalConv3d(nn.Module):
    """3-D convolution that never looks ahead in time. [B,C,T,H,W].

    Time is padded by 2 zeros before and none after, whatever the kernel (checkpoints depend on
    it); space is padded so that H and W stay.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = (3, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        pads = [k - s for k, s in zip(kernel_size[1:], stride[1:], strict=True)]
        height, width = ((p // 2 + p % 2, p // 2) for p in pads)
        self.padding = (*width, *height, 2, 0)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class TemporalDownsample(nn.Module):
    """Halve T."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (4, 3, 3), (2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TemporalUpsample(nn.Module):
    """Double T by repeating each frame, then a causal convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2))


class TemporalResnetBlock(nn.Module):
    """Two causal convolutions with batch norm (running statistics) before each, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = CausalConv3d(channels, channels, (3, 3, 3))
        self.norm2 = nn.BatchNorm3d(channels)
        self.conv2 = CausalConv3d(channels, channels, (3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return x + h
