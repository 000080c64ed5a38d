"""How a picture was made travels in its file."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dromaius.errors import InputError
from dromaius.io.images import save_png
from dromaius.io.provenance import Provenance, read_provenance

PICTURE = Image.new("RGB", (8, 8), (1, 2, 3))
MADE = Provenance(
    model="nano",
    model_hash="0123456789ab",
    prompt='a "red" apple\n苹果 🍎 \u0000',
    height=64,
    width=96,
    version="0.1.0",
    negative_prompt="blurry",
    seed=2**63 + 1,
    sampler={"guidance": 3.0, "top_k": 2048, "top_p": None},
)


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        save_png(PICTURE, path, MADE.png_info())
        assert read_provenance(path) == MADE
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:  # any PNG reader sees the chunk
        image.load()
        assert json.loads(image.text["dromaius"])["seed"] == 2**63 + 1


def test_pictures_that_say_nothing(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    PICTURE.save(tmp_path / "a.jpg")
    assert read_provenance(tmp_path / "a.png") is None
    assert read_provenance(tmp_path / "a.jpg") is None
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="b.png is not a picture"):
        read_provenance(tmp_path / "b.png")


def test_damaged_text(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    whole = json.loads(MADE.to_json())
    for text in ("{", "[]", "3", "{}", json.dumps(whole | {"seed": "x"}), "[" * 100_000):
        save_png(PICTURE, path, {"dromaius": text})
        with pytest.raises(InputError, match="provenance") as caught:
            read_provenance(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="wrong value for prompt"):
        Provenance.from_json(json.dumps(whole | {"prompt": None}))
    later = Provenance.from_json(json.dumps(whole | {"new_in_2030": 1, "negative_prompt": None}))
    assert later.prompt == MADE.prompt
    assert later.negative_prompt is None
