"""ViT (arXiv 2010.11929), DeiT (2012.12877) and BEiT (2106.08254): one column of equal layers.

Names of tensors: spec, section 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator

from dromaius.errors import InputError
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

_TABLE = "relative_position_bias.relative_position_bias_table"


def encode(xp: Namespace, config: Config, w: Weights, pixels: Array) -> Array:
    """pixels [B, C, H, W] -> tokens [B, S, D]; S counts the class token and DeiT's second one.

    Raises InputError for pictures of another size than the model's.
    """
    check_pixels(xp, config, pixels)
    x = xp.note(_embed(xp, config, w / "embeddings", pixels))
    bias = _position_bias(xp, config, w / "encoder")  # of all layers, in some BEiT
    for i in range(config["num_hidden_layers"]):
        x = xp.note(_layer(xp, config, w / "encoder" / "layer" / i, x, bias))
    if config.get("use_mean_pooling"):
        return x  # BEiT normalises its mean instead, which no decoder reads
    return norm(xp, w / "layernorm", x, config["layer_norm_eps"])


def _embed(xp: Namespace, config: Config, w: Weights, pixels: Array) -> Array:
    size = xp.shape(pixels)[2:]
    if size != pair(config["image_size"]):
        height, width = pair(config["image_size"])
        raise InputError(
            f"the pictures are {size[0]} x {size[1]}, the encoder reads {height} x {width}"
        )
    x = patches(xp, config, w / "patch_embeddings" / "projection", pixels)  # [B, N, D]
    names = ["cls_token", "distillation_token"]
    first = [w[name] for name in names if name in w]
    rows, _, width = xp.shape(x)
    x = xp.concat([*(xp.broadcast(token, (rows, 1, width)) for token in first), x], axis=1)
    return x + w["position_embeddings"] if "position_embeddings" in w else x


def _layer(xp: Namespace, config: Config, w: Weights, x: Array, bias: Array | None) -> Array:
    epsilon = config["layer_norm_eps"]
    own = _position_bias(xp, config, w / "attention" / "attention")
    bias = own if own is not None else bias
    y = _attention(xp, config, w / "attention", norm(xp, w / "layernorm_before", x, epsilon), bias)
    x = x + (y * w["lambda_1"] if "lambda_1" in w else y)
    y = linear(xp, w / "intermediate" / "dense", norm(xp, w / "layernorm_after", x, epsilon))
    y = linear(xp, w / "output" / "dense", activation(xp, config["hidden_act"], y))
    return x + (y * w["lambda_2"] if "lambda_2" in w else y)


def _attention(xp: Namespace, config: Config, w: Weights, x: Array, bias: Array | None) -> Array:
    count, inner = config["num_attention_heads"], w / "attention"
    query, key, value = (
        heads(xp, linear(xp, inner / name, x), count) for name in ("query", "key", "value")
    )
    return linear(xp, w / "output" / "dense", attend(xp, query, (key, value), bias))


def _position_bias(xp: Namespace, config: Config, w: Weights) -> Array | None:
    """[1, H, S, S] of BEiT's tables, None where there is none."""
    if _TABLE not in w:
        return None
    (height, width), (p, q) = pair(config["image_size"]), pair(config["patch_size"])
    return relative.bias(xp, w[_TABLE], relative.with_class_token(height // p, width // q))


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that the encoder reads."""
    beit = config["model_type"] == "beit"
    d, inner = config["hidden_size"], config["intermediate_size"]
    (height, width), (p, q) = pair(config["image_size"]), pair(config["patch_size"])
    down, across = height // p, width // q
    first = 2 if config["model_type"] == "deit" else 1
    yield "embeddings.cls_token", (1, 1, d)
    if first == 2:
        yield "embeddings.distillation_token", (1, 1, d)
    if not beit or config["use_absolute_position_embeddings"]:
        yield "embeddings.position_embeddings", (1, first + down * across, d)
    yield "embeddings.patch_embeddings.projection.weight", (d, config["num_channels"], p, q)
    yield "embeddings.patch_embeddings.projection.bias", (d,)
    table = ((2 * down - 1) * (2 * across - 1) + 3, config["num_attention_heads"])
    if beit and config["use_shared_relative_position_bias"]:
        yield f"encoder.{_TABLE}", table
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        if beit and config["use_relative_position_bias"]:
            yield f"{layer}attention.attention.{_TABLE}", table
        if beit and config["layer_scale_init_value"] > 0:
            yield from ((f"{layer}lambda_{k}", (d,)) for k in (1, 2))
        for name in ("query", "key", "value"):
            yield f"{layer}attention.attention.{name}.weight", (d, d)
            if name != "key" if beit else config["qkv_bias"]:
                yield f"{layer}attention.attention.{name}.bias", (d,)
        dense = {"attention.output": (d, d), "intermediate": (inner, d), "output": (d, inner)}
        for name, (out, width) in dense.items():
            yield from linear_tensors(f"{layer}{name}.dense", out, width)
        for name in ("layernorm_before", "layernorm_after"):
            yield from norm_tensors(f"{layer}{name}", d)
    if not config.get("use_mean_pooling"):
        yield from norm_tensors("layernorm", d)
