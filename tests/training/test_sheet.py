"""Sheets of samples: laid out by hand, drawn as a user draws, and without a trace in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import dromaius
from dromaius.data.pictures import Pictures, PictureSettings
from dromaius.errors import ConfigError
from dromaius.training.loop import run
from dromaius.training.metrics import Recorder
from dromaius.training.sheet import sheet
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]


def train(recipe: dict[str, Any]) -> None:
    plan = make_plan(recipe)
    record = Recorder(Path(plan.loop.out))
    run(plan.task, plan.loop, plan.optimizer, recipe, record)
    record.close()


def test_rows_and_margins() -> None:
    red, blue, green = (Image.new("RGB", (4, 3), name) for name in ("red", "blue", "lime"))
    pixels = np.asarray(sheet([red, blue, green], columns=2))
    assert pixels.shape == (2 + 5 + 5, 2 + 6 + 6, 3)
    expected = np.full_like(pixels, 255)
    expected[2:5, 2:6] = (255, 0, 0)
    expected[2:5, 8:12] = (0, 0, 255)
    expected[7:10, 2:6] = (0, 255, 0)
    assert (pixels == expected).all()
    with pytest.raises(ValueError, match="needs pictures"):
        sheet([], columns=2)


def test_prompts_are_drawn_as_a_user_draws_them(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path, steps=4, evaluate_every=2)
    prompts = ["a red apple", "apple", "a"]
    train(recipe | {"samples": {"prompts": prompts, "columns": 2, "seed": 5}})
    names = sorted(one.name for one in (tmp_path / "samples").iterdir())
    assert names == ["step-000002.png", "step-000004.png"]
    page = Image.open(tmp_path / "samples" / "step-000004.png")
    model = dromaius.load(str(tmp_path))
    for number, one in enumerate(model.generate_image(prompts, seed=5)):
        left, top = 2 + number % 2 * 26, 2 + number // 2 * 26
        assert one.size == (24, 24)
        assert page.crop((left, top, left + 24, top + 24)).tobytes() == one.tobytes()


def test_reconstructions_stand_below_held_out_pictures(
    make_recipe: Make, tmp_path: Path, picture_folder: Path
) -> None:
    train(make_recipe("vision_tokenizer", tmp_path, steps=2))
    page = Image.open(tmp_path / "samples" / "step-000002.png")
    heldout = Pictures(PictureSettings(folder=str(picture_folder), keep={"held": [True]}))
    assert page.size == (4 * 18 + 2, 2 * 18 + 2)
    for number in range(4):
        rgba = Image.fromarray(heldout.rgba[number].numpy(), "RGBA")
        shown = Image.new("RGBA", rgba.size, "white")
        shown.alpha_composite(rgba)
        left = 2 + number * 18
        cells = [page.crop((left, top, left + 16, top + 16)) for top in (2, 20)]
        difference = np.asarray(cells[0], int) - np.asarray(shown.convert("RGB"), int)
        assert abs(difference).max() <= 2  # float and integer blending round differently
        assert cells[0].tobytes() != cells[1].tobytes()


@pytest.mark.parametrize("task", ["vision_tokenizer", "language_model"])
def test_drawing_leaves_no_trace(make_recipe: Make, tmp_path: Path, task: str) -> None:
    train(make_recipe(task, tmp_path / "a", steps=4))
    shown = make_recipe(task, tmp_path / "b", steps=4, evaluate_every=1)
    train(shown | ({"samples": {"prompts": ["apple"]}} if task == "language_model" else {}))
    assert len(list((tmp_path / "b" / "samples").iterdir())) == 4
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all((one[key] == other[key]).all() for key in one)


def test_a_list_of_prompts_is_checked(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path)
    for wrong, said in (
        ({"prompts": []}, "at least one text"),
        ({"prompts": [3]}, "samples: prompts must"),
        ({"prompts": ["a"], "columns": 0}, "columns"),
        ({"prompts": ["a"], "sede": 1}, "samples.sede"),
    ):
        with pytest.raises(ConfigError, match=said):
            make_plan(recipe | {"samples": wrong})
