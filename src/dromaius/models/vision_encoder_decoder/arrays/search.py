"""Greedy and beam search with a cache, the same loop for every framework.

Shapes: B images, K beams, R = B * K rows of text, L the longest text, P the prompt's length, C
candidates, V vocabulary. All are fixed before the loop, so that JAX compiles it once. The pictures'
keys and values are computed once and shared by the beams; texts have room for L tokens from the
beginning. Beam search keeps and ends texts as transformers 5 does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dromaius.models.vision_encoder_decoder.arrays.layers import Cache, empty_cache
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace
from dromaius.models.vision_encoder_decoder.arrays.settings import Settings

_WORST = -1.0e9
Read = Callable[[Array, Array, Cache], tuple[Array, Cache]]
"""(ids [R, T], place of the first, cache) -> (logits of the last [R, V], cache)."""


class Found(NamedTuple):
    """Texts of a search."""

    sequences: Array
    """[B, N, L], the N best of each image."""
    lengths: Array
    """[B, N], with the prompt and the end."""
    scores: Array
    """[B, N], sums of log-probabilities over (new tokens) ** length_penalty."""


def search(xp: Namespace, settings: Settings, read: Read, prompt: Array, picture: Cache) -> Found:
    """prompt [B, P], the pictures' keys and values -> Found. For a loop that is compiled whole."""
    rows = xp.shape(prompt)[0] * settings.num_beams
    cache = empty_cache(xp, picture, rows, settings.max_length)
    run = greedy if settings.num_beams == 1 else beams
    return run(xp, settings, read, prompt, cache)


class _Greedy(NamedTuple):
    length: Array  # [], tokens so far
    sequences: Array  # [B, L, 1]: `write` is along the last axis but one
    last: Array  # [B, 1]
    ended: Array  # [B, 1]
    lengths: Array  # [B, 1]
    totals: Array  # [B, 1], sums of log-probabilities


def greedy(xp: Namespace, settings: Settings, read: Read, prompt: Array, cache: Cache) -> Found:
    """The likeliest token each time, up to an end token. prompt [B, P] -> one text an image."""
    rows, start = xp.shape(prompt)
    fill = _filler(settings, settings.pad)
    state = _Greedy(
        length=xp.asarray(start, "int32"),
        sequences=_room(xp, settings, prompt, fill)[..., None],
        last=prompt[:, -1:],
        ended=xp.full((rows, 1), False, "bool"),
        lengths=xp.full((rows, 1), start, "int32"),
        totals=xp.full((rows, 1), 0.0, "float32"),
    )

    def choose(state: _Greedy, logits: Array) -> _Greedy:
        chances = _forced(xp, settings, xp.log_softmax(xp.cast(logits, "float32")), state.length)
        best = xp.argmax(chances)[:, None]  # [B, 1]
        token = xp.where(state.ended, xp.asarray(fill, "int32"), best)
        gain = xp.where(state.ended, xp.asarray(0.0, "float32"), xp.pick(chances, best))
        return _Greedy(
            length=state.length + 1,
            sequences=xp.write(state.sequences, token[:, :, None], state.length),
            last=token,
            ended=state.ended | _among(token, settings.eos),
            lengths=state.lengths + xp.cast(~state.ended, "int32"),
            totals=state.totals + gain,
        )

    def more(state: tuple[_Greedy, Cache]) -> Array:
        unended = ~xp.all(xp.reshape(state[0].ended, (rows,)))[0]
        return unended & (state[0].length < settings.max_length)

    def step(state: tuple[_Greedy, Cache]) -> tuple[_Greedy, Cache]:
        so_far, cache = state
        logits, cache = read(so_far.last, so_far.length - 1, cache)
        return choose(so_far, logits), cache

    logits, cache = read(prompt, xp.asarray(0, "int32"), cache)
    state, _ = xp.loop(more, step, (choose(state, logits), cache))
    new = xp.cast(state.lengths - start, "float32")
    scores = state.totals / xp.power(new, settings.length_penalty)
    return Found(state.sequences[:, :, 0][:, None], state.lengths, scores)


