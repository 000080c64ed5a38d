"""Muon and the split between Muon and AdamW."""

import math

import pytest
import torch
from torch import nn

from dromaius.training.optimizer import (
    Muon,
    OptimizerSettings,
    build_optimizers,
    load_state_tensors,
    orthogonalise,
    set_rate,
    state_tensors,
    warmup_cosine,
)


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (2, 24, 24)])
def test_singular_vectors_stay_and_values_come_close_to_one(
    shape: tuple[int, int, int], rng_seed: int
) -> None:
    draw = torch.Generator().manual_seed(rng_seed)
    # Singular values known by construction, spread over 1..5.
    u = torch.linalg.qr(torch.randn(shape[0], shape[1], shape[1], generator=draw)).Q
    v = torch.linalg.qr(torch.randn(shape[0], shape[2], shape[2], generator=draw)).Q
    rank = min(shape[1:])
    values = torch.linspace(1, 5, rank)
    x = u[..., :rank] * values @ v[..., :rank].mT
    y = orthogonalise(x).float()
    # In the basis of x's own singular vectors the result is close to the identity.
    core = u[..., :rank].mT @ y @ v[..., :rank]
    diagonal = core.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0.6).all() and (diagonal < 1.3).all()
    assert (core - torch.diag_embed(diagonal)).abs().max() < 0.05


def test_first_step_of_muon_by_hand() -> None:
    # A rank-one gradient u v^T has the orthogonal factor itself up to the iteration's gain.
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 2.0, 2.0]) / 3
    p = nn.Parameter(torch.ones(2, 3))
    p.grad = 7.0 * torch.outer(u, v)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    x = torch.tensor(1.0)
    for _ in range(5):  # what five iterations make of a singular value of one
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    expected = (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(3) * x * torch.outer(u, v)
    torch.testing.assert_close(p.detach(), expected, atol=5e-4, rtol=0)


def test_nesterov_momentum_by_hand() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    muon = Muon([p], lr=0.0, momentum=0.9)
    for gradient in (1.0, 3.0):
        p.grad = torch.full((2, 2), gradient)
        update = muon._momentum(p, 0.9)
    average = 0.9 * (0.1 * 1.0) + 0.1 * 3.0
    torch.testing.assert_close(muon.state[p]["momentum"], torch.full((2, 2), average))
    torch.testing.assert_close(update, torch.full((2, 2), 0.1 * 3.0 + 0.9 * average))


def test_a_convolution_counts_as_a_matrix() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3))
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    gradient = torch.randn(8, 4, 3, 3)
    kernel.grad, flat.grad = gradient, gradient.flatten(1)
    Muon([kernel], lr=0.1).step()
    Muon([flat], lr=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), flat.detach(), atol=1e-6, rtol=0)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.block = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 5, bias=False)


def test_only_block_matrices_are_muons_and_the_rest_equals_torchs_adamw() -> None:
    torch.manual_seed(0)
    model = Tiny()
    settings = OptimizerSettings(muon_lr=0.1, adamw_lr=0.01, adamw_weight_decay=0.1)
    muon, adamw = build_optimizers(model, settings)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model.block.weight)]
    rest = [p for p in model.parameters() if p is not model.block.weight]
    copies = [nn.Parameter(p.detach().clone()) for p in rest]
    reference = torch.optim.AdamW(copies, lr=0.005, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        for p, copy in zip(rest, copies, strict=True):
            p.grad = torch.randn_like(p)
            copy.grad = p.grad.clone()
        set_rate([muon, adamw], 0.5)
        adamw.step()
        reference.step()
    for p, copy in zip(rest, copies, strict=True):
        assert torch.equal(p, copy)


def test_state_survives_as_named_tensors() -> None:
    torch.manual_seed(0)
    one, other = Tiny(), Tiny()
    other.load_state_dict(one.state_dict())
    settings = OptimizerSettings(muon_lr=0.1, adamw_lr=0.01)
    ones, others = build_optimizers(one, settings), build_optimizers(other, settings)

    def step(model: Tiny, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        torch.manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for optimizer in optimizers:
            optimizer.step()

    step(one, ones, 1)
    other.load_state_dict(one.state_dict())
    for source, target in zip(ones, others, strict=True):
        saved = {k: v.clone() for k, v in state_tensors(one, source).items()}
        load_state_tensors(other, target, saved)
    step(one, ones, 2)
    step(other, others, 2)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_schedule_by_hand() -> None:
    rates = [warmup_cosine(step, steps=7, warmup=2, final=0.1) for step in range(7)]
    half = 0.1 + 0.9 * 0.5
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[4] == pytest.approx(half)
    assert rates[6] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[2:], rates[3:], strict=False))


def test_rates_are_held_before_they_fall() -> None:
    rates = [warmup_cosine(step, steps=10, warmup=2, final=0.0, hold=0.5) for step in range(10)]
    assert rates[:7] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert rates[7:] == pytest.approx([0.75, 0.25, 0.0])  # half cosine: a third, two thirds, all
