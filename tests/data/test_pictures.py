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


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 4, 4, 4), np.float32), r"uint8 \[N,S,S,4\], not float32 \[2, 4, 4, 4\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"not uint8 \[2, 4, 4, 3\]"),
        (np.zeros((2, 4, 5, 4), np.uint8), r"not uint8 \[2, 4, 5, 4\]"),
        (np.zeros(2, np.uint8), r"not uint8 \[2\]"),
        (np.array([{}, {}]), "no array that can be read"),
    ],
)
def test_an_array_of_something_else(folder: Path, array: np.ndarray, says: str) -> None:
    np.save(folder / "pictures.npy", array)
    with pytest.raises(InputError, match=rf"pictures\.npy .*{says}"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"\x93NUMPY\1\0", "cut"], ids=str)
def test_a_damaged_array(folder: Path, content: bytes | str) -> None:
    path = folder / "pictures.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"pictures\.npy is no array that can be read"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{}\n", "has 1 lines for 2 pictures"),
        (b"{}\n{}\n{}", "has 3 lines for 2 pictures"),
        (b"{}\n{", "line 2: not valid JSON"),
        (b"{}\n\n", "line 2: not valid JSON"),
        (b"[]\n{}\n", "line 1: not a JSON object"),
        (b"{}\n\xff\n", "is not UTF-8"),
        (b"[" * 100_000 + b"\n{}", "line 1: not valid JSON"),
    ],
)
def test_bad_lines_are_named(folder: Path, content: bytes, says: str) -> None:
    (folder / "pictures.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=rf"pictures\.jsonl.* {says}"):
        load(folder)


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
