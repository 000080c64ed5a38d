"""Questions about a view of a picture, with exact answers, in English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from captions import Record, pick, plural, with_article
from palette import COLOUR_WORDS, GROUP_WORDS, NO, NUMBER_WORDS, TONE_WORDS, YES, colour_name
from render import View

# Per kind and language, (weight, question). The first one is the standard wording.
QUESTIONS: dict[str, dict[str, tuple[tuple[int, str], ...]]] = {
    "name": {
        "en": (
            (8, "What is in the image?"),
            (2, "What is this?"),
            (2, "What is it?"),
            (1, "What's in the image?"),
            (1, "What is in the picture?"),
            (1, "What does the picture show?"),
            (1, "What do you see?"),
            (1, "what is in the image"),
            (1, "Name the thing in the image."),
        ),
        "zh": (
            (8, "图里是什么？"),
            (2, "这是什么？"),
            (1, "图片里是什么？"),
            (1, "图中是什么？"),
            (1, "图片里有什么？"),
            (1, "你看到了什么？"),
            (1, "图里是什么"),
        ),
    },
    "style": {
        "en": (
            (4, "Which style is it?"),
            (1, "What style is this?"),
            (1, "What is the style?"),
            (1, "In which style is it drawn?"),
        ),
        "zh": ((4, "这是什么风格？"), (1, "是哪种风格？"), (1, "图片是什么风格？")),
    },
    "category": {
        "en": (
            (4, "Which category is it?"),
            (1, "What category is this?"),
            (1, "What kind of thing is it?"),
        ),
        "zh": ((4, "这是什么类别？"), (1, "属于哪个类别？"), (1, "它是哪一类？")),
    },
    "tone": {
        "en": (
            (4, "Which skin tone is it?"),
            (1, "What skin tone is this?"),
            (1, "What is the skin tone?"),
        ),
        "zh": ((4, "这是什么肤色？"), (1, "是哪种肤色？"), (1, "肤色是什么？")),
    },
    "background": {
        "en": (
            (4, "What colour is the background?"),
            (1, "What color is the background?"),
            (1, "Which colour does the background have?"),
            (1, "What is the background colour?"),
        ),
        "zh": ((4, "背景是什么颜色？"), (1, "背景颜色是什么？"), (1, "图片的背景是什么颜色？")),
    },
    "count": {
        "en": (
            (3, "How many {plural} are there?"),
            (2, "How many are there?"),
            (1, "How many {plural} are in the image?"),
            (1, "How many things are in the image?"),
        ),
        "zh": (
            (3, "有几个{name}？"),
            (2, "有几个？"),
            (1, "图里有几个{name}？"),
            (1, "图里有多少个？"),
        ),
    },
    "presence": {
        "en": (
            (4, "Is there {a_name} in the image?"),
            (2, "Is there {a_name}?"),
            (1, "Does the image show {a_name}?"),
            (1, "Do you see {a_name}?"),
        ),
        "zh": ((4, "图里有{name}吗？"), (1, "有{name}吗？"), (1, "有没有{name}？")),
    },
    "describe": {
        "en": (
            (4, "Please describe the image"),
            (1, "Please describe the image."),
            (1, "Describe the image."),
            (1, "Describe this picture."),
        ),
        "zh": (
            (4, "请描述该图片"),
            (1, "请描述这张图片。"),
            (1, "描述图片"),
            (1, "描述一下这张图。"),
        ),
    },
}
KINDS = tuple(QUESTIONS)

# Words too common to say that two names mean the same thing.
COMMON = frozenset("a an and of the with in on at for face button sign person man woman".split())


def kinds_for(record: Record, view: View) -> list[str]:
    """The kinds of question, other than the name, that have an exact answer for this view."""
    kinds = ["style", "category", "background", "count", "presence", "describe"]
    if record["group"] == "people-body" and record["tone"] in TONE_WORDS:
        kinds.append("tone")
    return kinds


def ask(
    kind: str, language: str, record: Record, view: View, absent: Record | None, rng: Random
) -> tuple[str, str]:
    """A question of that kind and its answer.

    `absent` is for "presence" only: a record whose name is surely not in the picture, which makes
    the answer "no"; None asks for the picture's own name.
    """
    template = pick(QUESTIONS[kind][language], rng)[0]
    name = untoned(record if absent is None else absent, language)
    question = template.format(name=name, a_name=with_article(name, "a"), plural=plural(name))
    return question, answer(kind, language, record, view, present=absent is None)


def answer(kind: str, language: str, record: Record, view: View, present: bool = True) -> str:
    """The exact answer to a question of that kind."""
    match kind:
        case "name":
            return str(record[language])
        case "style":
            return str(record["style"])
        case "category":
            return GROUP_WORDS[record["group"]][language]
        case "tone":
            return TONE_WORDS[record["tone"]][language]
        case "background":
            return COLOUR_WORDS[colour_name(view["background"])][language]
        case "count":
            return NUMBER_WORDS[view.get("copies", 1)][language]
        case "presence":
            return (YES if present else NO)[language]
        case "describe":
            return describe(language, record, view)
    raise ValueError(f"unknown kind of question {kind!r}")


def describe(language: str, record: Record, view: View) -> str:
    """One sentence with number, name, style and background."""
    colour = COLOUR_WORDS[colour_name(view["background"])][language]
    copies, style = view.get("copies", 1), record["style"]
    if language == "zh":
        number = NUMBER_WORDS[copies].zh
        return f"这是{colour}背景上的{number}{record['zh']}，{style} 风格。"
    if copies == 1:
        what = f"This is {with_article(record['en'], 'a')}"
    else:
        what = f"These are {NUMBER_WORDS[copies].en} {plural(record['en'])}"
    return f"{what} in {style} style on a {colour} background."


def untoned(record: Record, language: str) -> str:
    """The name without skin tone. Only what is there is ever asked for with its skin tone, so a
    tone in a yes/no question would give the answer away."""
    name = str(record[language])
    return name.partition(": ")[0] if record["tone"] else name


def words_of(record: Record) -> set[str]:
    """The telling words of the English name and keywords, in the singular."""
    text = " ".join([record["en"], *record["keywords_en"]]).lower()
    return {word.rstrip("s") for word in re.findall(r"[a-z]+", text)} - COMMON


def pick_absent(record: Record, others: Sequence[Record], rng: Random) -> Record | None:
    """A record of `others` that shares no telling word with this picture; half the time one of its
    own group, so that the category does not give the answer away. None when none is found."""
    own = words_of(record)
    same_group = rng.random() < 0.5
    for attempt in range(50):
        other = rng.choice(others)
        if same_group and attempt < 25 and other["group"] != record["group"]:
            continue
        shared_zh = other["zh"] in record["zh"] or record["zh"] in other["zh"]
        if not own & words_of(other) and not shared_zh:
            return other
    return None
