"""A whole decoder layer in one call, for the few tokens of a decoding step on a CPU.

`layer.cpp` calls the very kernels that the layer's modules call one by one, so the result is theirs
bit for bit; what is saved are some twenty calls from Python a layer, between which memory rests.

Legend: B rows, T tokens, K key/value heads, S slots, D head dim, C channels.
"""

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn import few_tokens, linear, quantized
from dromaius.nn.kernels import library
from dromaius.nn.packing import KINDS

_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def step(
    layer: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any
) -> Tensor | None:
    """What a `DecoderLayer` makes of x [B,T,C]; None where its modules have to do that.

    Args:
        rope: cos and sin [B or 1,T,D].
        mask: bool [B or 1,1,T,S], True where a token may look.
        cache: where keys and values lie; only one in slots will do (dromaius.engine.kv_cache).
    """
    place = _slots(cache)
    if place is None or mask is None or layer.training or x.ndim != 3:
        return None
    keys, values, positions, visible = place
    if not _fits(x, mask, rope, keys, values):
        return None
    parts, x = layer._modules, x.contiguous()  # the dict: looking modules up by name takes longer
    attention: Any = parts["self_attn"]
    mlp: Any = parts["mlp"]
    before: Any = parts["input_layernorm"]
    after: Any = parts["post_attention_layernorm"]
    matrices = [attention._modules[n] for n in _PARTS[0]] + [mlp._modules[n] for n in _PARTS[1]]
    if any(p._forward_hooks or p._forward_pre_hooks for p in (attention, mlp, before, after)):
        return None
    places = [number for matrix in matrices for number in _matrix(matrix, x)]
    if len(places) != 7 * len(matrices) or mlp.act is not F.silu:
        return None
    y, dim = torch.empty_like(x), keys.shape[-1]
    cos, sin, positions = rope[0].contiguous(), rope[1].contiguous(), positions.contiguous()
    numbers = (
        *x.shape,  # `Step` of layer.cpp
        *(places[4] // dim, keys.shape[1], dim, visible),
        *(x.itemsize, torch.get_num_threads(), quantized.plain()),
        *(x.data_ptr(), y.data_ptr(), cos.data_ptr(), sin.data_ptr()),
        x.shape[1] * dim if len(cos) > 1 else 0,
        *(keys.data_ptr(), values.data_ptr(), *keys.stride()[:3], *values.stride()[:3]),
        *(positions.data_ptr(), mask.data_ptr(), mask.stride(0) if len(mask) > 1 else 0),
        *(mask.stride(2), *(norm._parameters["weight"].data_ptr() for norm in (before, after))),
        *places,
    )
    given = (ctypes.c_int64 * len(numbers))(*numbers)
    _layer()(_kernels(x.dtype), given, before.eps, after.eps, dim**-0.5)
    return y


def _slots(cache: Any) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Keys and values [B,K,S,D], positions [B,T], visible slots; None for another kind of cache."""
    try:
        return cache.keys, cache.values, cache.positions, cache.visible
    except AttributeError:
        return None


def _fits(
    x: Tensor, mask: Tensor, rope: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
) -> bool:
    """Whether all kernels take these tensors."""
    return (
        few_tokens.applies(x, *rope, keys, values)
        and x.numel() <= linear.MOST_ROWS * x.shape[-1]
        and mask.dtype == torch.bool
        and mask.shape[1] == 1
        and mask.stride(-1) == 1
        and keys.stride(-1) * values.stride(-1) == 1
        and _layer() is not None
    )


def _matrix(layer: Any, x: Tensor) -> tuple[int, ...]:
    """`Linear` of layer.cpp; empty for a layer that must be called itself."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return ()
    bias = layer._parameters["bias"]
    added = 0 if bias is None else bias.data_ptr()
    if bias is not None and (bias.dtype != x.dtype or not bias.is_contiguous()):
        return ()
    if type(layer) is linear.Linear:
        weight = layer._parameters["weight"]
        if weight is None or not linear.applies(x, weight):
            return ()
        return weight.data_ptr(), added, 0, 0, len(weight), 0, -1
    if type(layer) is quantized.QuantizedLinear and quantized.applies(x):
        packed = layer.weight
        places = [0 if b is None else b.data_ptr() for b in map(packed._buffers.get, _STORED)]
        kind = KINDS.index(packed.form.kind)
        return places[0], added, *places[1:], packed.shape[0], packed.form.group, kind
    return ()


_STORED = ("packed", "scales", "lows")


@cache
def _layer() -> Any:
    """The C function, None where it or a kernel that it calls cannot be had."""
    found = library("layer")
    others = (library("few_rows"), library("few_tokens"), library("quantized"))
    if found is None or None in others:
        return None
    pointer, real = ctypes.c_void_p, ctypes.c_float
    found.decoder_layer.argtypes = [pointer] * 2 + [real] * 3
    found.decoder_layer.restype = None
    return found.decoder_layer


@cache
def _kernels(dtype: torch.dtype) -> Any:
    """`Kernels` of layer.cpp."""
    names = ("rms_norm", "rotate", "keep", "attend", "gate", "add")
    found = [few_tokens.address(name, dtype) for name in names]
    found += [linear.address(dtype), quantized.address()]
    return (ctypes.c_void_p * len(found))(*found)
