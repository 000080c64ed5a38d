"""Drawing follows the softmax; the filters are transformers' logits warpers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dromaius.engine.sampling import Sampler, gumbel

INF = torch.inf


def random_scores(rng_seed: int, rows: int = 6, ids: int = 80) -> Tensor:
    """Scores with ties (rounded) and ids that are not allowed."""
    generator = torch.Generator().manual_seed(rng_seed)
    scores = (torch.randn(rows, ids, generator=generator) * 3).round(decimals=1)
    forbidden = torch.rand(rows, ids, generator=generator) < 0.2
    forbidden[:, 0] = False
    return scores.masked_fill(forbidden, -INF)


def draw_many(sampler: Sampler, scores: Tensor, count: int, first_id: int = 0) -> Tensor:
    """Frequencies of `count` draws from one row of scores [V], each with its own seed."""
    seeds = torch.arange(count)
    drawn = sampler.draw(scores.expand(count, -1), seeds, seeds % 13, first_id)
    return drawn.bincount(minlength=len(scores))


def chi_square_passes(counts: Tensor, probabilities: Tensor) -> bool:
    """Whether counts fit probabilities; 99.999 % of true samples do. Small cells are joined."""
    expected = probabilities.double() * counts.sum()
    big = expected >= 8
    observed = torch.cat((counts[big], counts[~big].sum()[None])).double()
    expected = torch.cat((expected[big], expected[~big].sum()[None]))
    assert observed[expected == 0].sum() == 0
    observed, expected = observed[expected > 0], expected[expected > 0]
    chi2 = ((observed - expected) ** 2 / expected).sum().item()
    freedom = len(expected) - 1
    return chi2 < freedom + 4.5 * math.sqrt(2 * freedom) + 10


# ------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(temperature=0.5),
        Sampler(temperature=2.0),
        Sampler(top_k=5),
        Sampler(top_p=0.7),
        Sampler(1.3, top_k=12, top_p=0.9),
    ],
    ids=str,
)
def test_draws_follow_the_softmax(sampler: Sampler) -> None:
    scores = random_scores(1, rows=1, ids=40)[0]
    warpers = transformers_warpers(sampler.temperature, sampler.top_k, sampler.top_p)
    law = warpers(None, scores[None])[0].softmax(-1)
    assert chi_square_passes(draw_many(sampler, scores, 40_000, first_id=1000), law)


def test_chi_square_sees_a_wrong_law() -> None:
    """The test above can fail: a slightly wrong temperature does not pass."""
    scores = random_scores(1, rows=1, ids=40)[0]
    counts = draw_many(Sampler(temperature=1.1), scores, 40_000)
    assert not chi_square_passes(counts, scores.softmax(-1))


def test_two_positions_are_drawn_apart() -> None:
    """Pairs of draws of one seed at neighbouring positions follow the product of their laws."""
    scores = torch.tensor([0.0, 0.5, 1.0, -0.5])
    seeds = torch.arange(40_000)
    rows = scores.expand(len(seeds), -1)
    first = Sampler().draw(rows, seeds, torch.full_like(seeds, 6), 0)
    second = Sampler().draw(rows, seeds, torch.full_like(seeds, 7), 0)
    law = scores.softmax(-1)
    pairs = (first * 4 + second).bincount(minlength=16)
    assert chi_square_passes(pairs, torch.outer(law, law).flatten())


# ------------------------------------------------------------------------------- independence


def test_a_row_does_not_depend_on_the_batch(rng_seed: int) -> None:
    scores = random_scores(rng_seed, rows=16)
    seeds, positions = torch.arange(16) * 7, torch.arange(16)
    sampler = Sampler(0.9, top_k=30, top_p=0.95)
    together = sampler.draw(scores, seeds, positions, 500)
    backwards = sampler.draw(scores.flip(0), seeds.flip(0), positions.flip(0), 500).flip(0)
    alone = [
        sampler.draw(scores[i : i + 1], seeds[i : i + 1], positions[i : i + 1], 500).item()
        for i in range(16)
    ]
    assert together.tolist() == backwards.tolist() == alone


def test_noise_belongs_to_the_id_not_to_the_column(rng_seed: int) -> None:
    """The same ids as part of a longer row, the rest forbidden: the same id is drawn."""
    scores = random_scores(rng_seed, rows=32)
    seeds, positions = torch.arange(32), torch.arange(32)
    inside = Sampler().draw(scores, seeds, positions, first_id=300) + 300
    longer = torch.full((32, 400), -INF)
    longer[:, 300:380] = scores
    assert Sampler().draw(longer, seeds, positions, first_id=0).tolist() == inside.tolist()


def test_changes_with_seed_and_position() -> None:
    scores = torch.zeros(200, 1000)
    seeds, positions = torch.arange(200), torch.arange(200)
    base = Sampler().draw(scores, seeds, positions, 0)
    for other in (
        Sampler().draw(scores, seeds + 1000, positions, 0),
        Sampler().draw(scores, seeds, positions + 1000, 0),
    ):
        assert (base == other).float().mean() < 0.05


# --------------------------------------------------------------------------------- the kernel


def plainly(sampler: Sampler, scores: Tensor, seeds: Tensor, places: Tensor, first: int) -> Tensor:
    """The definition: noise for every id, added to what is kept."""
    ids = torch.arange(first, first + scores.shape[1])
    return (sampler.keep(scores) + gumbel(seeds, places, ids)).argmax(-1)


@pytest.mark.parametrize("top_k", [1, 2, 64, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("ids", [4099, 32768])
def test_noise_for_the_survivors_alone_draws_the_same(
    top_k: int, temperature: float, ids: int, rng_seed: int
) -> None:
    """Ties, forbidden ids, both zeros, seeds of both signs; ids as high as a vocabulary's."""
    scores = random_scores(rng_seed, rows=9, ids=ids)
    scores[0] = 0.0  # all tie
    scores[1] = -INF
    scores[1, 5:9] = -2.0  # fewer than k are allowed
    scores[2, ::2] = -0.0
    scores[3] = scores[3].bfloat16().float() * 1e30
    seeds = torch.tensor([0, 1, -1, 2**40, -(2**62), 5, 6, 7, 8])
    places = torch.tensor([0, 1, 8192, 3, 4, 5, 6, 7, 8])
    sampler = Sampler(temperature, top_k=top_k)
    expected = plainly(sampler, scores, seeds, places, 151854)
    assert sampler.draw(scores, seeds, places, 151854).equal(expected)


