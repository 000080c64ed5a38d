"""The layers that encoders and decoders share, as functions of named tensors.

Shapes: B rows of a batch, T tokens that ask, S tokens that are asked, D channels, H heads,
d = D / H. Linear weights are PyTorch's [out, in], GPT2's [in, out]: as they lie on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

Config = Mapping[str, Any]
"""The configuration of one part, complete (see `configuration`)."""
Params = Mapping[str, Array]
"""Tensors under their names on disk."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one layer: those whose names begin with `prefix`.

    `w / "encoder" / 0` is a layer in it, `w["weight"]` one of its tensors.
    """

    tensors: Params
    prefix: str = ""

    def __truediv__(self, name: str | int) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def __getitem__(self, name: str) -> Array:
        try:
            return self.tensors[self.prefix + name]
        except KeyError:
            raise CheckpointError(f"the parameters hold no tensor {self.prefix}{name}") from None


# ------------------------------------------------------------------------------------- pointwise


def linear(xp: Namespace, w: Weights, x: Array) -> Array:
    """[.., in] -> [.., out]; the weight is [out, in], the bias may be absent."""
    *rows, width = xp.shape(x)
    weight = w["weight"]
    y = xp.matmul(xp.reshape(x, (-1, width)), weight, transpose=True)
    y = y + w["bias"] if "bias" in w else y
    return xp.reshape(y, (*rows, xp.shape(weight)[0]))


def conv1d(xp: Namespace, w: Weights, x: Array) -> Array:
    """[.., in] -> [.., out]; the weight is [in, out], as GPT2 keeps it."""
    *rows, width = xp.shape(x)
    weight = w["weight"]
    y = xp.matmul(xp.reshape(x, (-1, width)), weight) + w["bias"]
    return xp.reshape(y, (*rows, xp.shape(weight)[1]))


def norm(xp: Namespace, w: Weights, x: Array, epsilon: float) -> Array:
    """Layer normalisation over the last axis (arXiv 1607.06450)."""
    centred = x - xp.mean(x)
    return centred / xp.sqrt(xp.mean(centred * centred) + epsilon) * w["weight"] + w["bias"]


def _gelu(xp: Namespace, x: Array) -> Array:
    return x * 0.5 * (1.0 + xp.erf(x * math.sqrt(0.5)))


def _gelu_tanh(xp: Namespace, x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + xp.tanh(inner))


def _quick_gelu(xp: Namespace, x: Array) -> Array:
    return x / (1.0 + xp.exp(-1.702 * x))


_ACTIVATIONS: dict[str, Callable[[Namespace, Array], Array]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": lambda xp, x: xp.maximum(x, 0.0),
    "tanh": lambda xp, x: xp.tanh(x),
    "silu": lambda xp, x: x / (1.0 + xp.exp(-x)),
    "swish": lambda xp, x: x / (1.0 + xp.exp(-x)),
}


def activation(xp: Namespace, name: str, x: Array) -> Array:
    """GELU (arXiv 1606.08415) exact or by tanh, ReLU, SiLU; names are transformers'.

    Raises ConfigError for another.
    """
    try:
        return _ACTIVATIONS[name](xp, x)
    except KeyError:
        known = ", ".join(_ACTIVATIONS)
        raise ConfigError(f"the activation {name!r} is not one of {known}") from None


def linear_tensors(name: str, out: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a linear layer with bias."""
    yield f"{name}.weight", (out, width)
    yield f"{name}.bias", (out,)


