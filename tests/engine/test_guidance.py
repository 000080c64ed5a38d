"""Guidance on the allowed ids' logits is upstream's formula over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import MinPLogitsWarper

from dromaius.engine.guidance import guide, plausible

VOCABULARY, ALLOWED = 400, slice(120, 320)


def branches(rng_seed: int, rows: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rng_seed)
    c, u = torch.randn(2, rows, VOCABULARY, generator=generator) * 4
    return c, u


def upstream(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """log-softmax of both over all ids, combined, then everything but the allowed ids masked."""
    c, u = conditional.log_softmax(-1), unconditional.log_softmax(-1)
    scores = scale * (c - u) + u if scale != 1 else c
    mask = torch.full_like(scores, -torch.inf)
    mask[:, ALLOWED] = 0
    return (scores + mask)[:, ALLOWED]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, 7.5])
def test_same_order_and_softmax_as_upstream(scale: float, rng_seed: int) -> None:
    c, u = branches(rng_seed)
    theirs = upstream(c.double(), u.double(), scale)
    ours = guide(c[:, ALLOWED], u[:, ALLOWED], torch.full((len(c),), scale))
    assert ours.dtype == torch.float32
    assert ours.argmax(-1).equal(theirs.argmax(-1))
    torch.testing.assert_close(ours.softmax(-1).double(), theirs.softmax(-1), rtol=1e-4, atol=1e-7)


def test_each_row_has_its_own_scale(rng_seed: int) -> None:
    c, u = branches(rng_seed)
    scales = torch.tensor([1.0, 3.0, 0.0, 5.0, 1.0])
    together = guide(c, u, scales)
    for row, scale in enumerate(scales):
        assert together[row].equal(guide(c[row : row + 1], u[row : row + 1], scale[None])[0])
    assert together[0].equal(c[0]) and together[4].equal(c[4])


def test_a_scale_of_one_ignores_a_broken_branch() -> None:
    c, u = torch.tensor([[1.0, 2.0]]), torch.tensor([[torch.nan, torch.inf]])
    assert guide(c, u, torch.tensor([1.0])).tolist() == [[1.0, 2.0]]


def test_half_precision_is_combined_in_float32(rng_seed: int) -> None:
    c, u = (branch.bfloat16() for branch in branches(rng_seed))
    scales = torch.full((len(c),), 3.0)
    assert guide(c, u, scales).equal(guide(c.float(), u.float(), scales))


@pytest.mark.parametrize("min_p", [0.01, 0.2, 0.9])
def test_min_p_keeps_what_transformers_keeps(min_p: float, rng_seed: int) -> None:
    scores = branches(rng_seed)[0]
    kept = MinPLogitsWarper(min_p)(None, scores.clone()).isfinite()
    assert 0 < kept.sum() < kept.numel()
    assert plausible(scores, torch.full((len(scores),), min_p)).equal(kept)


def test_min_p_looks_at_each_row_and_zero_keeps_all(rng_seed: int) -> None:
    scores = branches(rng_seed)[0]
    limits = torch.tensor([0.0, 0.3, 1.0, 0.0, 0.05])
    kept = plausible(scores, limits)
    shares = scores.softmax(-1) / scores.softmax(-1).amax(-1, keepdim=True)
    expected = shares >= limits[:, None] * (1 - 1e-6)
    assert kept.equal(expected) and kept[0].all() and kept[3].all()
    assert kept[2].sum() == 1
