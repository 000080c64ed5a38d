"""Swin (arXiv 2103.14030) and Donut's (2111.15664): stages of attention in shifted windows.

Shapes: h, w the grid of tokens, s the side of a window, n windows. Names: spec, section 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dromaius.models.vision_encoder_decoder.arrays.encoders import relative
from dromaius.models.vision_encoder_decoder.arrays.layers import (
    Config,
    Weights,
    activation,
    attend,
    check_pixels,
    heads,
    linear,
    linear_tensors,
    norm,
    norm_tensors,
    pair,
    patches,
)
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

_APART = -100.0
"""Added to the score of two places that only the shift brought together, as in the paper's code."""


def encode(xp: Namespace, config: Config, w: Weights, pixels: Array) -> Array:
    """pixels [B, C, H, W] -> tokens [B, S, D]; each stage but the last halves the grid."""
    check_pixels(xp, config, pixels)
    x, grid = _embed(xp, config, w / "embeddings", pixels)
    x = xp.note(x)
    for stage, depth in enumerate(config["depths"]):
        inner = w / "encoder" / "layers" / stage
        for i in range(depth):
            shift = config["window_size"] // 2 if i % 2 else 0
            count = config["num_heads"][stage]
            x = _block(xp, config, inner / "blocks" / i, x, grid, count, shift)
        if stage < len(config["depths"]) - 1:
            x, grid = _merge(xp, inner / "downsample", x, grid)
        x = xp.note(x)
    return norm(xp, w / "layernorm", x, config["layer_norm_eps"]) if _has_norm(config) else x


def _has_norm(config: Config) -> bool:
    return bool(config["model_type"] != "donut-swin")


