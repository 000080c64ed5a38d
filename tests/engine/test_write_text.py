"""Text continued in a batch is what transformers' greedy generate writes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from dromaius.engine.decode import write_text
from dromaius.engine.sampling import Sampler
from tests.engine.small import BOS, EOS, PAD, VOCABULARY, Counting, Pair, words

GREEDY = Sampler(temperature=0)


def prompts_of(rng_seed: int, *lengths: int) -> list[list[int]]:
    rng = random.Random(rng_seed)
    return [[BOS, *words(rng, length)] for length in lengths]


def write(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    limit: int,
    stops: Sequence[int] = (),
    sampler: Sampler = GREEDY,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """The new ids of each prompt; no step at all comes where every first id is a stop id."""
    steps = list(write_text(pair.ours, prompts, limit, stops, sampler, seeds or [0] * len(prompts)))
    rows = range(len(prompts))
    return [[step[row] for step in steps if step[row] is not None] for row in rows]


@pytest.mark.parity
def test_greedy_equals_transformers_generate(pair: Pair, rng_seed: int) -> None:
    prompts = prompts_of(rng_seed, 3, 9, 6)
    longest = max(map(len, prompts))
    theirs = pair.theirs.generate(
        torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
        do_sample=False,
        max_new_tokens=20,
        min_new_tokens=20,
        eos_token_id=VOCABULARY + 5,  # never drawn
        pad_token_id=PAD,
    )[:, longest:]
    assert write(pair, prompts, 20) == theirs.tolist()


def test_each_row_ends_at_its_stop(pair: Pair, rng_seed: int) -> None:
    """A stop id taken from the middle of one text: rows end apart and end as they would alone."""
    prompts = prompts_of(rng_seed, 3, 9, 6)
    whole = write(pair, prompts, 20)
    stops = [whole[0][5], whole[2][9]]
    expected = []
    for text in whole:
        end = next((i for i, token in enumerate(text) if token in stops), len(text))
        expected.append(text[:end])
    steps = list(write_text(pair.ours, prompts, 20, stops, GREEDY, [0, 0, 0]))
    assert len(steps) == max(map(len, expected))
    for row, text in enumerate(expected):
        shown = [step[row] for step in steps]
        assert shown == text + [None] * (len(steps) - len(text))


def test_a_stop_at_once_is_no_text(pair: Pair, rng_seed: int) -> None:
    prompts = prompts_of(rng_seed, 4)
    first = write(pair, prompts, 1)[0]
    assert list(write_text(pair.ours, prompts, 5, first, GREEDY, [0])) == []


def test_one_forward_a_token(pair: Pair, rng_seed: int) -> None:
    model = Counting(pair.ours)
    prompts = prompts_of(rng_seed, 5, 2)
    steps = list(write_text(model, prompts, 7, (), GREEDY, [0, 0]))
    assert len(steps) == 7
    assert model.shapes == [(2, 6)] + [(2, 1)] * 6


def test_sampled_rows_do_not_depend_on_the_batch(pair: Pair, rng_seed: int) -> None:
    prompts = prompts_of(rng_seed, 8, 1, 4)
    sampler = Sampler(0.9, top_k=40)
    seeds = [11, 12, 13]
    together = write(pair, prompts, 15, (EOS,), sampler, seeds)
    alone = [
        write(pair, [p], 15, (EOS,), sampler, [s])[0] for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    assert together != write(pair, prompts, 15, (EOS,), sampler, [14, 15, 16])