class _Beams(NamedTuple):
    length: Array  # [], tokens of the running texts
    running: Array  # [B, K, L]
    totals: Array  # [B, K], sums of log-probabilities of the running
    last: Array  # [B, K]
    origins: Array  # [B, K], which beam each running text continues
    sequences: Array  # [B, K, L], the best ended
    scores: Array  # [B, K], theirs
    lengths: Array  # [B, K]
    ended: Array  # [B, K], whether there is such a text
    hopeful: Array  # [B, 1], whether a running text may still beat an ended one
    stuck: Array  # [], whether every candidate ended


def beams(xp: Namespace, settings: Settings, read: Read, prompt: Array, cache: Cache) -> Found:
    """The `num_beams` likeliest texts side by side. prompt [B, P] -> the best ended ones."""
    images, start = xp.shape(prompt)
    count = settings.num_beams
    state = _first(xp, settings, prompt)

    def more(state: tuple[_Beams, Cache]) -> Array:
        so_far = state[0]
        any_hope = ~xp.all(xp.reshape(~so_far.hopeful, (images,)))[0]
        go_on = any_hope & ~so_far.stuck
        if settings.early_stopping is True:
            go_on = go_on & ~xp.all(xp.reshape(so_far.ended, (images * count,)))[0]
        return go_on

    def step(state: tuple[_Beams, Cache]) -> tuple[_Beams, Cache]:
        so_far, cache = state
        offsets = xp.arange(images)[:, None] * count
        rows = xp.reshape(so_far.origins + offsets, (images * count,))
        cache = tuple((xp.take(keys, rows), xp.take(values, rows)) for keys, values in cache)
        last = xp.reshape(so_far.last, (images * count, 1))
        logits, cache = read(last, so_far.length - 1, cache)
        return _advance(xp, settings, so_far, logits, start), cache

    logits, cache = read(xp.repeat(prompt, count), xp.asarray(0, "int32"), cache)
    state = _advance(xp, settings, state, logits, start)
    state, _ = xp.loop(more, step, (state, cache))
    kept = settings.num_return_sequences
    return Found(state.sequences[:, :kept], state.lengths[:, :kept], state.scores[:, :kept])


def _first(xp: Namespace, settings: Settings, prompt: Array) -> _Beams:
    images, start = xp.shape(prompt)
    count = settings.num_beams
    # as transformers fills: with the padding unless its id is 0, else with the end
    fill = _filler(settings, settings.pad or (settings.eos[0] if settings.eos else -1))
    room = _room(xp, settings, prompt, fill)  # [B, L]
    texts = xp.broadcast(room[:, None], (images, count, settings.max_length))
    worst = xp.full((images, count - 1), _WORST, "float32")
    return _Beams(
        length=xp.asarray(start, "int32"),
        running=texts,
        totals=xp.concat([xp.full((images, 1), 0.0, "float32"), worst], axis=1),  # all are equal
        last=xp.full((images, count), settings.start, "int32"),
        origins=xp.full((images, count), 0, "int32"),
        sequences=texts,
        scores=xp.full((images, count), _WORST, "float32"),
        lengths=xp.full((images, count), start, "int32"),
        ended=xp.full((images, count), False, "bool"),
        hopeful=xp.full((images, 1), True, "bool"),
        stuck=xp.asarray(False, "bool"),
    )


