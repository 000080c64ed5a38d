"""Pictures with texts: stored files, lists, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dromaius.data.text_pictures import fitted, open_text_pictures, write_text_pictures
from dromaius.errors import InputError

TEXTS = ["one", "zwei, größer", "三"]


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_what_is_written_is_read(tmp_path: Path, channels: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 7, *channels), np.uint8)
    write_text_pictures(tmp_path / "a.safetensors", pictures, TEXTS)
    found = open_text_pictures(tmp_path / "a.safetensors")
    assert list(found.texts) == TEXTS
    wanted = pictures.reshape(3, 5, 7, -1)[[2, 0]]
    assert np.array_equal(found.pictures([2, 0], 5, 7).numpy(), wanted)
    with pytest.raises(InputError, match="holds pictures of 7x5, not 8x5"):
        found.pictures([0], 5, 8)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="absent.safetensors"):
        open_text_pictures(tmp_path / "absent.safetensors")
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="a.safetensors is not a file of pictures"):
        open_text_pictures(path)
    save_file({"pictures": torch.zeros(1, 2, 2)}, path)
    with pytest.raises(InputError, match="offsets"):
        open_text_pictures(path)
    texts, offsets = torch.tensor([97], dtype=torch.uint8), torch.tensor([0, 1])
    save_file({"pictures": torch.zeros(1, 2, 2), "texts": texts, "offsets": offsets}, path)
    with pytest.raises(InputError, match="must hold uint8"):
        open_text_pictures(path)
    two = torch.zeros(2, 2, 2, dtype=torch.uint8)
    save_file({"pictures": two, "texts": texts, "offsets": offsets}, path)
    with pytest.raises(InputError, match="2 pictures, 1 texts"):
        open_text_pictures(path)
    with pytest.raises(InputError, match="2 pictures and 3 texts"):
        write_text_pictures(path, np.zeros((2, 2, 2), np.uint8), TEXTS)


def write_list(folder: Path, *rows: object) -> Path:
    path = folder / "list.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_list_is_read_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (14, 10), 77).save(tmp_path / "in" / "grey.png")
    found = open_text_pictures(write_list(tmp_path, {"image": "in/grey.png", "text": "g", "x": 1}))
    assert list(found.texts) == ["g"]
    assert (found.pictures([0, 0], 5, 7) == 77).all()
    assert found.pictures([0], 5, 7).shape == (1, 5, 7, 3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, 'picture 2: needs "image"'),
        ({"image": "a.png", "text": "  "}, "not empty"),
        ({"image": "a.png", "text": 3}, 'needs "image"'),
        ({"image": "a.png", "text": "x" * 10_001}, "10001 characters"),
        ({"image": "b.png", "text": "b"}, "there is no file .*b.png"),
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, row: object, said: str) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=said):
        open_text_pictures(write_list(tmp_path, {"image": "a.png", "text": "a"}, row))


def test_empty_lists_and_damaged_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lists no picture"):
        open_text_pictures(write_list(tmp_path))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = open_text_pictures(write_list(tmp_path, {"image": "a.png", "text": "a"}))
    with pytest.raises(InputError, match="a.png"):
        found.pictures([0], 4, 4)


def test_padding_keeps_the_shape_and_the_paper() -> None:
    image = Image.new("RGB", (8, 8), (200, 210, 220))
    image.paste((0, 0, 0), (2, 2, 6, 6))
    wide = np.asarray(fitted(image, 4, 16, "pad"))
    assert wide.shape == (4, 16, 3)
    assert (wide[:, 4:] == (200, 210, 220)).all() and wide[2, 2].max() < 40
    tall = np.asarray(fitted(image, 16, 4, "pad"))
    assert (tall[4:] == (200, 210, 220)).all()
    stretched = np.asarray(fitted(image, 4, 16, "stretch"))
    assert (stretched[2, 5:11] < 60).all() and (stretched[2, 0] > 190).all()
