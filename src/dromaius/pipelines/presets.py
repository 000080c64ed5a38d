"""Questions that are asked of pictures again and again, in English and Chinese, written once.

model.answer(picture, presets.question("style", "zh"))
"""

from typing import Literal, get_args

from dromaius.errors import InputError

Preset = Literal["caption", "category", "style", "name"]
Language = Literal["en", "zh"]

PRESETS: dict[Preset, dict[Language, str]] = {
    "caption": {"en": "Please describe the image", "zh": "请描述该图片"},
    "category": {"en": "Which category is it?", "zh": "这是什么类别？"},
    "style": {"en": "Which style is it?", "zh": "这是什么风格？"},
    "name": {"en": "What is in the image?", "zh": "图里是什么？"},
}
"""The wordings; "caption" is the one that the Emu3 authors publish (spec section 3.3)."""


def question(preset: Preset, language: Language = "en") -> str:
    """The preset's wording. Raises InputError for a preset or language that is not in the table."""
    for name, value, known in (
        ("preset", preset, get_args(Preset)),
        ("language", language, get_args(Language)),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return PRESETS[preset][language]
