"""Recipes: every key is known, or it is named in the error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dromaius.errors import ConfigError, DromaiusError, InputError
from dromaius.models.emu3.weights import load_language_model, load_vision_tokenizer
from dromaius.training.loop import run
from dromaius.training.recipe import read_recipe
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("table", "key"),
    [("loop", "stepz"), ("optimizer", "lr"), ("model", "widht"), ("data", "folders")],
)
def test_an_unknown_key_is_named(make_recipe: Make, tmp_path: Path, table: str, key: str) -> None:
    recipe = make_recipe("vision_tokenizer", tmp_path)
    recipe[table][key] = 1
    with pytest.raises(ConfigError, match=rf"unknown key {table}\.{key}"):
        make_plan(recipe)


def test_other_mistakes_are_named(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("vision_tokenizer", tmp_path)
    with pytest.raises(ConfigError, match="unknown key extras in the recipe"):
        make_plan(recipe | {"extras": {}})
    with pytest.raises(ConfigError, match="'speech'"):
        make_plan(recipe | {"task": "speech"})
    with pytest.raises(ConfigError, match=r"no table \[objective\]"):
        make_plan({k: v for k, v in recipe.items() if k != "objective"})
    with pytest.raises(ConfigError, match="loop: steps must be a whole number, got 'many'"):
        make_plan(recipe | {"loop": recipe["loop"] | {"steps": "many"}})
    with pytest.raises(ConfigError, match="loop must be a table of settings, got int"):
        make_plan(recipe | {"loop": 3})
    language = make_recipe("language_model", tmp_path)
    language["data"][1]["wieght"] = 2
    with pytest.raises(ConfigError, match=r"unknown key data\[1\]\.wieght"):
        make_plan(language)
    with pytest.raises(ConfigError, match="data must be an array of tables"):
        make_plan(language | {"data": 3})
    whole = make_recipe("language_model", tmp_path)
    with pytest.raises(ConfigError, match="export must be a table of settings, got int"):
        make_plan(whole | {"export": 3})
    with pytest.raises(ConfigError, match="export: base must be a text, got 3"):
        make_plan(whole | {"export": {"base": 3}})
    with pytest.raises(ConfigError, match="export: .*base"):
        make_plan(whole | {"export": {}})
    with pytest.raises(ConfigError, match=r"no table \[export\]"):
        make_plan({k: v for k, v in whole.items() if k != "export"})
    with pytest.raises(ConfigError, match="model must be a table of settings, got int"):
        make_plan(whole | {"model": 3})


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.toml"):
        read_recipe(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("[loop")
    with pytest.raises(ConfigError, match="bad.toml is not valid TOML"):
        read_recipe(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b'task = "caf\xe9"')
    with pytest.raises(ConfigError, match="latin.toml is not valid TOML"):
        read_recipe(tmp_path / "latin.toml")


def test_the_shipped_recipes_fail_only_for_lack_of_data() -> None:
    folder = Path(__file__).resolve().parents[2] / "recipes"
    recipes = sorted(folder.rglob("*.toml"))
    assert {one.name for one in recipes} >= {"ocr.toml", "caption.toml", "language_model.toml"}
    for path in recipes:
        with pytest.raises(DromaiusError) as caught:
            # Without the data it fails at the data's folder: after all keys were read.
            recipe = json.loads(json.dumps(read_recipe(path)).replace('"runs/', '"absent/'))
            make_plan(recipe)
        assert "absent" in str(caught.value), path


def test_what_training_exports_loads(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path, steps=2)
    plan = make_plan(recipe)
    run(plan.task, plan.loop, plan.optimizer, recipe)
    loaded = load_language_model(tmp_path).state_dict()
    trained = plan.task.model.state_dict()
    assert loaded.keys() == trained.keys()
    assert all((loaded[k] == trained[k]).all() for k in loaded)
    assert load_vision_tokenizer(tmp_path).config.codebook_size == 8
