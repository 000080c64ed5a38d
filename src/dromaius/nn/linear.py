"""The linear layer, with a product of its own for the few rows that decoding has.

Legend: R rows, I inputs, O outputs.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn import quantized
from dromaius.nn.kernels import library
from dromaius.nn.quantized import Outputs, QuantizedLinear

MOST_ROWS = 16
"""Above this many rows a product is no longer bound by reading the weight."""
ONE_DNN_SIZE = 2**18
"""Smaller matrices gain nothing by `many_rows`."""
_NAMES = {torch.float32: "products_float32", torch.bfloat16: "products_bfloat16"}


class Linear(nn.Linear):
    """y = x W^T + b, [...,I] -> [...,O]; parameter names as in `torch.nn.Linear`.

    Without gradients on a CPU a product of up to MOST_ROWS rows runs at the speed at which memory
    delivers the weight (`nn/kernels/few_rows.cpp`); everything else is torch's own product.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor | Outputs, bias: Tensor | None = None) -> Tensor:
    """x [...,I], weight [O,I], bias [O] -> [...,O], by the product that is faster here."""
    if isinstance(weight, Outputs):  # rows of a packed matrix
        return weight.product(x, bias)
    if applies(x, weight):
        return few_rows(x, weight, bias)
    if many_rows(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether `few_rows` can compute this product, and faster than torch."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _NAMES
        and weight.dtype == x.dtype
        and weight.is_contiguous()
        and 0 < x.numel() <= MOST_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and _kernel(x.dtype) is not None
    )


def many_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to compute a float32 product that torch would give to MKL.

    On processors that are not Intel's MKL leaves half of AVX-512 unused: a prefill over 4096 ids is
    2.2 times as fast so (docs/performance.md).
    """
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > MOST_ROWS * x.shape[-1]
        and weight.numel() >= ONE_DNN_SIZE
        and not torch.is_autocast_enabled("cpu")
        and _one_dnn()
    )


def together(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What each layer makes of x [...,I]: [...,O] each.

    One call where all are plain `Linear`s, or all in few bits: a pass over few rows hands its
    threads the weights of all layers as if they were one matrix.
    """
    alike = not any(map(_hooked, layers))
    plain = [layer for layer in layers if alike and type(layer) is Linear]
    if len(plain) == len(layers) and all(applies(x, layer.weight) for layer in plain):
        return products(x, [(layer.weight, layer.bias) for layer in plain])
    packed = [layer for layer in layers if alike and type(layer) is QuantizedLinear]
    if len(packed) == len(layers) and quantized.few(x):
        return quantized.products(x, [(p.weight.stored(), p.weight.form, p.bias) for p in packed])
    return [layer(x) for layer in layers]


def _hooked(layer: nn.Module) -> bool:
    """Whether somebody wants to see or change what the layer is called with or returns."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [...,I], weight [O,I], bias [O] -> [...,O]; sums in float32, rounded once.

    A row's result depends neither on the other rows nor on the number of threads.
    """
    return products(x, [(weight, bias)])[0]


def products(x: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """`few_rows` with each (weight, bias)."""
    kernel = _kernel(x.dtype)
    assert kernel is not None  # see `applies`
    x, inputs = x.contiguous(), x.shape[-1]
    made = [x.new_empty(*x.shape[:-1], len(weight)) for weight, _ in layers]
    matrices: list[int] = []  # `Matrix` of few_rows.cpp, one behind the other
    for (weight, bias), y in zip(layers, made, strict=True):
        place = 0 if bias is None else bias.data_ptr()
        matrices += (weight.data_ptr(), place, y.data_ptr(), len(weight))
    kernel(
        x.data_ptr(),
        (ctypes.c_int64 * len(matrices))(*matrices),
        len(layers),
        x.numel() // inputs,
        inputs,
        torch.get_num_threads(),
    )
    return made


def address(dtype: torch.dtype) -> int:
    """Where the kernel lies, for a kernel that calls it; only where `applies` is True."""
    return ctypes.cast(_kernel(dtype), ctypes.c_void_p).value or 0


@cache
def _one_dnn() -> bool:
    """Whether oneDNN is there and fast, and torch's name for its product is the one known here."""
    if not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    x, weight, bias = torch.arange(6.0).view(3, 2), torch.ones(4, 2), torch.ones(4)
    try:
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.equal(y, F.linear(x, weight, bias)))


@cache
def _kernel(dtype: torch.dtype) -> Any:
    """The C function for a dtype, None where there is none."""
    found = library("few_rows")
    if found is None:
        return None
    function = getattr(found, _NAMES[dtype])
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer] * 2 + [number] * 3 + [ctypes.c_int]
    function.restype = None
    return function
