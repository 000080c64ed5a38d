"""Pictures drawn in a batch are those of transformers' generate, and of a slow loop alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine import rows
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.kv_cache import SlotCache
from dromaius.engine.sampling import Sampler, gumbel
from tests.engine.small import (
    END,
    EOF,
    EOL,
    EOS,
    IMAGE,
    PAD,
    VISUAL,
    Counting,
    Pair,
    draw,
    draw_slowly,
    grid,
    picture_ids,
    prompt,
    request,
    words,
)

GREEDY = Sampler(temperature=0)


@pytest.fixture
def rng(rng_seed: int) -> random.Random:
    return random.Random(rng_seed)


# ------------------------------------------------------------------- against transformers' generate


def seeds_prefix_rule(height: int, width: int) -> Callable[[int, Tensor], list[int]]:
    """The rule of seed 000 over our made-up ids."""

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        position = torch.nonzero(input_ids == IMAGE, as_tuple=True)[0][0]
        offset = int(input_ids.shape[0] - position)
        if offset % (width + 1) == 0:
            return [EOL]
        end = (width + 1) * height
        forced = {end + 1: [EOF], end + 2: [END], end + 3: [EOS]}
        return forced.get(offset, [PAD] if offset > end + 3 else list(VISUAL))

    return allowed


def left_padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = [[PAD] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(5, 5), (3, 7)])
def test_greedy_equals_transformers_generate(
    pair: Pair, rng: random.Random, height: int, width: int
) -> None:
    """Two prompts and two negative prompts of unequal lengths, padded left on their side."""
    requests = [
        GridRequest(
            prompt(words(rng, wanted), height, width),
            grid(height, width),
            seed=0,
            negative=prompt(words(rng, unwanted), height, width),
            guidance=3.0,
        )
        for wanted, unwanted in ((4, 9), (7, 2))
    ]
    ids, mask = left_padded([list(r.prompt) for r in requests])
    negative_ids, negative_mask = left_padded([list(r.negative) for r in requests])
    theirs = pair.theirs.generate(
        ids,
        attention_mask=mask,
        negative_prompt_ids=negative_ids,
        negative_prompt_attention_mask=negative_mask,
        guidance_scale=3.0,
        prefix_allowed_tokens_fn=seeds_prefix_rule(height, width),
        do_sample=False,
        max_new_tokens=grid(height, width).length,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )[:, ids.shape[1] :]
    ours = draw(pair.ours, requests, GREEDY)
    assert [picture_ids(codes, height, width) for codes in ours] == theirs.tolist()


# --------------------------------------------------------------------------- against the slow loop


def test_greedy_equals_the_slow_loop_in_a_mixed_batch(pair: Pair, rng: random.Random) -> None:
    """Sizes, lengths, guidance, negative prompts and min_p differ from row to row."""
    requests = [
        request(rng, 3, 4, 0, guidance=3.0),
        request(rng, 5, 2, 0, guidance=1.0),
        request(rng, 1, 1, 0, guidance=7.5),
        request(rng, 2, 6, 0, guidance=0.0),
        request(rng, 4, 4, 0, guidance=4.0, min_p=0.3),
        request(rng, 3, 3, 0, guidance=1.0, min_p=0.5),
    ]
    ours = draw(pair.ours, requests, GREEDY)
    assert ours == [draw_slowly(pair.theirs, r) for r in requests]


def test_the_settings_above_matter(pair: Pair, rng: random.Random) -> None:
    """Each of guidance, negative prompt and min_p changes the picture, so the test could fail."""
    base = request(rng, 4, 6, 0, guidance=3.0)
    one = GridRequest(base.prompt, base.grid, 0, base.negative, 1.0)
    other = GridRequest(base.prompt, base.grid, 0, prompt(words(rng, 5), 4, 6), 3.0)
    floor = GridRequest(base.prompt, base.grid, 0, base.negative, 3.0, min_p=1.0)
    pictures = [draw(pair.ours, [r], GREEDY)[0] for r in (base, one, other)]
    assert pictures[0] != pictures[1] and pictures[0] != pictures[2]
    # min_p = 1 leaves only the likeliest id before guidance: guidance has nothing to choose from
    assert draw(pair.ours, [floor], GREEDY)[0] == pictures[1]


def test_sampled_equals_the_slow_loop_with_documented_noise(pair: Pair, rng: random.Random) -> None:
    """Noise of (seed, offset with line ends counted, full id), top-k after the mask."""
    requests = [request(rng, 3, 4, seed=9), request(rng, 4, 3, seed=10, guidance=1.0)]

    def choose(seed: int) -> Callable[[Tensor, int], int]:
        def choose_one(scores: Tensor, offset: int) -> int:
            scores = scores / 0.8
            scores = scores.masked_fill(scores < scores.topk(20).values[-1], -torch.inf)
            ids = torch.arange(len(scores))
            noise = gumbel(torch.tensor([seed]), torch.tensor([offset]), ids)[0]
            return int((scores + noise).argmax())

        return choose_one

    ours = draw(pair.ours, requests, Sampler(0.8, top_k=20))
    assert ours == [draw_slowly(pair.theirs, r, choose(r.seed)) for r in requests]


# ------------------------------------------------------------------------------------ in a batch


def test_the_same_picture_alone_and_in_a_batch(pair: Pair, rng: random.Random) -> None:
    sizes = [(3, 3), (6, 2), (1, 9), (4, 5), (2, 2)]
    requests = [
        request(rng, h, w, seed=50 + i, guidance=rng.choice([1.0, 3.0]))
        for i, (h, w) in enumerate(sizes)
    ]
    sampler = Sampler(top_k=30)
    together = draw(pair.ours, requests, sampler)
    backwards = draw(pair.ours, requests[::-1], sampler)[::-1]
    assert together == backwards == [draw(pair.ours, [r], sampler)[0] for r in requests]


def test_the_seed_decides(pair: Pair, rng: random.Random) -> None:
    base = request(rng, 5, 5, seed=3)
    again = GridRequest(base.prompt, base.grid, 3, base.negative, base.guidance)
    other = GridRequest(base.prompt, base.grid, 4, base.negative, base.guidance)
    first, second, third = draw(pair.ours, [base, again, other], Sampler())
    assert first == second != third


def test_stale_slots_never_matter(
    pair: Pair, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that starts full of huge numbers draws the same pictures."""

    class Dirty(SlotCache):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            for tensor in (*self.keys, *self.values):
                tensor.copy_(torch.randn_like(tensor) * 1e30)

    requests = [request(rng, 3, 5, seed=1), request(rng, 5, 2, seed=2, guidance=1.0)]
    expected = draw(pair.ours, requests, Sampler())
    monkeypatch.setattr(rows, "SlotCache", Dirty)
    assert draw(pair.ours, requests, Sampler()) == expected


