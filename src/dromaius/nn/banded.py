"""Convolutions of one picture without gradients: in bands of rows, with little beside the result.

Between a norm and its convolution nothing of the picture's size is made: a band is normed, swished
and convolved before the next. Pictures go through one at a time, so that a result does not depend
on the batch around it. On a CPU oneDNN convolves, asked directly: PyTorch's own choice of algorithm
depends on the size of the batch and, for 1x1 kernels, on the number of threads.
Legend: C channels, H/W pixels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.affine import affine, empty_picture

BAND = 2**14
"""Pixels in a band, about. oneDNN is as fast on so many as on a whole picture."""
_ACTIVATION: tuple[Any, ...] = ("none", [], None)
_SUM: tuple[Any, ...] = ("add", 1.0, None, [], None)
"""What torch.ops.mkldnn wants to know of the operation behind a convolution."""


def alone(x: Tensor) -> bool:
    """Whether x [B,...] is one item that needs no gradients: what these functions are for."""
    autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return len(x) == 1 and not torch.is_grad_enabled() and not autocast


def each_alone(function: Callable[..., Tensor], *batches: Tensor, pixels: int = 0) -> Tensor:
    """function(*batches), item by item unless gradients are wanted: [B,...] -> [B,...].

    A GPU takes small pictures, of so many `pixels`, together: one alone would leave it idle.
    """
    together = torch.is_grad_enabled() or (batches[0].is_cuda and pixels <= BAND)
    if together or len(batches[0]) <= 1:
        return function(*batches)
    return torch.cat([function(*one) for one in zip(*(b.split(1) for b in batches), strict=True)])


def channels_last(x: Tensor) -> Tensor:
    """The same picture in the layout in which a CPU convolves fastest."""
    if alone(x) and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, ...],
    stride: tuple[int, ...] = (1, 1),
) -> Tensor:
    """The plain convolution of any number of axes."""
    if not _onednn(x):
        convolution = F.conv2d if x.ndim == 4 else F.conv3d
        return convolution(x, weight, bias, stride, padding)
    dilation = (1,) * len(stride)
    made: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, 1, *_ACTIVATION
    )
    return made


def norm_convolve(
    norm: nn.Module, conv: nn.Conv2d, x: Tensor, *quantized: Tensor, onto: Tensor | None = None
) -> Tensor:
    """conv(swish(norm(x))) of x [1,C,H,W] for a 3x3 kernel that keeps H and W.

    onto: the result is added to this tensor, in place.
    """
    values = affine(norm, x, *quantized)
    height = x.shape[2]
    bands = list(_bands(height, x.shape[3]))
    weight = _packed(conv.weight, x) if len(bands) > 1 else conv.weight
    result = onto
    for first, last in bands:
        band = values.rows(x, first - 1, last + 1)
        if onto is not None:
            _convolve_onto(onto[:, :, first:last], band, weight, conv.bias)
            continue
        made = convolve(band, weight, conv.bias, (0, 1))
        if len(bands) == 1:
            return made
        if result is None:
            result = empty_picture(made, conv.out_channels, height, x.shape[3])
        result[:, :, first:last] = made
    assert result is not None
    return result


def halve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 kernel with stride 2 on x [1,C,H,W], padded right and below by one."""
    height, width = x.shape[2:]
    result = empty_picture(x, conv.out_channels, height // 2, width // 2)
    bands = list(_bands(height // 2, width))
    weight = _packed(conv.weight, x, (0, 0), (2, 2)) if len(bands) > 1 else conv.weight
    for first, last in bands:
        below = max(0, 2 * last + 1 - height)
        band = F.pad(x[:, :, 2 * first : 2 * last + 1], (0, 1, 0, below))
        result[:, :, first:last] = convolve(band, weight, conv.bias, (0, 0), (2, 2))
    return result


def double(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Nearest neighbours, then a 3x3 kernel: x [1,C,H,W] -> [1,C,2H,2W], in 4/9 of the products.

    Of the three rows under a kernel two are the same row of x, above or below: their weights are
    added up. Even and odd rows and columns have a kernel of 2x2 each.
    """
    height, width = x.shape[2:]
    result = empty_picture(x, conv.out_channels, 2 * height, 2 * width)
    bands = list(_bands(height, width))
    kernels = [_packed(k, x) if len(bands) > 1 else k for k in _kernels_of_parities(conv.weight)]
    for first, last in bands:
        above, below = int(first == 0), int(last == height)
        band = x[:, :, first - 1 + above : last + 1 - below]
        band = F.pad(band, (0, 0, above, below)) if above or below else band
        for parity, kernel in enumerate(kernels):
            down, right = divmod(parity, 2)
            part = band[:, :, down : last - first + 1 + down]
            made = convolve(part, kernel, conv.bias, (0, 1))  # [1,O,rows,W+1]
            rows = slice(2 * first + down, 2 * last, 2)
            result[:, :, rows, right::2] = made[..., right : right + width]
    return result


def _kernels_of_parities(weight: Tensor) -> list[Tensor]:
    """[O,I,3,3] -> four kernels [O,I,2,2]: even rows and even columns first, then odd columns."""

    def halves(three: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        a, b, c = three.unbind(axis)
        return torch.stack((a, b + c), axis), torch.stack((a + b, c), axis)

    return [kernel for rows in halves(weight, 2) for kernel in halves(rows, 3)]


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of the rows of each band."""
    rows = max(1, BAND // width)
    for first in range(0, height, rows):
        yield first, min(first + rows, height)


def _onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    )


def _packed(
    weight: Tensor,
    x: Tensor,
    padding: tuple[int, int] = (0, 1),
    stride: tuple[int, int] = (1, 1),
) -> Tensor:
    """The weight in oneDNN's own order, which else every call makes for itself."""
    if not _onednn(x):
        return weight
    made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, stride, (1, 1), 1, list(x.shape)
    )
    return made


def _convolve_onto(target: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """target += the convolution of a band."""
    if not _onednn(x) or not target.is_contiguous(memory_format=torch.channels_last):
        target += convolve(x, weight, bias, (0, 1))
        return
    ones = (1, 1)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        target, x, weight, bias, (0, 1), ones, ones, 1, *_SUM
    )
