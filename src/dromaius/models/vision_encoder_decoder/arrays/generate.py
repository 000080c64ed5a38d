"""Texts for pictures: encoder, the pictures' keys and values, and the search, in one function.

Under JAX that function is compiled, once for each configuration, settings and input shapes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder.arrays import model
from dromaius.models.vision_encoder_decoder.arrays.layers import Cache, Params, see
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace
from dromaius.models.vision_encoder_decoder.arrays.search import Found, search
from dromaius.models.vision_encoder_decoder.arrays.settings import Settings, start_id


class Generated(NamedTuple):
    """B images with N texts each; the best of an image comes first."""

    sequences: Array
    """[B * N, L] token ids, from the start token (or prompt) to the end; filled behind it."""
    scores: Array
    """[B * N] sums of log-probabilities over (new tokens) ** length_penalty."""


def generate(
    xp: Namespace,
    config: Mapping[str, Any],
    params: Params,
    pixels: Array | None = None,
    *,
    hidden: Array | None = None,
    hidden_mask: Array | None = None,
    prompt: Array | None = None,
    generation: Mapping[str, Any] | None = None,
    whole: bool = False,
    **settings: Any,
) -> Generated:
    """Greedy or beam search, with a cache; the same tokens as transformers' `generate`.

    Args:
        pixels: [B, C, H, W], or instead of it
        hidden: the encoder's last hidden state [B, S, E].
        hidden_mask: [B, S], zero for image tokens that are padding.
        prompt: [B, P] ids that every text begins with. The start id comes before them unless a row
            begins with it already, or the encoder is Donut's.
        generation: the content of generation_config.json.
        whole: texts of the greatest length; otherwise the longest that was written bounds them.
        settings: `num_beams`, `max_new_tokens`, ..., see `Settings.of`.

    Raises InputError for arguments that do not fit, ContextError for a prompt that is too long.
    """
    if (pixels is None) == (hidden is None):
        raise InputError("give either pixels or hidden (the encoder's output)")
    pixels, hidden = (None if x is None else xp.asarray(x, "float32") for x in (pixels, hidden))
    rows = xp.shape(pixels if hidden is None else hidden)[0]
    ids = _prompt(xp, config, rows, prompt, start_id(config, generation, settings))
    chosen = Settings.of(config, generation, prompt_length=xp.shape(ids)[1], **settings)
    run = _compiled(xp, json.dumps(dict(config), sort_keys=True, default=list), chosen)
    found = run(dict(params), pixels, hidden, hidden_mask, ids)
    longest = chosen.max_length if whole else int(max(xp.reshape(found.lengths, (-1,))))
    sequences = xp.reshape(found.sequences, (-1, chosen.max_length))[:, :longest]
    return Generated(sequences, xp.reshape(found.scores, (-1,)))


def _prompt(
    xp: Namespace,
    config: Mapping[str, Any],
    rows: int,
    prompt: Array | None,
    start: int,
) -> Array:
    """[B, P] with the start id."""
    first = xp.full((rows, 1), start, "int32")
    if prompt is None:
        return first
    if xp.shape(prompt)[0] != rows:
        raise InputError(f"{xp.shape(prompt)[0]} prompts were given for {rows} pictures")
    prompt = xp.asarray(prompt, "int32")
    given = any(int(row) == start for row in prompt[:, 0])
    if given or "donut" in config["encoder"]["model_type"]:
        return prompt
    return xp.concat([first, prompt], axis=1)


@functools.lru_cache(maxsize=16)
def _compiled(xp: Namespace, config_json: str, settings: Settings) -> Callable[..., Found]:
    """(params, pixels or None, hidden or None, hidden mask or None, prompt) -> Found."""
    config = json.loads(config_json)

    def run(
        params: Params, pixels: Array, hidden: Array, hidden_mask: Array, prompt: Array
    ) -> Found:
        if hidden is None:
            hidden = model.encode(xp, config, params, pixels)
        picture = model.remember(xp, config, params, hidden)

        def read(ids: Array, start: Array, cache: Cache) -> tuple[Array, Cache]:
            length = xp.shape(ids)[1]
            view = see(xp, length, settings.max_length, start, picture_mask=hidden_mask)
            logits, cache = model.read(xp, config, params, ids, view, picture, cache)
            return logits[:, -1], cache

        return search(xp, settings, read, prompt, picture)

    return xp.compiled(run)
