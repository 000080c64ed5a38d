"""Picture in, text out: encoder, projection where the widths differ, decoder with cross-attention.

Shapes: B images, S image tokens, E encoder channels, M channels that the decoder's cross-attention
reads, T text tokens, V vocabulary. Source: TrOCR (arXiv 2109.10282), section 2, for the scheme.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dromaius.models.vision_encoder_decoder.arrays import configuration
from dromaius.models.vision_encoder_decoder.arrays.decoders import bart, bert, gpt2
from dromaius.models.vision_encoder_decoder.arrays.encoders import swin, vit
from dromaius.models.vision_encoder_decoder.arrays.layers import (
    Cache,
    Params,
    View,
    Weights,
    linear,
    see,
)
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

IGNORED = -100
"""A label that is no target."""
ENCODERS: dict[str, Any] = {"vit": vit, "deit": vit, "beit": vit, "swin": swin, "donut-swin": swin}
DECODERS: dict[str, Any] = {
    "gpt2": gpt2,
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "camembert": bert,
    "trocr": bart,
    "bart": bart,
    "mbart": bart,
}


def encode(xp: Namespace, config: Mapping[str, Any], params: Params, pixels: Array) -> Array:
    """pixels [B, C, H, W] -> the encoder's last hidden state [B, S, E].

    Raises ConfigError for an encoder that is not here, InputError for pixels of another shape,
    CheckpointError for parameters that are not those of the configuration.
    """
    part = configuration.encoder(config)
    pixels = xp.asarray(pixels, "float32")
    return ENCODERS[part["model_type"]].encode(xp, part, Weights(params, "encoder."), pixels)


def remember(xp: Namespace, config: Mapping[str, Any], params: Params, hidden: Array) -> Cache:
    """hidden [B, S, E] -> the keys and values that every decoder layer reads of the pictures.

    Projects first where the decoder reads another width.
    """
    if configuration.memory_width(config) != configuration.encoder_width(config):
        hidden = linear(xp, Weights(params, "enc_to_dec_proj."), hidden)  # [B, S, E] -> [B, S, M]
    part = configuration.decoder(config)
    return DECODERS[part["model_type"]].memory(xp, part, Weights(params, "decoder."), hidden)


def read(
    xp: Namespace,
    config: Mapping[str, Any],
    params: Params,
    ids: Array,
    view: View,
    picture: Cache,
    cache: Cache | None = None,
) -> tuple[Array, Cache]:
    """Text ids [B, T] -> logits [B, T, V], and the cache with their keys and values.

    A cache given is used up. K rows of text for each picture must lie side by side.
    """
    part, w = configuration.decoder(config), Weights(params, "decoder.")
    return DECODERS[part["model_type"]].logits(xp, part, w, ids, view, picture, cache)


def decode(
    xp: Namespace,
    config: Mapping[str, Any],
    params: Params,
    hidden: Array,
    ids: Array,
    mask: Array | None = None,
    hidden_mask: Array | None = None,
) -> Array:
    """hidden [B, S, E] and ids [B, T] -> logits [B, T, V].

    mask [B, T], hidden_mask [B, S]: zero for text and image tokens that are padding.
    """
    ids = xp.asarray(ids, "int32")
    length = xp.shape(ids)[1]
    view = see(xp, length, length, xp.asarray(0, "int32"), mask, hidden_mask)
    return read(xp, config, params, ids, view, remember(xp, config, params, hidden))[0]


def forward(
    xp: Namespace,
    config: Mapping[str, Any],
    params: Params,
    pixels: Array,
    ids: Array,
    mask: Array | None = None,
) -> Array:
    """pixels [B, C, H, W] and ids [B, T] -> logits [B, T, V]."""
    return decode(xp, config, params, encode(xp, config, params, pixels), ids, mask)


def shift_right(xp: Namespace, labels: Array, start: int, pad: int) -> Array:
    """Labels [B, T] -> what the decoder reads when it predicts them: start, then all but the last.

    Ignored labels are read as `pad`.
    """
    labels = xp.asarray(labels, "int32")
    first = xp.full((xp.shape(labels)[0], 1), start, "int32")
    ids = xp.concat([first, labels[:, :-1]], axis=1)
    return xp.where(ids == IGNORED, xp.asarray(pad, "int32"), ids)


def loss(xp: Namespace, logits: Array, labels: Array) -> Array:
    """Mean cross-entropy of logits [B, T, V] against labels [B, T] that are not -100, in float32.

    The labels are those that `shift_right` was given: they are not shifted again.
    """
    labels = xp.reshape(xp.asarray(labels, "int32"), (-1, 1))
    counts = labels != IGNORED
    scores = xp.log_softmax(xp.cast(xp.reshape(logits, (-1, xp.shape(logits)[-1])), "float32"))
    found = xp.pick(scores, xp.where(counts, labels, xp.asarray(0, "int32")))  # [B * T, 1]
    zero = xp.asarray(0.0, "float32")
    return -xp.sum(xp.where(counts, found, zero)) / xp.sum(xp.cast(counts, "float32"))
