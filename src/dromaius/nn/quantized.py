"""Layers whose matrix is stored in few bits (`dromaius.nn.packing`): near-exact, and labelled so.

Weights alone are quantized; products and sums stay in float32 or the dtype of x. A matrix never
exists in full precision as a whole: on a CPU up to MOST_ROWS rows are multiplied with the packed
numbers themselves (`nn/kernels/quantized.cpp`), and otherwise a block of outputs is written out,
used and forgotten.

Legend: O outputs, I inputs, R rows of x.
"""

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.kernels import library
from dromaius.nn.packing import KINDS, Form, pack, unpack

MOST_ROWS = 16
"""Above this many rows writing a block out costs less than converting each weight again."""
BLOCKS = {"cpu": 2**20, "cuda": 2**25}
"""Numbers that are written out at a time."""
_BITS = {1: torch.uint8, 2: torch.int16}
"""Types of the same size that no cast of floating-point tensors touches."""


class Packed(nn.Module):
    """A matrix [O,I] in few bits; it stands where a layer's `weight` would."""

    def __init__(self, outputs: int, inputs: int, form: Form, device: Any = None) -> None:
        super().__init__()
        self.shape, self.form = (outputs, inputs), form
        self.dtype = torch.float32
        """What a table's rows are returned in; follows `.to(dtype)`, the stored numbers do not."""
        for name, (shape, dtype) in form.tensors(outputs, inputs).items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))

    @classmethod
    def from_matrix(cls, weight: Tensor, form: Form) -> "Packed":
        """A matrix [O,I], rounded. Raises ValueError for numbers that are not finite."""
        outputs, inputs = weight.shape
        packed = cls(outputs, inputs, form, "meta")
        for name, tensor in pack(weight, form).items():
            setattr(packed, name, tensor)
        packed.dtype = weight.dtype
        return packed

    def __getitem__(self, rows: slice) -> "Outputs":
        start, stop, _ = rows.indices(self.shape[0])
        return Outputs(self, start, stop)

    def stored(self, rows: Any = slice(None)) -> dict[str, Tensor]:
        """The tensors that hold these rows (a slice, or an index of ids)."""
        return {n: _rows(b, rows) for n, b in self._buffers.items() if b is not None}

    def matrix(self, dtype: torch.dtype, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` in full, [stop - start, I]."""
        part, inputs = self.stored(slice(start, stop)), self.shape[1]
        if part["packed"].device.type != "cpu" or dtype not in _WIDE or kernels() is None:
            return unpack(part, self.form, inputs, dtype)
        return _write_out(part, self.form, inputs, dtype)

    def lookup(self, ids: Tensor) -> Tensor:
        """ids [...] -> their rows [...,I], as of a table."""
        rows = unpack(self.stored(ids.flatten()), self.form, self.shape[1], self.dtype)
        return rows.unflatten(0, ids.shape)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [...,I] -> x W^T + bias [...,O] in the dtype of x."""
        return self[:].product(x, bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        """Moves to another device, but never a cast: the numbers mean what their types say."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                moved = fn(buffer.view(_BITS[buffer.itemsize]))
                self._buffers[name] = moved.view(buffer.dtype)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}, {self.form.kind}, group={self.form.group}"


class Outputs:
    """Consecutive rows of a packed matrix, as the product with them."""

    def __init__(self, weight: Packed, start: int, stop: int) -> None:
        self.weight, self.start, self.stop = weight, start, stop

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [...,I] -> [...,stop - start]."""
        if x.is_meta and x.numel() <= MOST_ROWS * x.shape[-1]:
            return x.new_empty(*x.shape[:-1], self.stop - self.start)
        if few(x):
            part = self.weight.stored(slice(self.start, self.stop))
            return few_rows(x, part, self.weight.form, bias)
        rows = max(1, BLOCKS.get(x.device.type, BLOCKS["cpu"]) // x.shape[-1])
        parts = []
        for start in range(self.start, self.stop, rows):
            stop = min(start + rows, self.stop)
            matrix = self.weight.matrix(x.dtype, start, stop)
            some = None if bias is None else bias[start - self.start : stop - self.start]
            parts.append(F.linear(x, matrix, some))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


class QuantizedLinear(nn.Module):
    """`dromaius.nn.linear.Linear` with a packed matrix: y = x W^T + b, [...,I] -> [...,O]."""

    bias: nn.Parameter | None

    def __init__(self, weight: Packed, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.product(x, self.bias)


class QuantizedEmbedding(nn.Module):
    """`torch.nn.Embedding` with a packed table: ids [...] -> [...,I]."""

    def __init__(self, weight: Packed) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight.lookup(ids)


def quantize(model: nn.Module, plan: Mapping[str, Form]) -> nn.Module:
    """The model with its layers replaced in place, one by one, as the plan says.

    Layers that shared a matrix share the packed one. On the meta device nothing is rounded: the
    places are made for what a quantized checkpoint holds.

    Args:
        plan: name of a linear layer or an embedding -> how its matrix is stored.

    Raises:
        ValueError: a name is no such layer, two forms are given for one matrix, or numbers are
            not finite.
    """
    done: dict[int, tuple[Tensor, Packed]] = {}  # the matrix is held: its id stays its own
    for name, form in plan.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"{name} is not in the model") from None
        if not isinstance(layer, (nn.Linear, nn.Embedding)):
            raise ValueError(f"{name} is no linear layer and no embedding")
        matrix, packed = done.get(id(layer.weight)) or (layer.weight, None)
        if packed is None:
            try:
                packed = Packed.from_matrix(matrix, form)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            done[id(matrix)] = matrix, packed
        elif packed.form != form:
            raise ValueError(f"{name} shares its matrix with a layer of another form")
        new: nn.Module = QuantizedEmbedding(packed)
        if isinstance(layer, nn.Linear):
            new = QuantizedLinear(packed, layer.bias)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new.train(layer.training))
    return model


def count_numbers(model: nn.Module) -> int:
    """Parameters of a model, the numbers of packed matrices among them; shared ones count once."""
    matrices = {id(m): m for m in model.modules() if isinstance(m, Packed)}
    packed = sum(math.prod(matrix.shape) for matrix in matrices.values())
    return packed + sum(parameter.numel() for parameter in model.parameters())


# --------------------------------------------------------------------------------------- the kernel

_WIDE = {torch.float32: 1, torch.bfloat16: 0}


def applies(x: Tensor) -> bool:
    """Whether the C++ kernel can multiply these rows."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _WIDE
        and not torch.is_autocast_enabled("cpu")
        and kernels() is not None
    )


Stored = tuple[Mapping[str, Tensor], Form, Tensor | None]
"""What is stored of some rows of a matrix, how, and a bias."""


def few(x: Tensor) -> bool:
    """Whether it shall: there are few of them."""
    return 0 < x.numel() <= MOST_ROWS * x.shape[-1] and applies(x)


def address() -> int:
    """Where the kernel lies, for a kernel that calls it; only where `applies` is True."""
    return ctypes.cast(kernels().quantized_products, ctypes.c_void_p).value or 0


def few_rows(
    x: Tensor, stored: Mapping[str, Tensor], form: Form, bias: Tensor | None = None
) -> Tensor:
    """x [...,I] -> [...,O] by the kernel; sums in float32, rounded once. With x in bfloat16 the
    weights may be rounded to bfloat16 too, as torch's product with the written matrix has them.

    A row's result depends neither on the other rows nor on the number of threads.
    DROMAIUS_KERNELS=plain takes the form for any processor instead of the one with AVX-512.
    """
    return products(x, [(stored, form, bias)])[0]


def products(x: Tensor, matrices: Sequence[Stored]) -> list[Tensor]:
    """`few_rows` with each: threads share out all as if they were one matrix."""
    found, inputs = kernels(), x.shape[-1]
    assert found is not None  # see `applies`
    x, biases = x.contiguous(), [_bias(bias, x) for _, _, bias in matrices]
    made = [x.new_empty(*x.shape[:-1], len(stored["packed"])) for stored, _, _ in matrices]
    numbers: list[int] = []  # `Packed` of quantized.cpp, one behind the other
    for (stored, form, _), bias, y in zip(matrices, biases, made, strict=True):
        places = *_pointers(stored), 0 if bias is None else bias.data_ptr(), y.data_ptr()
        numbers += (*places, y.shape[-1], form.group, KINDS.index(form.kind))
    found.quantized_products(
        _WIDE[x.dtype],
        x.data_ptr(),
        (ctypes.c_int64 * len(numbers))(*numbers),
        len(matrices),
        x.numel() // inputs,
        inputs,
        torch.get_num_threads(),
        plain(),
    )
    return made


def plain() -> bool:
    """Whether the form for any processor is asked for."""
    return os.environ.get("DROMAIUS_KERNELS") == "plain"


def _bias(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype).contiguous()


def _write_out(stored: Mapping[str, Tensor], form: Form, inputs: int, dtype: torch.dtype) -> Tensor:
    found = kernels()
    assert found is not None
    y = torch.empty(len(stored["packed"]), inputs, dtype=dtype)
    found.quantized_write_out(
        KINDS.index(form.kind),
        _WIDE[dtype],
        *_pointers(stored),
        y.data_ptr(),
        inputs,
        y.shape[0],
        form.group,
        torch.get_num_threads(),
    )
    return y


@cache
def kernels() -> Any:
    """The C functions, None where they cannot be had."""
    found = library("quantized")
    if found is None:
        return None
    flag, pointer, number = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    found.quantized_products.argtypes = [flag] + [pointer] * 2 + [number] * 3 + [flag] * 2
    found.quantized_write_out.argtypes = [flag] * 2 + [pointer] * 4 + [number] * 3 + [flag]
    found.quantized_products.restype = found.quantized_write_out.restype = None
    return found


def _pointers(stored: Mapping[str, Tensor]) -> list[int]:
    tensors = (stored.get(name) for name in ("packed", "scales", "lows"))
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _rows(tensor: Tensor, rows: Any) -> Tensor:
    """tensor[rows]; not every device can index the 8-bit floats."""
    if isinstance(rows, slice) or tensor.dtype != torch.float8_e4m3fn:
        return tensor[rows]
    return tensor.view(torch.uint8)[rows].view(tensor.dtype)
