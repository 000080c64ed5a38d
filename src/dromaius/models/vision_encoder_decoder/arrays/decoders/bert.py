"""BERT (arXiv 1810.04805) and RoBERTa (1907.11692) as decoders: normalised behind each sum.

Names of tensors: spec, section 1.7.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def _body(config: Config) -> str:
    return "bert" if config["model_type"] == "bert" else "roberta"


def memory(xp: Namespace, config: Config, w: Weights, hidden: Array) -> Cache:
    """hidden [B, S, D] -> keys and values of each layer [B, H, S, d]."""
    layers = w / _body(config) / "encoder" / "layer"
    return tuple(
        _keys_values(xp, config, layers / i / "crossattention" / "self", hidden)
        for i in range(config["num_hidden_layers"])
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
    body = w / _body(config)
    x = _embed(xp, config, body / "embeddings", ids, view)

    def layer(
        i: int, x: Array, seen: KeysValues, cached: KeysValues | None
    ) -> tuple[Array, KeysValues]:
        return _layer(xp, config, body / "encoder" / "layer" / i, x, view, seen, cached)

    x, known = through(xp, layer, x, picture, cache)
    return _head(xp, config, w, x), known


def _embed(xp: Namespace, config: Config, w: Weights, ids: Array, view: View) -> Array:
    if _body(config) == "bert":
        places = view.start + xp.arange(xp.shape(ids)[1])
    else:  # padding has a place of its own, and the text is counted behind it
        text = xp.cast(ids != config["pad_token_id"], "int32")
        places = (xp.cumsum(text) + view.start) * text + config["pad_token_id"]
    x = xp.take(w["word_embeddings.weight"], ids) + w["token_type_embeddings.weight"][0]
    x = x + xp.take(w["position_embeddings.weight"], places)
    return norm(xp, w / "LayerNorm", x, config["layer_norm_eps"])


def _keys_values(xp: Namespace, config: Config, w: Weights, x: Array) -> KeysValues:
    return keys_values(xp, w, x, config["num_attention_heads"], ("key", "value"))


def _layer(
    xp: Namespace,
    config: Config,
    w: Weights,
    x: Array,
    view: View,
    picture: KeysValues,
    cached: KeysValues | None,
) -> tuple[Array, KeysValues]:
    own, cross = w / "attention", w / "crossattention"
    query = heads(xp, linear(xp, own / "self" / "query", x), config["num_attention_heads"])
    new = _keys_values(xp, config, own / "self", x)
    y, known = over_text(xp, query, new, view, cached)
    x = _add(xp, config, own / "output", x, y)

    y = over_picture(xp, linear(xp, cross / "self" / "query", x), picture, view)
    x = _add(xp, config, cross / "output", x, y)

    y = activation(xp, config["hidden_act"], linear(xp, w / "intermediate" / "dense", x))
    return _add(xp, config, w / "output", x, y), known


def _add(xp: Namespace, config: Config, w: Weights, x: Array, y: Array) -> Array:
    return norm(xp, w / "LayerNorm", x + linear(xp, w / "dense", y), config["layer_norm_eps"])


def _head(xp: Namespace, config: Config, w: Weights, x: Array) -> Array:
    """Dense, GELU, norm, then the table of words."""
    words = w[f"{_body(config)}.embeddings.word_embeddings.weight"]
    if _body(config) == "bert":
        head = w / "cls" / "predictions"
        x = linear(xp, head / "transform" / "dense", x)
        x = activation(xp, config["hidden_act"], x)
        x = norm(xp, head / "transform" / "LayerNorm", x, config["layer_norm_eps"])
    else:
        head = w / "lm_head"
        x = activation(xp, "gelu", linear(xp, head / "dense", x))
        x = norm(xp, head / "layer_norm", x, config["layer_norm_eps"])
    weight = head["decoder.weight"] if "decoder.weight" in head else words
    bias = head["decoder.bias"] if "decoder.bias" in head else head["bias"]
    return linear(xp, Weights({"weight": weight, "bias": bias}), x)


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that the decoder reads."""
    body, words, d = _body(config), config["vocab_size"], config["hidden_size"]
    inner = config["intermediate_size"]
    yield f"{body}.embeddings.word_embeddings.weight", (words, d)
    places = config["max_position_embeddings"]
    yield f"{body}.embeddings.position_embeddings.weight", (places, d)
    yield f"{body}.embeddings.token_type_embeddings.weight", (config["type_vocab_size"], d)
    yield from norm_tensors(f"{body}.embeddings.LayerNorm", d)
    for i in range(config["num_hidden_layers"]):
        layer = f"{body}.encoder.layer.{i}."
        for attention in ("attention", "crossattention"):
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                yield from linear_tensors(f"{layer}{attention}.{name}", d, d)
            yield from norm_tensors(f"{layer}{attention}.output.LayerNorm", d)
        yield from linear_tensors(f"{layer}intermediate.dense", inner, d)
        yield from linear_tensors(f"{layer}output.dense", d, inner)
        yield from norm_tensors(f"{layer}output.LayerNorm", d)
    bert = body == "bert"
    head = "cls.predictions" if bert else "lm_head"
    yield from linear_tensors(f"{head}.transform.dense" if bert else f"{head}.dense", d, d)
    yield from norm_tensors(f"{head}.transform.LayerNorm" if bert else f"{head}.layer_norm", d)
    if config["tie_word_embeddings"]:
        yield f"{head}.bias", (words,)
    else:
        yield from linear_tensors(f"{head}.decoder", words, d)
