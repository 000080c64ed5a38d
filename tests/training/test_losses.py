"""Objectives against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from dromaius.training.losses import (
    IGNORED,
    commitment_loss,
    flat_loss,
    next_token_loss,
    picture_loss,
    structural_similarity,
)


def test_only_labelled_positions_count() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(3.0)  # chances 1/6, 1/6, 1/2, 1/6
    logits[0, 1, 0] = 99.0  # not asked for
    labels = torch.tensor([[2, IGNORED, 1]])
    expected = (math.log(2.0) + math.log(4.0)) / 2
    assert math.isclose(next_token_loss(logits, labels).item(), expected, rel_tol=1e-6)


def test_picture_loss_by_hand() -> None:
    target = torch.zeros(1, 1, 2, 2)
    pixels = torch.tensor([[[[0.0, 0.5], [0.0, 0.0]]]])
    # |error| 0.125, squared 0.0625; across: (0.5 + 0) / 2, down: (0 + 0.5) / 2
    expected = 0.125 + 2 * 0.0625 + 0.5 * (0.25 + 0.25)
    assert math.isclose(picture_loss(pixels, target).item(), expected, rel_tol=1e-6)


def test_commitment_moves_the_encoder_only() -> None:
    latents = torch.tensor([1.0, 3.0], requires_grad=True)
    quantized = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = commitment_loss(latents, quantized)
    loss.backward()
    assert loss.item() == 2.5
    assert latents.grad is not None and latents.grad.tolist() == [1.0, 2.0]
    assert quantized.grad is None


def test_weights_make_a_weighted_mean() -> None:
    logits = torch.zeros(3, 4)
    logits[0, 2] = math.log(3.0)
    labels = torch.tensor([2, IGNORED, 1])
    weights = torch.tensor([3.0, 50.0, 1.0])
    expected = (3 * math.log(2.0) + math.log(4.0)) / 4
    assert math.isclose(next_token_loss(logits, labels, weights).item(), expected, rel_tol=1e-6)


def similarity_by_definition(one: np.ndarray, other: np.ndarray, peak: float) -> float:
    """Wang et al. 2004, equations 13 to 16, window by window: [C,H,W] each."""
    place = np.arange(11) - 5.0
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    scores = []
    for a, b in zip(one.astype(np.float64), other.astype(np.float64), strict=True):
        for y in range(a.shape[0] - 10):
            for x in range(a.shape[1] - 10):
                p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                joint = (window * (p - mp) * (q - mq)).sum()
                alike = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
                scores.append(alike * (2 * joint + c2) / (vp + vq + c2))
    return float(np.mean(scores))


def test_structural_similarity_by_its_definition() -> None:
    draw = np.random.default_rng(0)
    one = draw.uniform(-1, 1, (2, 3, 14, 13)).astype(np.float32)
    other = np.clip(one + draw.normal(0, [[[[0.1]]], [[[0.6]]]], one.shape), -1, 1)
    got = structural_similarity(torch.tensor(one), torch.tensor(other, dtype=torch.float32), 2.0)
    expected = [similarity_by_definition(a, b, 2.0) for a, b in zip(one, other, strict=True)]
    assert got.tolist() == pytest.approx(expected, abs=1e-4)
    assert 1 > expected[0] > 0.9 > expected[1] > 0.1  # the noisier, the less alike
    itself = structural_similarity(torch.tensor(one), torch.tensor(one), 2.0)
    assert itself.tolist() == pytest.approx([1.0, 1.0])


def test_flat_loss_by_hand() -> None:
    """Cells of 2x2 pixels. First picture: white but for one black pixel in the last cell, so that
    this cell and its three neighbours are not empty; second: all grey."""
    pixels = torch.ones(2, 3, 8, 8)
    pixels[0, :, 7, 7] = -1.0
    pixels[1] = 0.5
    latents = torch.zeros(2, 1, 4, 4)
    latents[0, 0, 0, 0] = 12.0  # the mean of the 12 white cells is 1
    latents[0, 0, 3, 3] = 99.0  # not empty
    latents[1, 0, 1, 1] = 16.0  # the mean of the 16 grey cells is 1
    latents.requires_grad_()
    loss = flat_loss(latents, pixels)
    white, grey = 11.0**2 + 11 * 1.0, 15.0**2 + 15 * 1.0
    assert loss.item() == pytest.approx((white + grey) / 28)
    loss.backward()
    assert latents.grad is not None
    assert latents.grad[0, 0, 0, 0].item() == pytest.approx(2 * 11 / 28)  # the mean stands still
    assert latents.grad[0, 0, 3, 3].item() == 0.0


def test_flat_loss_without_an_empty_cell_is_zero() -> None:
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert flat_loss(torch.randn(1, 2, 4, 4), pixels).item() == 0.0