# ---------------------------------------------------------------------------------- what it costs


def forwards(pair: Pair, requests: list[GridRequest]) -> list[tuple[int, int]]:
    model = Counting(pair.ours)
    draw(model, requests, GREEDY)
    return model.shapes


def test_line_ends_cost_no_forward_of_their_own(pair: Pair, rng: random.Random) -> None:
    shapes = forwards(pair, [request(rng, 4, 5, 0)])
    assert len(shapes) == 4 * 5
    fed = [length for _, length in shapes[1:]]  # the first is the prefill
    assert fed.count(2) == 4 - 1 and fed.count(1) == 4 * 5 - 1 - 3


def test_a_batch_costs_its_longest_member(pair: Pair, rng: random.Random) -> None:
    short, long = request(rng, 3, 3, 0), request(rng, 4, 6, 0)
    alone = [len(forwards(pair, [r])) for r in (short, long)]
    assert alone == [9, 24]
    assert len(forwards(pair, [short, long])) <= max(alone) + 1


def test_guidance_runs_in_the_same_forward(pair: Pair, rng: random.Random) -> None:
    requests = [request(rng, 2, 3, 0), request(rng, 3, 3, 0)]
    assert {rows for rows, _ in forwards(pair, requests)} == {4}


def test_guidance_of_one_has_no_unconditional_rows(pair: Pair, rng: random.Random) -> None:
    requests = [request(rng, 2, 3, 0, guidance=1.0), request(rng, 3, 3, 0, guidance=1.0)]
    assert {rows for rows, _ in forwards(pair, requests)} == {2}


def test_only_visual_ids_reach_the_head(pair: Pair, rng: random.Random) -> None:
    """No logits but those of the visual ids, of one token a row, are ever computed."""
    seen: list[tuple[int, ...]] = []

    class Watching(Counting):
        def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            logits = super().__call__(input_ids, *args, **kwargs)
            seen.append(tuple(logits.shape))
            return logits

    draw(Watching(pair.ours), [request(rng, 3, 3, 0)], GREEDY)
    assert set(seen) == {(2, 1, len(VISUAL))}


# ----------------------------------------------------------------------------------- as it grows


def test_yields_the_same_tensor_that_fills(pair: Pair, rng: random.Random) -> None:
    requests = [request(rng, 2, 2, 7), request(rng, 3, 2, 8)]
    final = draw(pair.ours, requests, Sampler())
    seen: list[Tensor] = []
    identities = set()
    for codes in draw_grids(pair.ours, requests, Sampler()):
        identities.add(id(codes))
        seen.append(codes.clone())
    assert len(seen) == 6 and len(identities) == 1
    for step, codes in enumerate(seen, start=1):
        for row, whole in zip(codes.tolist(), final, strict=True):
            drawn = min(step, len(whole))
            assert row == whole[:drawn] + [-1] * (6 - drawn)


