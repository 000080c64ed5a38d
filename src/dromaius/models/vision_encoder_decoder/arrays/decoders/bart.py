"""TrOCR (arXiv 2109.10282), BART (1910.13461) and mBART (2001.08210).

mBART normalises before each attention and once at the end, the others behind each sum. TrOCR may
have sinusoidal positions, then without a norm of the embedding. Names: spec, section 1.7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dromaius.models.vision_encoder_decoder.arrays.layers import (
    Cache,
    Config,
    KeysValues,
    View,
    Weights,
    activation,
    heads,
    keys_values,
    linear,
    linear_tensors,
    norm,
    norm_tensors,
    over_picture,
    over_text,
    through,
)
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

_EPSILON = 1e-5
_OFFSET = 2
"""Learned positions are counted from 2: the first two rows of the table are never read."""


def memory(xp: Namespace, config: Config, w: Weights, hidden: Array) -> Cache:
    """hidden [B, S, M] -> keys and values of each layer [B, H, S, d]."""
    layers = w / "model" / "decoder" / "layers"
    return tuple(
        _keys_values(xp, config, layers / i / "encoder_attn", hidden)
        for i in range(config["decoder_layers"])
    )


def logits(
    xp: Namespace,
    config: Config,
    w: Weights,
    ids: Array,
    view: View,
    picture: Cache,
    cache: Cache | None = None,
) -> tuple[Array, Cache]:
    """ids [B, T] -> logits [B, T, V] and the cache."""
    body = w / "model" / "decoder"
    words = body["embed_tokens.weight"]
    x = xp.take(words, ids) * (math.sqrt(config["d_model"]) if config["scale_embedding"] else 1.0)
    x = x + _places(xp, config, body, ids, view)
    if "layernorm_embedding.weight" in body:
        x = norm(xp, body / "layernorm_embedding", x, _EPSILON)

    def layer(
        i: int, x: Array, seen: KeysValues, cached: KeysValues | None
    ) -> tuple[Array, KeysValues]:
        return _layer(xp, config, body / "layers" / i, x, view, seen, cached)

    x, known = through(xp, layer, x, picture, cache)
    if _before(config):
        x = xp.note(norm(xp, body / "layer_norm", x, _EPSILON))
    name = f"{_head(config)}.weight"
    return linear(xp, Weights({"weight": w[name] if name in w else words}), x), known


def _before(config: Config) -> bool:
    """Whether norms come before the attentions."""
    return bool(config["model_type"] == "mbart")


def _head(config: Config) -> str:
    return "output_projection" if config["model_type"] == "trocr" else "lm_head"


def _learned(config: Config) -> bool:
    return bool(config.get("use_learned_position_embeddings", True))


def _places(xp: Namespace, config: Config, w: Weights, ids: Array, view: View) -> Array:
    length = xp.shape(ids)[1]
    if _learned(config):
        places = view.start + xp.arange(length) + _OFFSET
        return xp.take(w["embed_positions.weight"], places)
    pad = config["pad_token_id"]  # has a row of zeros, and the text is counted behind it
    text = xp.cast(ids != pad, "int32")
    places = (xp.cumsum(text) + view.start) * text + pad
    table = sinusoids(config["max_position_embeddings"] + pad + 1, config["d_model"], pad)
    return xp.take(xp.asarray(table, "float32"), places)


def sinusoids(count: int, width: int, pad: int) -> np.ndarray:
    """[count, width]: sines, then cosines, of wavelengths from 2 pi to 20000 pi; zero at `pad`.

    Source: arXiv 1706.03762, section 3.5, laid out as tensor2tensor does.
    """
    half = width // 2
    step = np.float32(-math.log(10000) / (half - 1))  # float32: what the models were trained with
    rates = np.exp(np.arange(half, dtype=np.float32) * step)
    angles = np.arange(count, dtype=np.float32)[:, None] * rates[None, :]
    table = np.concatenate([np.sin(angles), np.cos(angles), np.zeros((count, width % 2))], axis=1)
    table[pad] = 0
    return table.astype(np.float32)


def _keys_values(xp: Namespace, config: Config, w: Weights, x: Array) -> KeysValues:
    return keys_values(xp, w, x, config["decoder_attention_heads"], ("k_proj", "v_proj"))


def _layer(
    xp: Namespace,
    config: Config,
    w: Weights,
    x: Array,
    view: View,
    picture: KeysValues,
    cached: KeysValues | None,
) -> tuple[Array, KeysValues]:
    before = _before(config)

    def enter(name: str, x: Array) -> Array:
        return norm(xp, w / name, x, _EPSILON) if before else x

    def leave(name: str, x: Array) -> Array:
        return x if before else norm(xp, w / name, x, _EPSILON)

    own, cross = w / "self_attn", w / "encoder_attn"
    y = enter("self_attn_layer_norm", x)
    query = heads(xp, linear(xp, own / "q_proj", y), config["decoder_attention_heads"])
    y, known = over_text(xp, query, _keys_values(xp, config, own, y), view, cached)
    x = leave("self_attn_layer_norm", x + linear(xp, own / "out_proj", y))

    y = linear(xp, cross / "q_proj", enter("encoder_attn_layer_norm", x))
    y = over_picture(xp, y, picture, view)
    x = leave("encoder_attn_layer_norm", x + linear(xp, cross / "out_proj", y))

    y = linear(xp, w / "fc1", enter("final_layer_norm", x))
    y = linear(xp, w / "fc2", activation(xp, config["activation_function"], y))
    return leave("final_layer_norm", x + y), known


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that the decoder reads."""
    d, words, inner = config["d_model"], config["vocab_size"], config["decoder_ffn_dim"]
    read = config.get("cross_attention_hidden_size") or d
    body = "model.decoder."
    yield f"{body}embed_tokens.weight", (words, d)
    if _learned(config):
        places = config["max_position_embeddings"] + _OFFSET
        yield f"{body}embed_positions.weight", (places, d)
    if config.get("layernorm_embedding", True):
        yield from norm_tensors(f"{body}layernorm_embedding", d)
    for i in range(config["decoder_layers"]):
        layer = f"{body}layers.{i}."
        for name, width in {"self_attn": d, "encoder_attn": read}.items():
            yield from linear_tensors(f"{layer}{name}.q_proj", d, d)
            yield from linear_tensors(f"{layer}{name}.k_proj", d, width)
            yield from linear_tensors(f"{layer}{name}.v_proj", d, width)
            yield from linear_tensors(f"{layer}{name}.out_proj", d, d)
            yield from norm_tensors(f"{layer}{name}_layer_norm", d)
        yield from linear_tensors(f"{layer}fc1", inner, d)
        yield from linear_tensors(f"{layer}fc2", d, inner)
        yield from norm_tensors(f"{layer}final_layer_norm", d)
    if _before(config):
        yield from norm_tensors(f"{body}layer_norm", d)
    if not config["tie_word_embeddings"]:
        yield f"{_head(config)}.weight", (words, d)
