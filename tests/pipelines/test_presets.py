"""The preset questions: the published and trained wordings, and one clear line for others."""

from __future__ import annotations

import sys
from typing import Any, get_args

import pytest

from dromaius.errors import InputError
from dromaius.pipelines import presets
from dromaius.pipelines.presets import question


@pytest.mark.parametrize(
    ("name", "english", "chinese"),
    [
        ("caption", "Please describe the image", "请描述该图片"),
        ("category", "Which category is it?", "这是什么类别？"),
        ("style", "Which style is it?", "这是什么风格？"),
        ("name", "What is in the image?", "图里是什么？"),
    ],
)
def test_wordings(name: Any, english: str, chinese: str) -> None:
    assert question(name) == question(name, "en") == english
    assert question(name, "zh") == chinese


def test_the_types_name_what_the_table_holds() -> None:
    assert get_args(presets.Preset) == tuple(presets.PRESETS)
    for wordings in presets.PRESETS.values():
        assert get_args(presets.Language) == tuple(wordings)


def test_nano_learns_these_wordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model is trained on each preset as the standard wording of its kind."""
    from tests.cli.conftest import REPOSITORY

    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "recipes" / "nano"), *sys.path])
    questions = pytest.importorskip("questions")
    kinds = {"caption": "describe", "category": "category", "style": "style", "name": "name"}
    for preset, kind in kinds.items():
        for language in ("en", "zh"):
            _, standard = questions.QUESTIONS[kind][language][0]
            assert question(preset, language) == standard  # type: ignore[arg-type]  # loop values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("poem",), "preset must be one of caption, category, style, name, got 'poem'"),
        ((["style"],), "preset must be one of caption, category, style, name, got ['style']"),
        (("style", "de"), "language must be one of en, zh, got 'de'"),
        (("style", None), "language must be one of en, zh, got None"),
    ],
)
def test_what_is_not_in_the_table(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError) as error:
        question(*given)
    assert str(error.value) == message
