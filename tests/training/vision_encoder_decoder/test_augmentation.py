"""Variations of pictures: each alone does what it says, and depends on its picture only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.data.order import generator_for
from dromaius.training.vision_encoder_decoder.augmentation import augment
from dromaius.training.vision_encoder_decoder.settings import AugmentationSettings

ALL = {
    "shift": 2.0, "scale": 0.1, "turn": 5.0, "slant": 0.2, "blur": 1.0, "noise": 0.1,
    "contrast": 0.5, "light": 0.3, "inverted": 0.3,
}  # fmt: skip


def draws(number: int, seed: int = 0) -> list[torch.Generator]:
    return [generator_for(seed, index) for index in range(number)]


def varied(pictures: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    return augment(pictures, draws(len(pictures), seed), AugmentationSettings(**settings))


@pytest.fixture
def pictures() -> Tensor:
    """Twenty grey pictures with a bright square each."""
    found = torch.zeros(20, 12, 24, 1, dtype=torch.uint8)
    found[:, 4:8, 10:14] = 255
    return found


def test_nothing_asked_nothing_done(pictures: Tensor) -> None:
    noise = torch.randint(0, 256, (5, 12, 24, 3), dtype=torch.uint8)
    wanted = noise.permute(0, 3, 1, 2) / 255.0
    assert torch.equal(varied(noise), wanted)
    torch.testing.assert_close(varied(noise, plain=1.0, **ALL), wanted, atol=1e-4, rtol=0)
    assert torch.equal(
        varied(pictures), (pictures.permute(0, 3, 1, 2) / 255.0).expand(-1, 3, -1, -1)
    )


def test_a_picture_does_not_depend_on_its_neighbours(pictures: Tensor) -> None:
    whole = varied(pictures, **ALL)
    settings = AugmentationSettings(**ALL)
    for rows in (slice(0, 5), slice(5, 20)):
        part = augment(pictures[rows], draws(20)[rows], settings)
        torch.testing.assert_close(part, whole[rows])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(varied(pictures, seed=1, **ALL), whole)


def centre(values: Tensor) -> Tensor:
    """Mean place of the ink [B,3,H,W] -> [B,2], rows and columns."""
    ink = values[:, 0]
    rows, columns = torch.arange(ink.shape[1]).float(), torch.arange(ink.shape[2]).float()
    total = ink.sum((1, 2))
    down = (ink.sum(2) * rows).sum(1) / total
    return torch.stack([down, (ink.sum(1) * columns).sum(1) / total], 1)


def test_shift_moves_by_so_many_pixels_at_most(pictures: Tensor) -> None:
    moved = centre(varied(pictures, shift=3.0)) - centre(varied(pictures))
    assert moved.abs().max() <= 3.01 and moved.abs().max() > 2
    assert moved.std(0).min() > 0.8  # across and down


def test_turn_and_scale_leave_the_middle_where_it_is(pictures: Tensor) -> None:
    for name, strength in (("turn", 20.0), ("scale", 0.3), ("slant", 0.5)):
        changed = varied(pictures, **{name: strength})
        assert (centre(changed) - centre(varied(pictures))).abs().max() < 0.1, name
        assert not torch.equal(changed, varied(pictures)), name
    grown = varied(pictures, scale=0.3).sum((1, 2, 3)) / varied(pictures).sum((1, 2, 3))
    assert grown.max() > 1.3 and grown.min() < 0.75 and grown.max() < 1.75


def test_light_grain_and_blur(pictures: Tensor) -> None:
    white = torch.full((20, 12, 24, 1), 255, dtype=torch.uint8)
    lit = varied(white, light=0.4)
    assert lit.max() <= 1 and lit.min() >= 0.6 - 1e-6 and lit.min() < 0.8
    grey = torch.full((20, 12, 24, 1), 128, dtype=torch.uint8)
    deviation = (varied(grey, noise=0.1)[:, 0] - 128 / 255).flatten(1).std(1)
    assert 0.06 < deviation.max() <= 0.115 and deviation.min() < 0.04
    soft = varied(pictures, blur=1.0)
    torch.testing.assert_close(
        soft.sum((1, 2, 3)), varied(pictures).sum((1, 2, 3)), rtol=1e-3, atol=0
    )
    assert soft.amax((1, 2, 3)).min() < 0.95


def test_contrast_and_negatives(pictures: Tensor) -> None:
    pale = varied(pictures, contrast=0.5)
    spread = pale.amax((1, 2, 3)) - pale.amin((1, 2, 3))
    assert spread.min() >= 0.5 - 1e-5 and spread.min() < 0.7 and spread.max() > 0.9
    flipped = varied(pictures, inverted=1.0)
    torch.testing.assert_close(flipped, 1 - varied(pictures))


def test_backgrounds_of_transparent_pictures() -> None:
    clear = torch.zeros(200, 2, 2, 4, dtype=torch.uint8)
    clear[:, 0, 0] = torch.tensor([10, 20, 30, 255])
    colours = ((255, 255, 255), (200, 0, 0), (0, 0, 200))
    shown = varied(clear, backgrounds=colours, coloured=0.6) * 255
    torch.testing.assert_close(shown[:, :, 0, 0], torch.tensor([10.0, 20, 30]).expand(200, -1))
    usual = (shown[:, :, 1, 1] == 255).all(1).float().mean()
    red = (shown[:, 0, 1, 1] == 200).float().mean()
    assert usual == pytest.approx(0.4, abs=0.1) and red == pytest.approx(0.3, abs=0.1)
