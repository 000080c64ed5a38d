"""docs/training.md tells of every table and every key of a recipe, in the code's own words."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

from dromaius.training.tasks import TABLES

ROOT = Path(__file__).resolve().parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_keys", ROOT / "docs" / "recipe_keys.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_and_whole() -> None:
    keys = generator()
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert keys.fill(page) == page, "run python docs/recipe_keys.py"
    shown = {TABLES[slot[2]][slot[3]] for slot in keys.SLOT.finditer(page)}
    assert shown == {kind for tables in TABLES.values() for kind in tables.values()}


def test_every_key_of_training_is_explained() -> None:
    keys = generator()
    for tables in TABLES.values():
        for name, kind in tables.items():
            if name != "model":  # named as in the published configurations
                unsaid = {f.name for f in dataclasses.fields(kind)} - set(keys.comments(kind))
                assert not unsaid, f"[{name}]: {unsaid}"


def test_a_row_by_hand() -> None:
    keys = generator()
    rows = keys.table(TABLES["language_model"]["samples"]).splitlines()
    assert rows[2] == "| `prompts` | list of texts | required | What users would type. |"
    assert rows[3] == "| `columns` | whole number | `4` | Pictures in a row of the sheet. |"
