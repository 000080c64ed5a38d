"""Group norm of one picture as what it is once its statistics are known: a scale and a shift.

Used without gradients. On a CPU `nn/kernels/group_norm.cpp` does the work, with results that do not
depend on the number of threads; elsewhere PyTorch does. Legend: C channels, H/W pixels, h/w grid.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.kernels import library
from dromaius.nn.norm import SpatialNorm


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x), in any shape."""
    if torch.is_grad_enabled() or not _compiled(x) or not x.is_contiguous():
        # Not F.silu: the two differ in the last bit, and codes are an argmin.
        return x * torch.sigmoid(x)
    y = torch.empty_like(x)
    _kernel("swish")(x.data_ptr(), y.data_ptr(), x.numel(), torch.get_num_threads())
    return y


def empty_picture(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """A picture [1,C,H,W] of that size, in the layout and dtype of x."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    size = (1, channels, height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


@dataclass(frozen=True)
class Affine:
    """x * scale + shift; both [1,C,h,w], channels last, each cell for its part of the picture."""

    scale: Tensor
    shift: Tensor

    def rows(self, x: Tensor, first: int, last: int, then_swish: bool = True) -> Tensor:
        """Rows first..last - 1 of the norm of x [1,C,H,W], swished; zeros outside the picture."""
        _, channels, height, width = x.shape
        if _compiled(x) and x.is_contiguous(memory_format=torch.channels_last):
            y = empty_picture(x, channels, last - first, width)
            _kernel("scale_shift")(
                *(t.data_ptr() for t in (x, y, self.scale, self.shift)),
                *(first, last - first, height, width, channels),
                *self.scale.shape[-2:],
                then_swish,
                torch.get_num_threads(),
            )
            return y
        top, bottom = max(first, 0), min(last, height)
        y = x[:, :, top:bottom] * self._spread(self.scale, x, top, bottom)
        y += self._spread(self.shift, x, top, bottom)
        if then_swish:
            y *= torch.sigmoid(y)
        return F.pad(y, (0, 0, top - first, last - bottom)) if last - first > len(y[0, 0]) else y

    @staticmethod
    def _spread(table: Tensor, x: Tensor, top: int, bottom: int) -> Tensor:
        """The cells' values for the rows top..bottom - 1, [1,C,rows,W]."""
        rows = torch.arange(top, bottom, device=x.device) // (x.shape[2] // table.shape[2])
        return table[:, :, rows].repeat_interleave(x.shape[3] // table.shape[3], -1)


def affine(norm: nn.Module, x: Tensor, *quantized: Tensor) -> Affine:
    """The norm (a group norm, or a spatial norm of a grid) of x [1,C,H,W], after reading x once.

    A spatial norm resizes its grid to the picture and then computes scale and shift from it by 1x1
    convolutions: these commute, and on the grid they cost a 64th.
    """
    group_norm = norm.norm_layer if isinstance(norm, SpatialNorm) else norm
    assert isinstance(group_norm, nn.GroupNorm)
    mean, variance = _moments(x, group_norm.num_groups)  # [C] each
    scale = (variance + group_norm.eps).rsqrt() * group_norm.weight
    shift = group_norm.bias - mean * scale
    if not isinstance(norm, SpatialNorm):
        return Affine(scale[None, :, None, None], shift[None, :, None, None])
    factor, offset = (_linear(conv, *quantized) for conv in (norm.conv_y, norm.conv_b))
    return Affine(_as_picture(factor * scale), _as_picture(factor * shift + offset))


def _linear(conv: nn.Conv2d, grid: Tensor) -> Tensor:
    """A 1x1 convolution of a grid [1,E,h,w] -> [1,h,w,C]."""
    return F.linear(grid.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias)


def _as_picture(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)  # [1,h,w,C] -> [1,C,h,w], channels last


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel's group, [C] each, of x [1,C,H,W]."""
    channels, pixels = x.shape[1], x.shape[-2] * x.shape[-1]
    if _compiled(x) and x.is_contiguous(memory_format=torch.channels_last):
        sums = x.new_empty(2, channels, dtype=torch.float64)
        threads = torch.get_num_threads()
        _kernel("channel_sums")(x.data_ptr(), sums.data_ptr(), pixels, channels, threads)
        mean, square = (sums.view(2, groups, -1).mean(-1) / pixels).unbind()
        variance = (square - mean * mean).clamp_min(0)
    else:
        variances, means = torch.var_mean(x[0], dim=(1, 2), correction=0)  # [C]
        means, variances = means.view(groups, -1), variances.view(groups, -1)
        mean = means.mean(-1)
        variance = variances.mean(-1) + means.var(-1, correction=0)
    each = channels // groups
    return mean.to(x.dtype).repeat_interleave(each), variance.to(x.dtype).repeat_interleave(each)


def _compiled(x: Tensor) -> bool:
    """Whether the C++ kernel can be used for a tensor like this."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and library("group_norm") is not None


_POINTER, _NUMBER, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "swish": [_POINTER] * 2 + [_NUMBER, _INT],
    "channel_sums": [_POINTER] * 2 + [_NUMBER] * 2 + [_INT],
    "scale_shift": [_POINTER] * 4 + [_NUMBER] * 7 + [_INT] * 2,
}


@cache
def _kernel(name: str) -> Callable[..., Any]:
    """A function of the compiled library (see `_compiled`)."""
    function: Callable[..., Any] = getattr(library("group_norm"), name)
    function.argtypes = _SIGNATURES[name]  # type: ignore[attr-defined]  # ctypes has it
    function.restype = None  # type: ignore[attr-defined]
    return function
