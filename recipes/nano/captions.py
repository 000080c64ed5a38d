"""Prompts for the text-to-image task, from a picture's record: the ways people type.

Everything is a function of the record and a seeded random.Random; nothing else is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from palette import COLOUR_WORDS, TONE_WORDS

Record = Mapping[str, Any]  # one line of pictures.jsonl

# Ways to ask for a picture, with the article that goes before the name ("" for none).
ENGLISH_SUBJECTS = (
    (8, "{}", ""),
    (6, "{}", "a"),
    (2, "{}", "the"),
    (3, "a picture of {}", "a"),
    (1, "picture of {}", ""),
    (1, "an image of {}", "a"),
    (1, "a drawing of {}", "a"),
    (1, "an emoji of {}", "a"),
    (1, "draw {}", "a"),
    (1, "please draw {}", "a"),
    (1, "show me {}", "a"),
)
ENGLISH_STYLES = (
    (6, "{}, {style} style"),
    (3, "{} in {style} style"),
    (1, "{} in the {style} style"),
    (1, "{} in the style of {style}"),
    (1, "{}, {style}"),
    (1, "{} ({style})"),
    (1, "{style} style {}"),
    (1, "{style} style: {}"),
    (1, "in {style} style, {}"),
)
ENGLISH_BACKGROUNDS = (
    (4, "{} on a {colour} background"),
    (2, "{} with a {colour} background"),
    (1, "{}, {colour} background"),
    (1, "{} on {colour}"),
    (1, "on a {colour} background, {}"),
)
CHINESE_SUBJECTS = (
    (10, "{}"),
    (3, "一个{}"),
    (2, "{}的图片"),
    (2, "一张{}的图片"),
)
# A verb goes before everything else: "画" + "蓝色背景上的红苹果".
CHINESE_VERBS = ((17, "{}"), (1, "画{}"), (1, "请画{}"), (1, "画一下{}"))
CHINESE_STYLES = (
    (6, "{}，{style} 风格"),
    (1, "{},{style}风格"),
    (1, "{} {style} 风格"),
    (2, "{style} 风格的{}"),
    (1, "{}（{style} 风格）"),
    (1, "{style} 风格：{}"),
)
CHINESE_BACKGROUNDS = (
    (5, "{colour}背景上的{}"),
    (2, "{}，{colour}背景"),
    (1, "{colour}背景的{}"),
    (1, "{}，背景是{colour}"),
)

# Where the noun that a name is about ends: "couple with heart: man, woman" is about a couple.
HEAD_END = re.compile(r"[:,]| with | in | on | of ")
IRREGULAR_PLURALS = (
    ("man", "men"),
    ("child", "children"),
    ("mouse", "mice"),
    ("leaf", "leaves"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("knife", "knives"),
)


def prompt(record: Record, language: str, style: bool, background: str, rng: Random) -> str:
    """One way to ask for the picture; `background` is a key of COLOURS, white goes unsaid."""
    chinese = language == "zh"
    if rng.random() < 0.06:
        text = keywords(record, language, rng)
    elif chinese:
        text = pick(CHINESE_SUBJECTS, rng)[0].format(spoken_name(record, language, rng))
    else:
        template, article = pick(ENGLISH_SUBJECTS, rng)
        text = template.format(with_article(spoken_name(record, language, rng), article))
    steps = []
    if background != "white":
        templates = CHINESE_BACKGROUNDS if chinese else ENGLISH_BACKGROUNDS
        steps.append(pick(templates, rng)[0])
    if style:
        steps.append(pick(CHINESE_STYLES if chinese else ENGLISH_STYLES, rng)[0])
    if rng.random() < 0.3:
        steps.reverse()
    if chinese:
        steps.append(pick(CHINESE_VERBS, rng)[0])
    for template in steps:
        text = template.format(
            text, style=record["style"], colour=COLOUR_WORDS[background][language]
        )
    return text if chinese else capitalise(text, rng)


def plain_prompt(record: Record, language: str) -> str:
    """The standard wording, for evaluation: "red apple, noto style"."""
    template = CHINESE_STYLES[0][1] if language == "zh" else ENGLISH_STYLES[0][1]
    return template.format(record[language], style=record["style"])


def pick(table: tuple[tuple[Any, ...], ...], rng: Random) -> tuple[Any, ...]:
    """A row of the table without its first column, which is the row's weight."""
    return rng.choices(table, weights=[row[0] for row in table])[0][1:]


def spoken_name(record: Record, language: str, rng: Random) -> str:
    """The name, for toned people sometimes turned round ("waving hand with dark skin tone")."""
    name: str = record[language]
    tone = TONE_WORDS.get(record["tone"])
    if not record["tone"] or tone is None or rng.random() < 0.7:
        return name
    if language == "zh":
        head, found, rest = name.partition(": " + tone.zh)
        return f"{tone.zh}的{head}" if found and not rest else name
    head, found, rest = name.partition(": " + tone.en)
    if not found:
        return name
    return f"{head} with {tone.en}{rest}" if rng.random() < 0.6 else f"{head}, {tone.en}{rest}"


def with_article(name: str, article: str) -> str:
    """The name after "a"/"an" or "the"; plural names take no "a"."""
    if article == "the":
        return f"the {name}"
    if article == "" or is_plural(name):
        return name
    first = name.split(" ")[0].lower()
    vowel = first[0] in "aeiou" and not first.startswith(("uni", "one", "eu", "us"))
    return f"{'an' if vowel else 'a'} {name}"


def is_plural(name: str) -> bool:
    """Whether the name's head looks plural: "chopsticks" does, "bus" and "glass" do not."""
    head = HEAD_END.split(name)[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "as"))


def plural(name: str) -> str:
    """The English plural, good enough for a question: "red apple" -> "red apples"."""
    if is_plural(name):
        return name
    head = HEAD_END.split(name)[0]
    rest = name[len(head) :]
    for end, ending in IRREGULAR_PLURALS:
        if re.search(rf"(^| |wo){end}$", head):
            return head.removesuffix(end) + ending + rest
    if head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif re.search(r"[^aeiou]y$", head):
        head = head[:-1] + "ies"
    else:
        head += "s"
    return head + rest


def keywords(record: Record, language: str, rng: Random) -> str:
    """The name with a keyword, or a few keywords; a skin tone is always said."""
    words = list(record[f"keywords_{language}"])
    comma = "，" if language == "zh" else ", "
    if len(words) < 3:
        return str(record[language])
    if rng.random() < 0.5:
        return comma.join([record[language], rng.choice(words)])
    chosen = rng.sample(words, 3)
    if record["tone"] in TONE_WORDS and record["tone"]:
        chosen.append(TONE_WORDS[record["tone"]][language])
    return comma.join(chosen)


def capitalise(text: str, rng: Random) -> str:
    """Mostly as it is; sometimes Sentence, lower, Title or upper case, or with a full stop."""
    case = rng.random()
    if case < 0.10:
        text = text[0].upper() + text[1:]
    elif case < 0.15:
        text = text.lower()
    elif case < 0.24:
        text = text.title()
    elif case < 0.30:
        text = text.upper()
    return text + "." if rng.random() < 0.04 else text
