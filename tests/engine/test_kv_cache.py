"""Logits over cached slots are those of a forward pass without a cache."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from dromaius.engine.kv_cache import SlotCache
from dromaius.models.emu3.language_model import LanguageModel
from tests.engine.small import VOCABULARY, Pair

LENGTHS = [3, 11, 7]
SLOTS = 24


def make_cache(model: LanguageModel, rows: int) -> SlotCache:
    return SlotCache(model.config, rows, SLOTS, "cpu", torch.float32)


def fill_with_garbage(cache: SlotCache) -> None:
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.randn_like(tensor) * 1e30)


def feed(model: LanguageModel, cache: SlotCache, ids: Tensor, starts: list[int]) -> Tensor:
    """Ids [B,T] at each row's own position -> logits [B,T,V]."""
    positions = torch.tensor(starts)[:, None] + torch.arange(ids.shape[1])
    visible = int(positions.max()) + 1
    with torch.no_grad():
        views, mask = cache.at(positions, visible), cache.mask(positions, visible)
        return model(ids, positions, mask, views)


def sequences(rng_seed: int, count: int = len(LENGTHS)) -> Tensor:
    generator = torch.Generator().manual_seed(rng_seed)
    return torch.randint(0, VOCABULARY, (count, SLOTS), generator=generator)


def in_steps(model: LanguageModel, cache: SlotCache, ids: Tensor, lengths: list[int]) -> Tensor:
    """Prefill rows of unequal lengths, filler on the right, then 9 tokens in steps of 1, 2 and 3.

    Returns the logits of the 9 tokens [B,9,V].
    """
    longest = max(lengths)
    prompts = ids[:, :longest].clone()
    for row, length in zip(prompts, lengths, strict=True):
        row[length:] = 0  # filler
    feed(model, cache, prompts, [0] * len(lengths))
    out, done = [], 0
    for step in (1, 2, 1, 3, 2):
        starts = [length + done for length in lengths]
        new = torch.stack([row[s : s + step] for row, s in zip(ids, starts, strict=True)])
        out.append(feed(model, cache, new, starts))
        done += step
    return torch.cat(out, dim=1)


def test_ragged_rows_equal_transformers_without_a_cache(pair: Pair, rng_seed: int) -> None:
    ids = sequences(rng_seed)
    ours = in_steps(pair.ours, make_cache(pair.ours, 3), ids, LENGTHS)
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            theirs = pair.theirs(ids[row : row + 1, : length + 9], use_cache=False).logits[0]
        torch.testing.assert_close(ours[row], theirs[length:], rtol=0, atol=1e-4)


def test_stale_slots_never_matter(pair: Pair, rng_seed: int) -> None:
    """Huge garbage where nothing is written yet: not one bit changes."""
    ids = sequences(rng_seed)
    clean, dirty = make_cache(pair.ours, 3), make_cache(pair.ours, 3)
    fill_with_garbage(dirty)
    expected = in_steps(pair.ours, clean, ids, LENGTHS)
    assert in_steps(pair.ours, dirty, ids, LENGTHS).equal(expected)


def test_a_used_cache_can_be_used_again(pair: Pair, rng_seed: int) -> None:
    """Longer sequences before, never cleared: the shorter ones do not see them."""
    first, second = sequences(rng_seed), sequences(rng_seed + 1)
    cache = make_cache(pair.ours, 3)
    in_steps(pair.ours, cache, first, [13, 15, 14])
    expected = in_steps(pair.ours, make_cache(pair.ours, 3), second, LENGTHS)
    assert in_steps(pair.ours, cache, second, LENGTHS).equal(expected)


def test_a_batch_equals_its_rows_alone(pair: Pair, rng_seed: int) -> None:
    ids = sequences(rng_seed)
    together = in_steps(pair.ours, make_cache(pair.ours, 3), ids, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = in_steps(pair.ours, make_cache(pair.ours, 1), ids[row : row + 1], [length])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


def test_mask_shows_a_token_its_own_slot_and_those_before() -> None:
    cache = SlotCache(_Shape(), 2, 8, "cpu", torch.float32)
    mask = cache.mask(torch.tensor([[0, 1], [3, 4]]), 5)
    assert mask.shape == (2, 1, 2, 5)
    assert mask[:, 0].int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    ]


def test_one_prefill_serves_many_rows(pair: Pair, rng_seed: int) -> None:
    """After `repeat`, rows continue as if each had been prefilled with its source's tokens."""
    rng = random.Random(rng_seed)
    ids = sequences(rng_seed)
    cache = make_cache(pair.ours, 3)
    feed(pair.ours, cache, ids[:, :6], [0, 0, 0])
    source = [rng.randrange(3) for _ in range(3)]
    cache.repeat(torch.tensor(source), cache.slots)
    new = sequences(rng_seed + 1)[:, :2]
    ours = feed(pair.ours, cache, new, [6, 6, 6])
    for row, origin in enumerate(source):
        whole = torch.cat((ids[origin, :6], new[row]))[None]
        with torch.no_grad():
            theirs = pair.theirs(whole, use_cache=False).logits[0, 6:]
        torch.testing.assert_close(ours[row], theirs, rtol=0, atol=1e-4)


class _Shape:
    num_hidden_layers, key_value_heads, head_size = 2, 3, 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes(dtype: torch.dtype) -> None:
    cache = SlotCache(_Shape(), 5, 7, "cpu", dtype)
    assert len(cache.keys) == len(cache.values) == 2
    for tensor in (*cache.keys, *cache.values):
        assert tensor.shape == (5, 3, 7, 4) and tensor.dtype == dtype