def _embed(
    xp: Namespace, config: Config, w: Weights, pixels: Array
) -> tuple[Array, tuple[int, int]]:
    p, q = pair(config["patch_size"])
    _, _, height, width = xp.shape(pixels)
    pixels = _padded(xp, pixels, -height % p, -width % q, axis=2)
    x = patches(xp, config, w / "patch_embeddings" / "projection", pixels)
    x = norm(xp, w / "norm", x, 1e-5)
    if "position_embeddings" in w:
        x = x + w["position_embeddings"]
    return x, (-(-height // p), -(-width // q))


def _block(
    xp: Namespace,
    config: Config,
    w: Weights,
    x: Array,
    grid: tuple[int, int],
    count: int,
    shift: int,
) -> Array:
    epsilon = config["layer_norm_eps"]
    y = norm(xp, w / "layernorm_before", x, epsilon)
    x = x + _windows(xp, config, w / "attention", y, grid, count, shift)
    y = linear(xp, w / "intermediate" / "dense", norm(xp, w / "layernorm_after", x, epsilon))
    return x + linear(xp, w / "output" / "dense", activation(xp, config["hidden_act"], y))


def _windows(
    xp: Namespace,
    config: Config,
    w: Weights,
    x: Array,
    grid: tuple[int, int],
    count: int,
    shift: int,
) -> Array:
    """Attention [B, h * w, D] in windows; with a shift they straddle those of the layer before."""
    side = min(config["window_size"], *grid)
    if min(grid) <= config["window_size"]:
        shift = 0  # one window holds all
    (height, width), (rows, _, channels) = grid, xp.shape(x)
    x = xp.reshape(x, (rows, height, width, channels))
    x = _padded(xp, x, -height % side, -width % side, axis=1)
    _, down, across, _ = xp.shape(x)
    if shift:
        x = xp.roll(x, (-shift, -shift), (1, 2))
    bias = relative.bias(
        xp,
        w["self.relative_position_bias_table"],
        relative.within(side, config["window_size"]),
    )
    if shift:
        apart = np.tile(_apart(down, across, side, shift), (rows, 1, 1))[:, None]  # [B*n, 1, ..]
        bias = bias + xp.asarray(apart, "float32")
    x = _attention(xp, w, _partition(xp, x, side), count, bias)
    x = _join(xp, x, side, (rows, down, across, channels))
    if shift:
        x = xp.roll(x, (shift, shift), (1, 2))
    return xp.reshape(x[:, :height, :width], (rows, height * width, channels))


def _attention(xp: Namespace, w: Weights, x: Array, count: int, bias: Array) -> Array:
    query, key, value = (
        heads(xp, linear(xp, w / "self" / name, x), count) for name in ("query", "key", "value")
    )
    return linear(xp, w / "output" / "dense", attend(xp, query, (key, value), bias))


def _partition(xp: Namespace, x: Array, side: int) -> Array:
    """[B, h, w, D] -> [B * n, s * s, D]."""
    rows, height, width, channels = xp.shape(x)
    x = xp.reshape(x, (rows, height // side, side, width // side, side, channels))
    x = xp.transpose(x, (0, 1, 3, 2, 4, 5))
    return xp.reshape(x, (-1, side * side, channels))


def _join(xp: Namespace, x: Array, side: int, shape: tuple[int, int, int, int]) -> Array:
    """[B * n, s * s, D] -> [B, h, w, D]."""
    rows, height, width, channels = shape
    x = xp.reshape(x, (rows, height // side, width // side, side, side, channels))
    return xp.reshape(xp.transpose(x, (0, 1, 3, 2, 4, 5)), shape)


def _apart(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """[n, s * s, s * s]: what to add to the scores of places that do not lie together.

    After the shift the last windows hold what came around the edge; along each axis there are
    three regions, and only places of one region belong together (the paper's figure 4).
    """

    def region(length: int) -> np.ndarray:
        places = np.arange(length)
        return (places >= length - side).astype(int) + (places >= length - shift)

    regions = 3 * region(height)[:, None] + region(width)[None, :]
    windows = regions.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    windows = windows.reshape(-1, side * side)
    return np.where(windows[:, :, None] != windows[:, None, :], _APART, 0.0).astype(np.float32)


def _merge(
    xp: Namespace, w: Weights, x: Array, grid: tuple[int, int]
) -> tuple[Array, tuple[int, int]]:
    """Four neighbours become one: [B, h * w, D] -> [B, h/2 * w/2, 2 D]."""
    (height, width), (rows, _, channels) = grid, xp.shape(x)
    x = xp.reshape(x, (rows, height, width, channels))
    x = _padded(xp, x, height % 2, width % 2, axis=1)
    halves = ((height + 1) // 2, (width + 1) // 2)
    corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    x = xp.reshape(xp.concat(corners, axis=-1), (rows, halves[0] * halves[1], 4 * channels))
    return linear(xp, w / "reduction", norm(xp, w / "norm", x, 1e-5)), halves


def _padded(xp: Namespace, x: Array, down: int, across: int, axis: int) -> Array:
    """Zeros below and to the right; `axis` is that of the height."""
    if not down and not across:
        return x
    widths = [(0, 0)] * 4
    widths[axis], widths[axis + 1] = (0, down), (0, across)
    return xp.pad(x, widths)


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that the encoder reads."""
    d, (p, q) = config["embed_dim"], pair(config["patch_size"])
    height, width = pair(config["image_size"])
    yield "embeddings.patch_embeddings.projection.weight", (d, config["num_channels"], p, q)
    yield "embeddings.patch_embeddings.projection.bias", (d,)
    yield from norm_tensors("embeddings.norm", d)
    if config["use_absolute_embeddings"]:
        yield "embeddings.position_embeddings", (1, (height // p) * (width // q), d)
    for stage, depth in enumerate(config["depths"]):
        for i in range(depth):
            block = f"encoder.layers.{stage}.blocks.{i}."
            yield from _block_tensors(config, block, d, config["num_heads"][stage])
        if stage < len(config["depths"]) - 1:
            yield f"encoder.layers.{stage}.downsample.reduction.weight", (2 * d, 4 * d)
            yield from norm_tensors(f"encoder.layers.{stage}.downsample.norm", 4 * d)
            d *= 2
    if _has_norm(config):
        yield from norm_tensors("layernorm", d)


def _block_tensors(
    config: Config, block: str, d: int, count: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    inner = int(config["mlp_ratio"] * d)
    for name in ("query", "key", "value"):
        yield f"{block}attention.self.{name}.weight", (d, d)
        if config["qkv_bias"]:
            yield f"{block}attention.self.{name}.bias", (d,)
    table = ((2 * config["window_size"] - 1) ** 2, count)
    yield f"{block}attention.self.relative_position_bias_table", table
    dense = {"attention.output": (d, d), "intermediate": (inner, d), "output": (d, inner)}
    for name, (out, width) in dense.items():
        yield from linear_tensors(f"{block}{name}.dense", out, width)
    yield from norm_tensors(f"{block}layernorm_before", d)
    yield from norm_tensors(f"{block}layernorm_after", d)