def _advance(xp: Namespace, settings: Settings, state: _Beams, logits: Array, start: int) -> _Beams:
    """One token further: logits [B * K, V] of the running texts' last tokens."""
    (images, count), words = xp.shape(state.totals), xp.shape(logits)[-1]
    chances = _forced(xp, settings, xp.log_softmax(xp.cast(logits, "float32")), state.length)
    totals = xp.reshape(chances, (images, count, words)) + state.totals[:, :, None]
    # more candidates than beams: that all beams can go on if the best of them end
    candidates = min(max(2, 1 + len(settings.eos)), words) * count
    totals, found = xp.top_k(xp.reshape(totals, (images, count * words)), candidates)  # [B, C]
    origins, tokens = found // words, found % words
    texts = xp.pick(state.running, origins)  # [B, C, L]
    here = xp.arange(settings.max_length) == state.length
    texts = xp.where(here, tokens[:, :, None], texts)
    full = state.length + 1 >= settings.max_length
    ends = _among(tokens, settings.eos) | full

    going, best = xp.top_k(xp.where(ends, totals + _WORST, totals), count)  # [B, K]
    state = _collect(xp, settings, state, texts, totals, ends, start)
    worst_ended = xp.where(state.ended, xp.least(state.scores), xp.asarray(_WORST, "float32"))
    possible = going[:, :1] / _hoped_length(xp, settings, state.length + 1 - start, start)
    beaten = xp.all(~(possible > worst_ended))  # [B, 1]
    return state._replace(
        length=state.length + 1,
        running=xp.pick(texts, best),
        totals=going,
        last=xp.pick(tokens, best),
        origins=xp.pick(origins, best),
        hopeful=state.hopeful & ~beaten,
        stuck=xp.all(xp.reshape(ends, (images * candidates,)))[0],
    )


def _collect(
    xp: Namespace,
    settings: Settings,
    state: _Beams,
    texts: Array,
    totals: Array,
    ends: Array,
    start: int,
) -> _Beams:
    """Puts texts that ended among the best ended ones: texts [B, C, L], totals and ends [B, C]."""
    images, candidates = xp.shape(totals)
    count = settings.num_beams
    # of the candidates only the first K may end: the others are there to go on
    counted = ends & (xp.arange(candidates) < count) & state.hopeful
    if settings.early_stopping is True:
        counted = counted & ~xp.all(state.ended)
    new = state.length + 1 - start
    scores = totals / xp.power(xp.cast(new, "float32"), settings.length_penalty)
    scores = xp.where(counted, scores, scores + _WORST)
    lengths = xp.broadcast(xp.reshape(state.length + 1, (1, 1)), (images, candidates))
    scores, best = xp.top_k(xp.concat([state.scores, scores], axis=1), count)  # [B, K]
    return state._replace(
        sequences=xp.pick(xp.concat([state.sequences, texts], axis=1), best),
        lengths=xp.pick(xp.concat([state.lengths, lengths], axis=1), best),
        ended=xp.pick(xp.concat([state.ended, counted], axis=1), best),
        scores=scores,
    )


def _hoped_length(xp: Namespace, settings: Settings, new: Array, start: int) -> Array:
    """By what the total of a running text is divided, at best, to be compared with ended ones."""
    if settings.early_stopping == "never" and settings.length_penalty > 0:
        new = xp.asarray(settings.max_length - start, "int32")
    return xp.power(xp.cast(new, "float32"), settings.length_penalty)


def _filler(settings: Settings, wanted: int | None) -> int:
    return -1 if wanted is None or not settings.eos else wanted


def _room(xp: Namespace, settings: Settings, prompt: Array, fill: int) -> Array:
    """The prompt [B, P] with room behind it [B, L]."""
    images, start = xp.shape(prompt)
    rest = xp.full((images, settings.max_length - start), fill, "int32")
    return xp.concat([prompt, rest], axis=1)


def _among(tokens: Array, ids: tuple[int, ...]) -> Array:
    """Which of the tokens are one of the ids."""
    found = tokens != tokens  # none
    for token in ids:
        found = found | (tokens == token)
    return found


def _forced(xp: Namespace, settings: Settings, chances: Array, length: Array) -> Array:
    """Log-probabilities [R, V]; for the last token that fits, those of the forced ids are 0."""
    if not settings.forced_eos:
        return chances
    forced = _among(xp.arange(xp.shape(chances)[-1])[None], settings.forced_eos)
    only = xp.where(forced, xp.asarray(0.0, "float32"), xp.asarray(float("-inf"), "float32"))
    return xp.where(length + 1 >= settings.max_length, only, chances)
