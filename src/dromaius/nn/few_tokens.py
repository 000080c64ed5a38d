"""What stands between the products of a decoder layer, for the few tokens of a decoding step.

On a CPU torch spends more on starting such small operations than on doing them
(docs/performance.md). Each function here is one call into `nn/kernels/few_tokens.cpp`; the modules
that use them hold the same in torch, which does the work wherever `applies` is False.

Legend: B rows, T tokens, H query heads, K key/value heads, S slots, D head dim, C channels.
"""

import ctypes
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from dromaius.nn.kernels import library

MOST_NUMBERS = 2**18
"""Above this many numbers torch's operations with all threads are faster."""
MOST_TOKENS = 32
"""Above this many tokens a row torch's attention is faster."""
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_POINTER, _NUMBER, _REAL, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_ARGUMENTS = {
    "rms_norm": [_POINTER] * 3 + [_NUMBER] * 2 + [_REAL],
    "rotate": [_POINTER] * 4 + [_NUMBER] + [_POINTER] * 2,
    "keep": [_POINTER] * 6,
    "attend": [_POINTER] * 10 + [_REAL, _FLAG],
    "gate": [_POINTER] * 3 + [_NUMBER],
    "add": [_POINTER] * 3 + [_NUMBER],
}


def applies(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take these tensors, and faster than torch."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _NAMES
        and 0 < x.numel() <= MOST_NUMBERS
        and all(other.dtype == x.dtype and other.device == x.device for other in others)
        and not torch.is_autocast_enabled("cpu")
        and _kernel("rms_norm", x.dtype) is not None
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [...,C], weight [C] -> [...,C], as `dromaius.nn.norm.RMSNorm`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    size = x.shape[-1]
    pointers = x.data_ptr(), weight.contiguous().data_ptr(), y.data_ptr()
    _kernel("rms_norm", x.dtype)(*pointers, x.numel() // size, size, eps)
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B,H,T,D], cos and sin [B or 1,T,D] -> [B,H,T,D], as `dromaius.nn.rope.rotate`."""
    x, cos, sin = _dense(x), cos.contiguous(), sin.contiguous()
    batch, heads, tokens, dim = x.shape
    y = x.new_empty(batch, tokens, heads, dim)
    per_row = tokens * dim if len(cos) > 1 else 0
    _kernel("rotate", x.dtype)(
        x.data_ptr(),
        _numbers(x.stride()),
        cos.data_ptr(),
        sin.data_ptr(),
        per_row,
        y.data_ptr(),
        _numbers(x.shape),
    )
    return y.transpose(1, 2)


def keep(x: Tensor, slots: Tensor, positions: Tensor) -> None:
    """x [B,K,T,D] into slots [B,K,S,D] in place; token t of row b goes to slot positions[b,t]."""
    x, positions = _dense(x), positions.contiguous()
    _kernel("keep", x.dtype)(
        x.data_ptr(),
        _numbers(x.stride()),
        slots.data_ptr(),
        _numbers(slots.stride()),
        positions.data_ptr(),
        _numbers(x.shape),
    )


def can_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> bool:
    """Whether `attend` takes this: few tokens, and slots of which a mask shows some."""
    if dropout or q.shape[2] > MOST_TOKENS or k.stride(-1) * v.stride(-1) != 1:
        return False
    return mask.dtype == torch.bool and mask.shape[1] == 1 and applies(q, k, v)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As `dromaius.nn.attention.sdpa`; what a masked slot holds is never looked at.

    q [B,H,T,D], k and v [B,K,S,D], mask bool [B or 1,1,T,S] -> [B,H,T,D].
    """
    q, mask = _dense(q), _dense(mask)
    batch, heads, tokens, dim = q.shape
    y = q.new_empty(batch, tokens, heads, dim)
    mask_stride = (mask.stride(0) if len(mask) > 1 else 0, mask.stride(2))
    _kernel("attend", q.dtype)(
        q.data_ptr(),
        _numbers(q.stride()),
        k.data_ptr(),
        _numbers(k.stride()),
        v.data_ptr(),
        _numbers(v.stride()),
        mask.data_ptr(),
        _numbers(mask_stride),
        y.data_ptr(),
        _numbers((batch, heads, k.shape[1], tokens, k.shape[2], dim)),
        dim**-0.5,
        torch.get_num_threads(),
    )
    return y.transpose(1, 2)


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of any shape that both have."""
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    _kernel("gate", gate.dtype)(gate.data_ptr(), up.data_ptr(), y.data_ptr(), y.numel())
    return y


def address(name: str, dtype: torch.dtype) -> int:
    """Where a kernel lies, for a kernel that calls it; only where `applies` is True."""
    return ctypes.cast(_kernel(name, dtype), ctypes.c_void_p).value or 0


def _dense(x: Tensor) -> Tensor:
    """The kernels take strides of all axes but the last."""
    return x if x.stride(-1) == 1 else x.contiguous()


@lru_cache(maxsize=1024)
def _numbers(values: tuple[int, ...]) -> Any:
    """Whole numbers as C reads them; the same few come again at each layer and step."""
    return (ctypes.c_int64 * len(values))(*values)


@cache
def _kernel(name: str, dtype: torch.dtype) -> Any:
    """The C function, None where there is none."""
    found = library("few_tokens")
    if found is None:
        return None
    function = getattr(found, f"{name}_{_NAMES[dtype]}")
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function
