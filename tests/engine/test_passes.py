"""One drawing in every mode: what comes out, what it took, and what "auto" makes of a machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine import passes
from dromaius.engine.canvas import GridRequest
from dromaius.engine.passes import MODES, TRIAL, Passes
from dromaius.engine.sampling import Sampler
from tests.engine.small import Counting, Pair, draw, request
from tests.engine.test_jacobi import Sure


@pytest.fixture
def rng(rng_seed: int) -> random.Random:
    return random.Random(rng_seed)


@pytest.fixture
def mixed(rng: random.Random) -> list[GridRequest]:
    """Sizes, guidance for all, a part and none of a picture, min_p."""
    return [
        request(rng, 6, 7, 11),
        request(rng, 5, 2, 12, guidance=1.0),
        request(rng, 2, 6, 13, min_p=0.2),
        request(rng, 4, 4, 14, guided=(0.25, 0.75)),
    ]


def finished(codes: Tensor, requests: list[GridRequest]) -> list[list[int]]:
    return [codes[i, : one.grid.drawn].tolist() for i, one in enumerate(requests)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("begun", [0, 9])
def test_every_mode_draws_and_counts(
    pair: Pair, mixed: list[GridRequest], mode: str, begun: int
) -> None:
    """All but the coupled one draw what plain decoding draws; passes are the model's forwards."""
    plain = draw(pair.ours, mixed, Sampler())
    requests = [replace(r, begun=codes[:begun]) for r, codes in zip(mixed, plain, strict=True)]
    model = Counting(pair.ours)
    run = Passes(model, requests, Sampler(), mode, 5)
    left = run.missing
    assert left == 42 - begun
    for codes in run:
        row = codes[0].tolist()
        assert run.missing < left and row.index(-1) if run.missing else -1 not in row
        left = run.missing
    assert left == 0 and run.count == len(model.shapes)
    assert run.chosen in (("off", "seed-exact") if mode == "auto" else (mode,))
    assert bool(run.reason) == (mode == "auto")
    found = finished(codes, requests)
    assert [codes[:begun] for codes in found] == [codes[:begun] for codes in plain]
    assert (found == plain) == (mode != "coupled")


@pytest.mark.parametrize("mode", MODES)
def test_what_is_finished_is_shown(pair: Pair, rng: random.Random, mode: str) -> None:
    whole = replace(request(rng, 2, 3, 1), begun=[5, 4, 3, 2, 1, 0])
    model = Counting(pair.ours)
    run = Passes(model, [whole], Sampler(), mode)
    assert [codes.tolist() for codes in run] == [[[5, 4, 3, 2, 1, 0]]]
    assert (run.count, run.missing, model.shapes) == (0, 0, [])


def test_unknown_modes_are_named(pair: Pair, rng: random.Random) -> None:
    with pytest.raises(ValueError, match="one of off, seed-exact, coupled, auto, got 'fast'"):
        Passes(pair.ours, [request(rng, 2, 3, 1)], Sampler(), "fast")


# ------------------------------------------------------------------------------------------- resume


def test_a_coupled_drawing_goes_on_from_any_pass(pair: Pair, mixed: list[GridRequest]) -> None:
    """The last pass is fed again and gives what it gave; from then on all is as it was."""
    run = Passes(pair.ours, mixed, Sampler(), "coupled", 4)
    stops = [(codes.clone(), run.last, run.missing) for codes in run]
    whole, total = stops[-1][0], run.count
    assert stops[0][1] is None and len(stops) == total
    for done, (codes, last, missing) in [*enumerate(stops, start=1)][1:-1:5]:
        begun = [[code for code in row if code >= 0] for row in codes.tolist()]
        requests = [replace(r, begun=b) for r, b in zip(mixed, begun, strict=True)]
        again = Passes(pair.ours, requests, Sampler(), "coupled", 4, last)
        first, *more = [(codes.clone(), again.missing) for codes in again]
        assert torch.equal(first[0], codes) and first[1] == missing
        assert torch.equal(more[-1][0], whole)
        assert again.count == total - done + 2  # a prefill, and the last pass


# --------------------------------------------------------------------------------------------- auto


class Clock:
    """Time passes only in the model: so much a pass, and so much a token."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch, a_pass: float, a_token: float):
        self.model, self.config, self.now = model, model.config, 0.0
        self.a_pass, self.a_token = a_pass, a_token
        monkeypatch.setattr(passes.time, "perf_counter", lambda: self.now)

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.now += self.a_pass + self.a_token * input_ids.shape[1]
        return self.model(input_ids, *args, **kwargs)

    def parameters(self) -> Iterator[Any]:
        return self.model.parameters()


@pytest.mark.parametrize(
    ("a_pass", "a_token", "chosen"), [(1.0, 0.0, "seed-exact"), (0.0, 1.0, "off")]
)
def test_auto_takes_what_is_faster(
    pair: Pair,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    a_pass: float,
    a_token: float,
    chosen: str,
) -> None:
    """Drafts that always hold, five a pass: they pay where a pass costs, not where a token does."""
    sure = Counting(Sure(pair.ours, 7))  # type: ignore[arg-type]  # it counts any callable
    one = request(rng, 12, 12, 1)
    greedy = Sampler(temperature=0)
    run = Passes(Clock(sure, monkeypatch, a_pass, a_token), [one], greedy, "auto", 5)
    *_, codes = run
    assert codes.tolist() == [[7] * 144]
    assert run.chosen == chosen and run.count == len(sure.shapes)
    # 8 codes singly, and the pass for a ninth; then 1 and 7 passes of 6; and what is left
    left = 144 - TRIAL - 1 - 6 * (TRIAL - 1)
    rest = -(-left // 6) if chosen == "seed-exact" else left
    assert run.count == 2 * TRIAL + 1 + rest
    rates = {"seed-exact": ("6 codes/s (6.0 in 1000.0 ms)", "1 codes/s (1.0 in 1000.0 ms)")}
    for part in rates.get(chosen, ("6.0 in 7000.0 ms", "1.0 in 1000.0 ms")):
        assert part in run.reason, run.reason


def test_what_others_do_between_passes_does_not_count(
    pair: Pair, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = Sure(pair.ours, 7)
    clock = Clock(sure, monkeypatch, 1.0, 0.0)
    run = Passes(clock, [request(rng, 8, 8, 1)], Sampler(temperature=0), "auto", 5)
    for _ in run:
        clock.now += 1000.0
    assert "1.0 in 1000.0 ms" in run.reason


def test_auto_tries_nothing_where_little_is_left(pair: Pair, rng: random.Random) -> None:
    run = Passes(pair.ours, [request(rng, 3, 4, 1)], Sampler(), "auto")
    assert len(list(run)) == run.count == 12
    assert (run.chosen, run.reason) == ("off", "12 codes are too few to try more")
