"""One pass over pictures or text in any framework, with what the classes can be asked for beside.

Shapes: B texts, T new tokens, L tokens before them, S image tokens, H heads, d channels of a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from dromaius.compat.vision_encoder_decoder.arrays.outputs import DecoderOutput, EncoderOutput
from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder.arrays import configuration, layers, model
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

_WORDS = {
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "trocr": ("model.decoder.embed_tokens.weight", "output_projection.weight"),
    "bart": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    "mbart": ("model.decoder.embed_tokens.weight", "lm_head.weight"),
}
"""Of a decoder: the table of words, and the head's weight, which may be the same."""
_ROBERTA = ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight")


@dataclass(frozen=True)
class Core:
    """A framework's operations and the content of a config.json."""

    xp: Namespace
    config: dict[str, Any]

    def words(self) -> tuple[str, str]:
        """Names of the decoder's table of words and of its head's weight."""
        names = _WORDS.get(self.config["decoder"]["model_type"], _ROBERTA)
        return f"decoder.{names[0]}", f"decoder.{names[1]}"


@dataclass(frozen=True)
class Text:
    """What a decoder reads in one call."""

    ids: Array | None = None
    """[B, T], or instead of it"""
    embeddings: Array | None = None
    """[B, T, D], as the table of words holds them."""
    mask: Array | None = None
    """[B, L + T], zero for tokens that are padding."""
    positions: Array | None = None
    """[B, T]; counted from 0 if None."""
    cache: layers.Cache | None = None
    """Keys and values [B, H, C, d] of each layer, with room for C >= L + T tokens."""
    start: Any = 0
    """L."""


class Watch:
    """Operations that also keep the attentions' weights and the states behind each layer."""

    def __init__(self, xp: Namespace) -> None:
        self.attentions: list[Array] = []
        self.states: list[Array] = []
        self.xp = copy.copy(xp)
        for name, kept in (("softmax", self.attentions), ("note", self.states)):
            setattr(self.xp, name, _keeping(getattr(xp, name), kept))


def _keeping(operation: Any, kept: list[Array]) -> Any:
    def run(x: Array) -> Array:
        y = operation(x)
        kept.append(y)
        return y

    return run


def encode(core: Core, params: Mapping[str, Array], pixels: Array, watch: bool) -> EncoderOutput:
    """pixels [B, C, H, W] -> [B, S, E]; with `watch` also states and attentions of each layer."""
    if not watch:
        return EncoderOutput(model.encode(core.xp, core.config, params, pixels))
    seen = Watch(core.xp)
    hidden = model.encode(seen.xp, core.config, params, pixels)
    attentions = seen.attentions
    if depths := configuration.encoder(core.config).get("depths"):  # the last of each stage
        attentions = [attentions[end - 1] for end in accumulate(depths)]
    return EncoderOutput(hidden, tuple(seen.states), tuple(attentions))


def decode(
    core: Core,
    params: Mapping[str, Array],
    picture: layers.Cache,
    text: Text,
    picture_mask: Array | None,
    watch: bool,
) -> DecoderOutput:
    """picture: keys and values [B, H, S, d] of each layer -> logits [B, T, V], all that is known.

    Raises InputError for text that is absent or given twice, or positions that are not supported.
    """
    if (text.ids is None) == (text.embeddings is None):
        raise InputError("give either decoder_input_ids or decoder_inputs_embeds")
    if text.embeddings is not None:
        params, text = _as_words(core, params, text)
    seen = Watch(core.xp)
    xp = seen.xp if watch else core.xp
    ids = xp.asarray(text.ids, "int32")
    length = xp.shape(ids)[1]
    capacity = length if text.cache is None else xp.shape(text.cache[0][0])[2]
    start = xp.asarray(text.start, "int32")
    if text.mask is not None and xp.shape(text.mask) != (xp.shape(ids)[0], capacity):
        raise InputError(
            f"decoder_attention_mask has shape {xp.shape(text.mask)}, "
            f"the text {(xp.shape(ids)[0], capacity)}"
        )
    view = layers.see(xp, length, capacity, start, text.mask, picture_mask)
    if text.positions is not None and text.cache is None:
        view = view._replace(start=_places(core, text.positions, length))
    logits, known = model.read(xp, core.config, params, ids, view, picture, text.cache)
    output = DecoderOutput(logits, known)
    if watch:  # each layer looks at the text, then at the picture
        states = [*seen.states[: len(known)], seen.states[-1]]  # the last is normed, if any is
        output = replace(
            output,
            hidden_states=tuple(states),
            attentions=tuple(seen.attentions[0::2]),
            cross_attentions=tuple(seen.attentions[1::2]),
        )
    return output


def _places(core: Core, positions: Array, length: int) -> Array:
    """[B, T] that, with 0 .. T - 1 added, are the positions."""
    decoder = configuration.decoder(core.config)
    counted = core.words()[0].startswith("decoder.roberta")
    if counted or decoder.get("use_learned_position_embeddings", True) is False:
        raise InputError(
            f"a {decoder['model_type']} decoder counts its positions itself: leave out "
            "decoder_position_ids and mark padding by its id"
        )
    return core.xp.asarray(positions, "int32") - core.xp.arange(length)


def _as_words(core: Core, params: Mapping[str, Array], text: Text) -> tuple[dict[str, Array], Text]:
    """Embeddings [B, T, D] as a table of words with ids that point into it; the head stays."""
    xp, decoder = core.xp, configuration.decoder(core.config)
    table, head = core.words()
    embeddings = xp.asarray(text.embeddings, "float32")
    rows, length, width = xp.shape(embeddings)
    if decoder.get("scale_embedding"):
        embeddings = embeddings / math.sqrt(width)  # the decoder's scale is part of what is given
    first = 1 + int(decoder.get("pad_token_id") or 0)  # ids up to the padding's mean something
    flat = xp.reshape(embeddings, (rows * length, width))
    flat = xp.concat([xp.full((first, width), 0.0, "float32"), flat], axis=0)
    ids = xp.reshape(xp.arange(rows * length) + first, (rows, length))
    weights = {**params, table: flat, head: params.get(head, params[table])}
    return weights, replace(text, ids=ids, embeddings=None)