def test_begun_pictures_end_as_if_never_stopped(pair: Pair, rng: random.Random) -> None:
    """From any number of codes, alone and in a batch that stands at different places."""
    requests = [request(rng, 3, 4, 7), request(rng, 2, 3, 8, guidance=1.0, min_p=0.05)]
    sampler = Sampler(0.9, top_k=40)
    final = draw(pair.ours, requests, sampler)
    for done in range(13):
        halves = [
            replace(one, begun=codes[: min(done, len(codes))])
            for one, codes in zip(requests, final, strict=True)
        ]
        assert draw(pair.ours, halves, sampler) == final
        assert draw(pair.ours, halves[:1], sampler) == final[:1]
    places = [replace(requests[0], begun=final[0][:9]), replace(requests[1], begun=final[1][:1])]
    assert draw(pair.ours, places, sampler) == final


def test_a_begun_picture_costs_one_prefill_and_what_is_missing(
    pair: Pair, rng: random.Random
) -> None:
    base = request(rng, 4, 5, 3)
    codes = draw(pair.ours, [base], GREEDY)[0]
    shapes = forwards(pair, [replace(base, begun=codes[:13])])
    assert len(shapes) == 20 - 13
    longest = max(len(base.prompt), len(base.negative))
    assert shapes[0] == (2, longest + 13 + 13 // 5)  # line ends are fed with the rest
    assert forwards(pair, [replace(base, begun=codes)]) == []  # nothing is missing


def test_begun_codes_matter(pair: Pair, rng: random.Random) -> None:
    """What follows depends on them: some of ten other beginnings end otherwise."""
    base = request(rng, 3, 4, 3, guidance=1.0)
    codes = draw(pair.ours, [base], Sampler())[0]
    others = [[rng.randrange(len(VISUAL)) for _ in range(6)] for _ in range(10)]
    found = draw(pair.ours, [replace(base, begun=other) for other in others], Sampler())
    assert [one[:6] for one in found] == others
    assert any(one[6:] != codes[6:] for one in found)


def test_equal_prompts_are_read_once(pair: Pair, rng: random.Random) -> None:
    base = request(rng, 3, 4, 0)
    requests = [replace(base, seed=seed) for seed in range(3)]
    shapes = forwards(pair, requests)
    assert shapes[0][0] == 2 and {rows for rows, _ in shapes[1:]} == {6}
    other = request(rng, 2, 2, 5)
    mixed = [requests[0], other, requests[1], requests[2]]
    together = draw(pair.ours, mixed, Sampler())
    assert together == [draw(pair.ours, [one], Sampler())[0] for one in mixed]
    assert forwards(pair, mixed)[0][0] == 4


def test_guidance_for_a_part_of_the_picture(pair: Pair, rng: random.Random) -> None:
    """Codes outside of the part are those of the conditional branch, step for step."""
    base = request(rng, 4, 5, 0, guidance=4.0)
    part = replace(base, guided=(0.25, 0.6))
    codes = draw(pair.ours, [part], GREEDY)[0]
    for index in range(20):
        scale = 4.0 if 5 <= index < 12 else 1.0
        one = replace(base, guidance=scale, begun=codes[:index])
        assert draw(pair.ours, [one], GREEDY)[0][index] == codes[index]
    assert draw(pair.ours, [replace(base, guided=(0.0, 1.0))], GREEDY) == draw(
        pair.ours, [base], GREEDY
    )
    # behind the part the unwanted rows are given up
    assert [rows for rows, _ in forwards(pair, [part])] == [2] * 12 + [1] * 8
    mixed = [part, request(rng, 3, 3, 1, guidance=2.0)]
    assert draw(pair.ours, mixed, GREEDY) == [draw(pair.ours, [one], GREEDY)[0] for one in mixed]


# -------------------------------------------------------------------------------------- bfloat16


def test_bfloat16_draws_the_likeliest_within_rounding(pair: Pair, rng: random.Random) -> None:
    """Each code drawn in bfloat16 is near the best of a float32 forward over the picture."""
    model = copy.deepcopy(pair.ours).bfloat16()
    r = request(rng, 4, 5, 0, guidance=1.0)
    codes = draw(model, [r], GREEDY)[0]
    ids = picture_ids(codes, 4, 5)
    exact = copy.deepcopy(model).float()  # the rounded weights, exact arithmetic
    with torch.no_grad():
        logits = exact(torch.tensor([[*r.prompt, *ids]]))[0, len(r.prompt) - 1 :]
    visual = logits[:, VISUAL.start : VISUAL.stop]
    spread = float(visual.std())
    for offset, token in enumerate(ids):
        if token in VISUAL:
            gap = visual[offset].max() - visual[offset, token - VISUAL.start]
            assert gap <= 0.25 * spread, (offset, float(gap), spread)
