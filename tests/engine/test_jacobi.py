"""Several codes a pass: the same pictures, or the same distribution, in fewer passes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine.canvas import GridRequest
from dromaius.engine.jacobi import Jacobi, draw_grids_in_passes
from dromaius.engine.sampling import Sampler
from tests.engine.small import Counting, Pair, draw, request

SAMPLERS = [Sampler(temperature=0), Sampler(), Sampler(0.7, top_k=5), Sampler(1.3, top_p=0.8)]


@pytest.fixture
def rng(rng_seed: int) -> random.Random:
    return random.Random(rng_seed)


def quickly(
    model: Any, requests: list[GridRequest], sampler: Sampler, how: Jacobi
) -> tuple[list[list[int]], int]:
    """The finished codes of each picture, and how many passes they took."""
    steps = [seen.codes.clone() for seen in draw_grids_in_passes(model, requests, sampler, how)]
    found = [steps[-1][i, : one.grid.drawn].tolist() for i, one in enumerate(requests)]
    return found, len(steps)


# --------------------------------------------------------------------------------- the same picture


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("window", [0, 1, 3, 8, 40])
def test_seed_exact_is_plain_decoding(
    pair: Pair, rng: random.Random, sampler: Sampler, window: int
) -> None:
    """A mixed batch: sizes, guidance, min_p, a guided part, a begun picture."""
    requests = [
        request(rng, 3, 4, 11),
        request(rng, 5, 2, 12, guidance=1.0),
        request(rng, 1, 1, 13, guidance=6.0),
        request(rng, 2, 6, 14, min_p=0.2),
        replace(request(rng, 4, 4, 15), guided=(0.25, 0.75)),
    ]
    plain = draw(pair.ours, requests, sampler)
    requests.append(replace(requests[0], begun=plain[0][:5]))
    requests.append(replace(requests[3], begun=plain[3]))  # nothing is missing
    found, passes = quickly(pair.ours, requests, sampler, Jacobi(window=window))
    assert found == [*plain, plain[0], plain[3]]
    assert passes <= 16
    if window == 0:
        assert passes == 16  # the largest picture, one by one


def test_a_picture_is_the_same_alone(pair: Pair, rng: random.Random) -> None:
    requests = [request(rng, h, w, 30 + h) for h, w in ((3, 5), (4, 2), (2, 2))]
    together, _ = quickly(pair.ours, requests, Sampler(), Jacobi(window=4))
    assert together == [
        quickly(pair.ours, [r], Sampler(), Jacobi(window=4))[0][0] for r in requests
    ]


class Sure(torch.nn.Module):
    """Always expects the code after the last one fed: what a draft cannot know, and a copy can."""

    def __init__(self, model: Any, code: int) -> None:
        super().__init__()
        self.model, self.config, self.code = model, model.config, code

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.model(input_ids, *args, **kwargs)
        flat = torch.full_like(logits, -5.0)
        flat[..., self.code] = 5.0
        return flat


def test_drafts_that_hold_save_passes(pair: Pair, rng: random.Random) -> None:
    """A model that is sure of the same code everywhere is done in (codes - 1) / (window + 1) passes
    behind the first; the engine's forwards are counted, not only its steps."""
    model = Counting(Sure(pair.ours, 7))  # type: ignore[arg-type]  # it counts any callable
    requests = [request(rng, 5, 5, 1), request(rng, 2, 3, 2)]
    found, passes = quickly(model, requests, Sampler(temperature=0), Jacobi(window=5))
    assert found == [[7] * 25, [7] * 6]
    assert passes == len(model.shapes) == 1 + 24 // 6
    assert {rows for rows, _ in model.shapes} == {4}


@pytest.mark.parametrize("form", ["seed-exact", "coupled"])
def test_never_more_passes_than_codes(pair: Pair, rng: random.Random, form: str) -> None:
    requests = [request(rng, 4, 5, seed) for seed in range(4)]
    for one in requests:
        _, passes = quickly(pair.ours, [one], Sampler(), Jacobi(form, 6))
        assert passes <= one.grid.drawn


