"""GPT2 (Radford et al. 2019) with a cross-attention behind each self-attention.

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
    conv1d,
    heads,
    linear,
    norm,
    norm_tensors,
    over_picture,
    over_text,
    through,
)
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace


def memory(xp: Namespace, config: Config, w: Weights, hidden: Array) -> Cache:
    """hidden [B, S, D] -> keys and values of each layer [B, H, S, d]."""
    d, count = config["n_embd"], config["n_head"]
    both = [
        conv1d(xp, w / "transformer" / "h" / i / "crossattention" / "c_attn", hidden)
        for i in range(config["n_layer"])
    ]  # each [B, S, 2 D]
    return tuple((heads(xp, x[..., :d], count), heads(xp, x[..., d:], count)) for x in both)


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
    body = w / "transformer"
    places = view.start + xp.arange(xp.shape(ids)[1])
    x = xp.take(body["wte.weight"], ids) + xp.take(body["wpe.weight"], places)

    def layer(
        i: int, x: Array, seen: KeysValues, cached: KeysValues | None
    ) -> tuple[Array, KeysValues]:
        return _layer(xp, config, body / "h" / i, x, view, seen, cached, _scale(config, i))

    x, known = through(xp, layer, x, picture, cache)
    x = xp.note(norm(xp, body / "ln_f", x, config["layer_norm_epsilon"]))
    tied = {"weight": body["wte.weight"]}
    head = w / "lm_head" if "lm_head.weight" in w else Weights(tied)
    return linear(xp, head, x), known


def _scale(config: Config, layer: int) -> float:
    scale = (config["n_embd"] // config["n_head"]) ** -0.5 if config["scale_attn_weights"] else 1.0
    return scale / (layer + 1) if config["scale_attn_by_inverse_layer_idx"] else scale


def _layer(
    xp: Namespace,
    config: Config,
    w: Weights,
    x: Array,
    view: View,
    picture: KeysValues,
    cached: KeysValues | None,
    scale: float,
) -> tuple[Array, KeysValues]:
    epsilon, count, d = config["layer_norm_epsilon"], config["n_head"], config["n_embd"]
    y = conv1d(xp, w / "attn" / "c_attn", norm(xp, w / "ln_1", x, epsilon))  # [B, T, 3 D]
    query, key, value = (heads(xp, y[..., i * d : (i + 1) * d], count) for i in range(3))
    y, known = over_text(xp, query, (key, value), view, cached, scale)
    x = x + conv1d(xp, w / "attn" / "c_proj", y)

    y = conv1d(xp, w / "crossattention" / "q_attn", norm(xp, w / "ln_cross_attn", x, epsilon))
    y = over_picture(xp, y, picture, view, scale)
    x = x + conv1d(xp, w / "crossattention" / "c_proj", y)

    y = conv1d(xp, w / "mlp" / "c_fc", norm(xp, w / "ln_2", x, epsilon))
    y = activation(xp, config["activation_function"], y)
    return x + conv1d(xp, w / "mlp" / "c_proj", y), known


def tensors(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors that the decoder reads."""
    d, words = config["n_embd"], config["vocab_size"]
    inner = config["n_inner"] or 4 * d
    yield "transformer.wte.weight", (words, d)
    yield "transformer.wpe.weight", (config["n_positions"], d)
    products = {
        "attn.c_attn": (d, 3 * d),
        "attn.c_proj": (d, d),
        "crossattention.q_attn": (d, d),
        "crossattention.c_attn": (d, 2 * d),
        "crossattention.c_proj": (d, d),
        "mlp.c_fc": (d, inner),
        "mlp.c_proj": (inner, d),
    }
    for i in range(config["n_layer"]):
        for name, shape in products.items():
            yield f"transformer.h.{i}.{name}.weight", shape
            yield f"transformer.h.{i}.{name}.bias", shape[1:]
        for name in ("ln_1", "ln_cross_attn", "ln_2"):
            yield from norm_tensors(f"transformer.h.{i}.{name}", d)
    yield from norm_tensors("transformer.ln_f", d)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (words, d)