def test_survivors_of_many_draws(rng_seed: int) -> None:
    scores = torch.randn(300, 2048, generator=torch.Generator().manual_seed(rng_seed))
    seeds, places = torch.arange(300) * 7919, torch.arange(300)
    sampler = Sampler(top_k=500)
    expected = plainly(sampler, scores, seeds, places, 0)
    assert sampler.draw(scores, seeds, places, 0).equal(expected)
    assert expected.unique().numel() > 100


# ------------------------------------------------------------------------------------ filters


def transformers_warpers(
    temperature: float, top_k: int | None, top_p: float | None
) -> LogitsProcessorList:
    """In the order in which transformers' generate applies them."""
    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers


@pytest.mark.parametrize("temperature", [1.0, 0.3, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 4, 79, 80, 1000])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.5, 0.95, 1.0])
def test_filters_equal_transformers(
    temperature: float, top_k: int | None, top_p: float | None, rng_seed: int
) -> None:
    scores = random_scores(rng_seed)
    theirs = transformers_warpers(temperature, top_k, top_p)(None, scores.clone())
    assert Sampler(temperature, top_k, top_p).keep(scores).equal(theirs)


def test_top_k_keeps_all_that_tie() -> None:
    scores = torch.tensor([[5.0, 1.0, 4.0, 4.0, 4.0, 0.0]])
    kept = Sampler(top_k=2).keep(scores)
    assert kept.tolist() == [[5.0, -INF, 4.0, 4.0, 4.0, -INF]]


def test_top_p_always_keeps_the_likeliest() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0]])
    assert Sampler(top_p=1e-9).keep(scores).tolist() == [[-INF, 3.0, -INF]]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    scores = torch.tensor([[1.0, 7.0, 7.0], [-INF, -3.0, -2.0]])
    seeds = positions = torch.zeros(2, dtype=torch.long)
    sampler = Sampler(temperature=0)
    assert sampler.greedy and not Sampler().greedy
    assert sampler.draw(scores, seeds, positions, 0).tolist() == [1, 2]


def test_never_draws_what_is_not_allowed() -> None:
    scores = random_scores(2, rows=2000, ids=8)
    rows = torch.arange(2000)
    drawn = Sampler(temperature=50.0).draw(scores, rows, rows, 0)
    assert scores[rows, drawn].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": -5}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
    ],
    ids=str,
)
def test_impossible_settings(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sampler(**arguments)
