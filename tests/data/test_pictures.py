"""Pictures on backgrounds, against values worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dromaius.data.pictures import Pictures, PictureSettings
from dromaius.errors import ConfigError, InputError

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two 4x4 pictures: one opaque grey, one with a single half-transparent green pixel."""
    pictures = np.zeros((2, 4, 4, 4), np.uint8)
    pictures[0] = (100, 100, 100, 255)
    pictures[1, 1, 2] = (0, 255, 0, 128)
    np.save(tmp_path / "pictures.npy", pictures)
    lines = [json.dumps({"kind": kind, "held": kind == "grey"}) for kind in ("grey", "dot")]
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines))
    return tmp_path


def load(folder: Path, **settings: Any) -> Pictures:
    return Pictures(PictureSettings(folder=str(folder), **settings))


def levels(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels + 1) * 127.5


def test_alpha_mixes_with_the_background(folder: Path) -> None:
    pixels = levels(load(folder, backgrounds=(RED,)).plain(torch.tensor([1])))
    share = 128 / 255
    assert pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    expected = torch.tensor([255 * (1 - share), 255 * share, 0])
    torch.testing.assert_close(pixels[0, :, 1, 2], expected)


def test_selection_by_fields(folder: Path) -> None:
    assert len(load(folder)) == 2
    assert load(folder, keep={"kind": ["dot"]}).records[0]["kind"] == "dot"
    assert load(folder, drop={"held": [True]}).records[0]["kind"] == "dot"
    with pytest.raises(ConfigError, match="matches the recipe"):
        load(folder, keep={"kind": ["cat"]})
    with pytest.raises(ConfigError, match="'colour'"):
        load(folder, keep={"colour": ["red"]})
    with pytest.raises(InputError, match="pictures.npy"):
        load(folder / "absent")


def test_some_come_twice_in_an_epoch(folder: Path) -> None:
    pictures = load(folder, twice={"kind": ["dot"]})
    assert [one["kind"] for one in pictures.records] == ["grey", "dot", "dot"]
    for epoch in range(3):
        corners = levels(pictures.batch(epoch, 3, seed=0))[:, 0, 0, 0]
        assert sorted(corners.round().tolist()) == [100, 255, 255]  # grey; white behind the dot
    with pytest.raises(ConfigError, match="'colour'"):
        load(folder, twice={"colour": ["red"]})


def test_shifts_move_the_dot_and_uncover_background(folder: Path) -> None:
    pictures = load(folder, keep={"kind": ["dot"]}, backgrounds=(RED,), shift=1, shifted=1.0)
    seen = set()
    for index in range(20):
        for picture in levels(pictures.batch(index, 4, seed=0)):
            rows, columns = (picture[1] > 0).nonzero(as_tuple=True)
            assert len(rows) == 1
            seen.add((int(rows[0]) - 1, int(columns[0]) - 2))
    assert seen == {(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}


def test_other_backgrounds_come_as_often_as_asked(folder: Path) -> None:
    pictures = load(folder, keep={"kind": ["dot"]}, backgrounds=(RED, BLUE), coloured=0.25)
    corners = torch.cat([levels(pictures.batch(i, 64, seed=0))[:, 2, 0, 0] for i in range(8)])
    assert 0.18 < (corners == 255).float().mean() < 0.32


def test_a_mosaic_is_four_at_half_size(folder: Path) -> None:
    pictures = load(folder, keep={"kind": ["grey"]}, mosaic=1.0)
    assert (levels(pictures.batch(0, 2, seed=0)).round() == 100).all()
    dots = load(folder, keep={"kind": ["dot"]}, backgrounds=(RED,), mosaic=1.0)
    picture = levels(dots.batch(0, 1, seed=0))[0, 1]
    assert (picture > 0).nonzero().tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    torch.testing.assert_close(picture[0, 1], torch.tensor(128.0 / 4))


def test_a_batch_is_a_function_of_its_number_and_the_seed(folder: Path) -> None:
    settings = {"backgrounds": (RED, BLUE), "coloured": 0.5, "shift": 1, "shifted": 0.5}
    one, other = load(folder, **settings), load(folder, **settings)
    one.batch(0, 8, seed=1)
    assert torch.equal(one.batch(3, 8, seed=1), other.batch(3, 8, seed=1))
    assert not torch.equal(one.batch(3, 8, seed=1), one.batch(3, 8, seed=2))
    assert not torch.equal(one.batch(3, 8, seed=1), one.batch(4, 8, seed=1))