def test_passes_yield_the_certain_codes_only(pair: Pair, rng: random.Random) -> None:
    one = request(rng, 3, 4, 5)
    (final,) = draw(pair.ours, [one], Sampler())
    seen = 0
    for found in draw_grids_in_passes(pair.ours, [one], Sampler(), Jacobi(window=4)):
        row = found.codes[0].tolist()
        certain = row.index(-1) if -1 in row else len(row)
        assert row == final[:certain] + [-1] * (12 - certain) and certain > seen
        assert found.missing == 12 - certain
        seen = certain
    assert seen == 12


# ---------------------------------------------------------------------------- the same distribution


@torch.no_grad()
def probabilities(pair: Pair, one: GridRequest, sampler: Sampler) -> dict[tuple[int, ...], float]:
    """Of every picture, by the chain rule over transformers' model, one whole forward a prefix."""
    visual, grid = range(one.grid.visual_start, one.grid.visual_stop), one.grid

    def following(codes: tuple[int, ...]) -> Tensor:
        ids: list[int] = []
        for index, code in enumerate(codes):
            ids.append(visual.start + code)
            if grid.closes_row(index):
                ids.append(grid.end_of_line)
        rows = [
            pair.theirs(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            for prompt in (one.prompt, one.negative)
        ]
        wanted, unwanted = (row[visual.start : visual.stop] for row in rows)
        scores = unwanted + one.guidance * (wanted - unwanted)
        return sampler.keep(scores[None])[0].softmax(-1)

    found = {(): 1.0}
    for _ in range(grid.drawn):
        longer: dict[tuple[int, ...], float] = {}
        for codes, chance in found.items():
            shares = following(codes)
            for code in shares.nonzero()[:, 0].tolist():
                longer[(*codes, code)] = chance * float(shares[code])
        found = longer
    return found


@pytest.mark.parametrize("form", ["seed-exact", "coupled"])
@pytest.mark.parametrize("window", [1, 3])
def test_pictures_are_as_likely_as_they_should_be(
    pair: Pair, rng: random.Random, form: str, window: int
) -> None:
    """Chi-square of 3,000 pictures of 2x2 codes against the enumerated distribution."""
    one, sampler = request(rng, 2, 2, 0, guidance=1.5), Sampler(1.5, top_k=3)
    exact = probabilities(pair, one, sampler)
    assert sum(exact.values()) == pytest.approx(1.0, abs=1e-4) and len(exact) == 3**4
    start = rng.randrange(10**9)
    seen: Counter[tuple[int, ...]] = Counter()
    for first in range(0, 3000, 500):
        requests = [replace(one, seed=start + first + i) for i in range(500)]
        found, _ = quickly(pair.ours, requests, sampler, Jacobi(form, window))
        seen.update(map(tuple, found))
    assert seen.keys() <= exact.keys()
    expected = {codes: 3000 * chance for codes, chance in exact.items()}
    small = sum(value for value in expected.values() if value < 5)
    seen_small = sum(seen[codes] for codes, value in expected.items() if value < 5)
    cells = [(seen[codes], value) for codes, value in expected.items() if value >= 5]
    if small >= 1:
        cells.append((seen_small, small))
    statistic = sum((found - value) ** 2 / value for found, value in cells)
    freedom = len(cells) - 1
    # normal approximation of the chi-square: 5 deviations, about one run in three million
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5, (statistic, freedom)


def test_the_coupled_form_draws_another_picture_of_the_same_kind(
    pair: Pair, rng: random.Random
) -> None:
    """It has no picture in common with the seed-exact form by construction: it says so."""
    requests = [request(rng, 3, 4, seed) for seed in range(6)]
    plain = draw(pair.ours, requests, Sampler())
    coupled, _ = quickly(pair.ours, requests, Sampler(), Jacobi("coupled", 4))
    again, _ = quickly(pair.ours, requests, Sampler(), Jacobi("coupled", 4))
    assert coupled == again != plain
    greedy = Sampler(temperature=0)
    assert quickly(pair.ours, requests, greedy, Jacobi("coupled", 4))[0] == draw(
        pair.ours, requests, greedy
    )


@pytest.mark.parametrize(
    ("form", "window", "says"), [("exact", 4, "form"), ("coupled", -1, "window")]
)
def test_bad_settings(form: str, window: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Jacobi(form, window)
