"""Objectives against values worked out by hand."""

import math

import torch

from dromaius.training.losses import IGNORED, commitment_loss, next_token_loss, picture_loss


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