def norm_tensors(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a layer norm."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


# ------------------------------------------------------------------------------------- attention

KeysValues = tuple[Array, Array]
"""Of one layer, each [B, H, S, d]."""
Cache = tuple[KeysValues, ...]
"""Of all layers."""
_NEVER = -1e9
"""Added to a score whose weight shall be zero."""


class View(NamedTuple):
    """What the tokens of one call of a decoder may see."""

    start: Array
    """The place of the first of them in the text."""
    text: Array
    """[B or 1, 1, T, S], added to the scores over text tokens."""
    picture: Array | None = None
    """[B, 1, 1, S], added to the scores over image tokens."""


def heads(xp: Namespace, x: Array, count: int) -> Array:
    """[B, T, D] -> [B, H, T, d]."""
    rows, length, width = xp.shape(x)
    return xp.transpose(xp.reshape(x, (rows, length, count, width // count)), (0, 2, 1, 3))


def attend(
    xp: Namespace, queries: Array, known: KeysValues, bias: Array | None, scale: float | None = None
) -> Array:
    """Queries [B, H, T, d] over keys and values [B, H, S, d] -> [B, T, D].

    bias: added to the scores [B, H, T, S]; scale: 1 / sqrt(d) if None. Source: arXiv 1706.03762.
    """
    keys, values = known
    rows, count, length, width = xp.shape(queries)
    scale = width**-0.5 if scale is None else scale
    scores = xp.matmul(queries * scale, keys, transpose=True)  # [B, H, T, S]
    if bias is not None:
        scores = scores + bias
    mixed = xp.matmul(xp.softmax(scores), values)
    return xp.reshape(xp.transpose(mixed, (0, 2, 1, 3)), (rows, length, count * width))


def over_text(
    xp: Namespace,
    queries: Array,
    new: KeysValues,
    view: View,
    cached: KeysValues | None,
    scale: float | None = None,
) -> tuple[Array, KeysValues]:
    """Self-attention of a decoder: over `new`, or over the cache that `new` is written into."""
    if cached is not None:
        new = (xp.write(cached[0], new[0], view.start), xp.write(cached[1], new[1], view.start))
    return attend(xp, queries, new, view.text, scale), new


def over_picture(
    xp: Namespace, queries: Array, known: KeysValues, view: View, scale: float | None = None
) -> Array:
    """Cross-attention: queries [B * K, T, D] over keys and values [B, H, S, d] -> [B * K, T, D].

    K rows that lie side by side may read one picture: they are more queries of the same keys,
    which are therefore neither copied nor reordered.
    """
    rows, length, width = xp.shape(queries)
    pictures, count = xp.shape(known[0])[:2]
    folded = heads(xp, xp.reshape(queries, (pictures, -1, width)), count)
    return xp.reshape(attend(xp, folded, known, view.picture, scale), (rows, length, width))


def see(
    xp: Namespace,
    length: int,
    capacity: int,
    start: Array,
    mask: Array | None = None,
    picture_mask: Array | None = None,
) -> View:
    """The view of `length` tokens from `start` in a text that has room for `capacity`.

    mask [B, capacity] and picture_mask [B, S] are zero where nothing may be seen.
    """
    places = xp.arange(capacity)[None, :]
    seen = (places <= start + xp.arange(length)[:, None])[None, None]  # itself and what is before
    if mask is not None:
        seen = seen & (xp.asarray(mask, "int32") != 0)[:, None, None, :]
    picture = None
    if picture_mask is not None:
        picture = _bias(xp, (xp.asarray(picture_mask, "int32") != 0)[:, None, None, :])
    return View(start, _bias(xp, seen), picture)


def _bias(xp: Namespace, seen: Array) -> Array:
    return xp.cast(~seen, "float32") * _NEVER


def empty_cache(xp: Namespace, picture: Cache, rows: int, capacity: int) -> Cache:
    """Room for the keys and values of `capacity` text tokens, shaped as those of the picture."""
    sizes = [(rows, xp.shape(keys)[1], capacity, xp.shape(keys)[3]) for keys, _ in picture]
    return tuple((xp.full(s, 0.0, "float32"), xp.full(s, 0.0, "float32")) for s in sizes)


# -------------------------------------------------------------------------------------- pictures


def pair(value: Any) -> tuple[int, int]:
    """A size that may be given once for both sides, as (height, width)."""
    first, second = value if isinstance(value, (list, tuple)) else (value, value)
    return int(first), int(second)


def check_pixels(xp: Namespace, config: Config, pixels: Array) -> None:
    """Raises InputError unless pixels are [B, C, H, W] with the encoder's number of channels."""
    shape = xp.shape(pixels)
    if len(shape) != 4 or shape[1] != config["num_channels"]:
        raise InputError(
            f"pixels must be (batch, {config['num_channels']}, height, width), not {shape}"
        )


def patches(xp: Namespace, config: Config, w: Weights, pixels: Array) -> Array:
    """[B, C, H, W] -> [B, H/p * W/q, D]: a convolution whose steps are as wide as its kernel."""
    rows, channels, height, width = xp.shape(pixels)
    p, q = pair(config["patch_size"])
    down, across = height // p, width // q
    x = pixels[:, :, : down * p, : across * q]
    x = xp.reshape(x, (rows, channels, down, p, across, q))
    x = xp.transpose(x, (0, 2, 4, 1, 3, 5))  # [B, H/p, W/q, C, p, q]
    x = xp.reshape(x, (rows * down * across, channels * p * q))
    weight = w["weight"]
    out = xp.shape(weight)[0]
    y = xp.matmul(x, xp.reshape(weight, (out, -1)), transpose=True) + w["bias"]
    return xp.reshape(y, (rows, down * across, out))


LayerFunction = Callable[[int, Array, KeysValues, KeysValues | None], tuple[Array, KeysValues]]
"""(number, x [B, T, D], keys and values of the picture, those of the text so far) -> x, the new."""


def through(
    xp: Namespace, layer: LayerFunction, x: Array, picture: Cache, cache: Cache | None
) -> tuple[Array, Cache]:
    """x [B, T, D] through all layers of a decoder -> x and the cache."""
    x, known = xp.note(x), []
    for i, seen in enumerate(picture):
        x, new = layer(i, x, seen, None if cache is None else cache[i])
        x = xp.note(x)
        known.append(new)
    return x, tuple(known)


def keys_values(
    xp: Namespace, w: Weights, x: Array, count: int, names: tuple[str, str]
) -> KeysValues:
    """x [B, S, M] -> keys and values [B, H, S, d] of the two linear layers so named."""
    keys, values = (heads(xp, linear(xp, w / name, x), count) for name in names)
    return keys, values
