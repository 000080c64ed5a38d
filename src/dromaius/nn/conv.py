"""Convolution blocks of VQ autoencoders: 2-D for space, causal 3-D for time.

Parameter names follow the LDM / MoVQ line of checkpoints. Every convolution has a bias.
Legend: B batch, C channels, T frames, H/W pixels or grid.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.affine import affine, swish
from dromaius.nn.banded import alone, convolve, double, each_alone, halve, norm_convolve
from dromaius.nn.norm import SpatialNorm


def make_norm(channels: int, quant_channels: int | None, num_groups: int) -> nn.Module:
    """Group norm in an encoder, spatial norm (conditioned on the quantized grid) in a decoder."""
    if quant_channels is None:
        return nn.GroupNorm(num_groups, channels, eps=1e-6)
    return SpatialNorm(channels, quant_channels, num_groups)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, computing the same for a picture alone whatever the number of threads."""

    def forward(self, x: Tensor) -> Tensor:
        if not alone(x):
            return super().forward(x)
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        return convolve(x, self.weight, self.bias, padding)


def norm_swish_conv(
    norm: nn.Module, conv: nn.Conv2d, x: Tensor, *quantized: Tensor, onto: Tensor | None = None
) -> Tensor:
    """`onto` + conv(swish(norm(x))). Of one picture without gradients `onto` is overwritten."""
    if alone(x):
        return norm_convolve(norm, conv, x, *quantized, onto=onto)
    y: Tensor = conv(swish(norm(x, *quantized)))
    return y if onto is None else onto + y


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with norm and swish before each, plus the input. [B,C,H,W].

    Without gradients the input of a single picture may be overwritten with the result.
    """

    def __init__(
        self, in_channels: int, out_channels: int, quant_channels: int | None, num_groups: int
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, quant_channels, num_groups)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels, quant_channels, num_groups)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        h = norm_swish_conv(self.norm1, self.conv1, x, *quantized)
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return norm_swish_conv(self.norm2, self.conv2, h, *quantized, onto=x)


class AttentionBlock(nn.Module):
    """Self-attention over the H*W positions of one frame, plus the input. [B,C,H,W]."""

    def __init__(
        self, channels: int, quant_channels: int | None, num_groups: int, num_heads: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = make_norm(channels, quant_channels, num_groups)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        if alone(x):
            h = affine(self.norm, x, *quantized).rows(x, 0, x.shape[2], then_swish=False)
        else:
            h = self.norm(x, *quantized)
        q, k, v = (self._heads(f(h)) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)  # scale: head size ^ -0.5
        y = y.transpose(1, 2).flatten(2).transpose(1, 2)  # [B,heads,HW,C/heads] -> [B,C,HW]
        return x + self.proj_out(y.unflatten(2, x.shape[2:]))

    def _heads(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # [B,HW,C]
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [B,heads,HW,C/heads]


class Downsample(nn.Module):
    """Halve H and W: zero pad right and bottom by one, 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return halve(self.conv, x) if alone(x) else self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double H and W by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if alone(x):
            return double(self.conv, x)
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
        return each_alone(self._convolve, x)

    def _convolve(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.padding)
        if not alone(x):
            return self.conv(x)
        return convolve(x, self.conv.weight, self.conv.bias, (0, 0, 0), self.conv.stride)


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
