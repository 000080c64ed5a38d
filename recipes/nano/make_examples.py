"""Training and held-out examples for the nano language model, from the drawn pictures.

    python recipes/nano/make_examples.py --data runs/nano/data \\
        --selection recipes/nano/full/selection.json --out runs/nano/full/examples.jsonl

Each line is one sample. "picture" is a row of pictures.npy and "view" what render_view shows of it:
    {"picture": 5, "view": {...}, "task": "t2i", "prompt": "a red apple, noto style"}
    {"picture": 5, "view": {...}, "task": "answer", "qa": [[question, answer], ...four]}
heldout.jsonl beside the output has the held-out pictures of the same selection, in the standard
wording, plus trained pictures under shifts that training never uses; each line has its "split".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

from build_data import read_lines, write_lines
from captions import Record, plain_prompt, prompt
from palette import COLOURS, LANGUAGES
from questions import QUESTIONS, answer, ask, kinds_for, pick_absent
from render import View, plain_view
from splits import split_of

# Shifts of up to 3 pixels: all for training but four, which only the evaluation uses.
UNSEEN_SHIFTS = ((-2, 1), (1, 3), (3, -1), (-1, -2))
SHIFTS = tuple(
    (dx, dy) for dx in range(-3, 4) for dy in range(-3, 4) if (dx, dy) not in UNSEEN_SHIFTS
)
SCALES = (56 / 64, 48 / 64)
COMPOSITE_SCALE = 28 / 64
COMPOSITE_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
OFTEN = {"category": 4, "tone": 4, "describe": 2}  # the hard kinds are asked more often
ALWAYS = ("style", "presence")  # the hardest, of every view, besides the name
OTHER_COLOURS = tuple(name for name in COLOURS if name != "white")


@dataclass(frozen=True)
class Selection:
    """Which pictures are used; None means all."""

    groups: tuple[str, ...] | None = None
    subgroups: tuple[str, ...] | None = None
    styles: tuple[str, ...] | None = None
    tones: bool = True  # False: only emoji without a skin tone
    limit: int | None = None  # only the first so many emoji
    variants: int = 20  # samples per picture and task
    toned: int | None = None  # the same for pictures with a skin tone; None: as many
    parts: tuple[Selection, ...] = ()  # what any of these selects, of what the fields above do

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Selection:
        """From a JSON object with these fields. Raises ValueError for any other."""
        if unknown := sorted(data.keys() - {field.name for field in fields(cls)}):
            raise ValueError(f"unknown key {unknown[0]!r} in the selection")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        if "parts" in given:
            given["parts"] = tuple(cls.from_json(one) for one in given["parts"])
        return cls(**given)

    def rows(self, records: Sequence[Record]) -> list[int]:
        """Indices of the selected records."""
        chosen, seen = [], dict[str, None]()
        for index, one in enumerate(records):
            if self.groups is not None and one["group"] not in self.groups:
                continue
            if self.subgroups is not None and one["subgroup"] not in self.subgroups:
                continue
            if self.styles is not None and one["style"] not in self.styles:
                continue
            if not self.tones and not one["is_base"]:
                continue
            if self.limit is not None and one["cp"] not in seen and len(seen) >= self.limit:
                continue
            seen[one["cp"]] = None
            chosen.append(index)
        if self.parts:
            wanted = {index for part in self.parts for index in part.rows(records)}
            chosen = [index for index in chosen if index in wanted]
        return chosen


@dataclass(frozen=True)
class Shares:
    """How often things happen, as probabilities."""

    t2i_background: float = 0.12  # text to image on a named colour
    t2i_shift: float = 0.2  # text to image of toned people from a shifted picture, unsaid
    t2i_style: float = 0.75  # the prompt says the style
    answer_background: float = 0.3
    answer_scale: float = 0.1
    answer_composite: float = 0.12


def t2i_example(
    index: int, record: Record, language: str, shares: Shares, rng: Random
) -> dict[str, Any]:
    """One text-to-image sample."""
    background = rng.choice(OTHER_COLOURS) if rng.random() < shares.t2i_background else "white"
    view = plain_view(COLOURS[background])
    if record["tone"] and rng.random() < shares.t2i_shift:
        view["dx"], view["dy"] = rng.choice(SHIFTS)
    text = prompt(record, language, rng.random() < shares.t2i_style, background, rng)
    return {"picture": index, "view": view, "task": "t2i", "prompt": text}


def answer_view(shares: Shares, rng: Random) -> View:
    """A random view for the picture-to-text task."""
    coloured = rng.random() < shares.answer_background
    view = plain_view(COLOURS[rng.choice(OTHER_COLOURS) if coloured else "white"])
    kind = rng.random()
    if kind < shares.answer_composite:
        view["copies"] = rng.randint(2, 4)
        view["scale"] = COMPOSITE_SCALE
        view["dx"], view["dy"] = rng.choice(COMPOSITE_SHIFTS)
    elif kind < shares.answer_composite + shares.answer_scale:
        view["scale"] = rng.choice(SCALES)
    else:
        view["dx"], view["dy"] = rng.choice(SHIFTS)
    return view


def other_kind(record: Record, view: View, rng: Random) -> str:
    """What else to ask; composites are mostly counted, single ones seldom."""
    composite = view.get("copies", 1) > 1
    if composite and rng.random() < 0.75:
        return "count"
    if not composite and rng.random() < 0.05:
        return "count"
    kinds = [kind for kind in kinds_for(record, view) if kind not in ("count", *ALWAYS)]
    return rng.choices(kinds, [OFTEN.get(kind, 1) for kind in kinds])[0]


def answer_example(
    index: int,
    record: Record,
    view: View,
    language: str,
    others: Sequence[Record],
    rng: Random,
) -> dict[str, Any]:
    """One picture with five questions: the name in both languages, style, presence, another."""
    kind = other_kind(record, view, rng)
    absent = pick_absent(record, others, rng) if rng.random() < 0.5 else None
    other = LANGUAGES[1 - LANGUAGES.index(language)]
    asked = [("name", "en"), ("name", "zh"), ("presence", other), (kind, language)]
    asked.append(("style", rng.choice(LANGUAGES)))
    qa = []
    for kind, spoken in asked:
        other_name = absent if kind == "presence" else None
        qa.append(list(ask(kind, spoken, record, view, other_name, rng)))
    return {"picture": index, "view": view, "task": "answer", "qa": qa}


def training_examples(
    records: Sequence[Record],
    rows: Sequence[int],
    variants: int,
    toned: int,
    seed: int,
    shares: Shares = Shares(),
) -> Iterator[dict[str, Any]]:
    """`variants` samples of either task for every training picture among `rows`.

    Pictures with a skin tone, of which there are many alike, give `toned` samples. Every view
    serves two questions' samples, because encoding views takes long. Held-out pictures give none,
    nor do their names appear in questions. Exact duplicates have two names for the same pixels:
    they can be asked for, but their names are not asked.
    """
    train = [index for index in rows if split_of(records[index]) == "train"]
    names = {records[index]["cp"]: records[index] for index in train if records[index]["is_base"]}
    others = list(names.values())
    for variant in range(variants):
        for index in train:
            record = records[index]
            if record["tone"] and variant >= toned:
                continue
            key = f"{seed}:{record['style']}:{record['cp']}"
            rng = Random(f"{key}:{variant}")
            language = LANGUAGES[(variant + index) % 2]
            yield t2i_example(index, record, language, shares, rng)
            if record["dup_of"] is None:
                view = answer_view(shares, Random(f"{key}:view:{variant // 2}"))
                yield answer_example(index, record, view, language, others, rng)


def heldout_examples(
    records: Sequence[Record], rows: Sequence[int], seed: int, trained: int = 500
) -> Iterator[dict[str, Any]]:
    """Held-out pictures, and up to `trained` training pictures at unseen shifts (split "shifted").

    Pictures whose pixels also belong to another emoji are left out: they have no exact name.
    """
    shared = {(one["style"], one["dup_of"]) for one in records if one["dup_of"] is not None}
    clean = [
        index
        for index in rows
        if records[index]["dup_of"] is None
        and (records[index]["style"], records[index]["cp"]) not in shared
    ]
    train = [index for index in clean if split_of(records[index]) == "train"]
    names = {records[index]["cp"]: records[index] for index in train if records[index]["is_base"]}
    others = list(names.values())
    shifted = set(Random(seed).sample(train, min(trained, len(train))))
    for index in clean:
        record = records[index]
        split = "shifted" if index in shifted else split_of(record)
        if split == "train":
            continue
        rng = Random(f"held:{seed}:{record['style']}:{record['cp']}")
        for language in LANGUAGES:
            yield {
                "picture": index,
                "view": plain_view(),
                "task": "t2i",
                "split": split,
                "language": language,
                "prompt": plain_prompt(record, language),
            }
        background = COLOURS[rng.choice(tuple(COLOURS))]
        dx, dy = rng.choice(UNSEEN_SHIFTS)
        view: View = {"dx": dx, "dy": dy, "scale": 1.0, "background": list(background)}
        for language in LANGUAGES:
            qa = standard_questions(record, language, view, others, rng)
            yield {
                "picture": index,
                "view": view,
                "task": "answer",
                "split": split,
                "language": language,
                "qa": qa,
            }
            composite = counting_view(view, rng)
            counted = [ask("count", language, record, composite, None, rng)]
            yield {
                "picture": index,
                "view": composite,
                "task": "answer",
                "split": split,
                "language": language,
                "qa": [list(one) for one in counted],
            }


def counting_view(view: View, rng: Random) -> View:
    """The view with one to four copies, at a shift that training never uses."""
    copies = rng.randint(1, 4)
    if copies == 1:
        return view
    return {
        "dx": 1,
        "dy": 1,
        "scale": COMPOSITE_SCALE,
        "background": view["background"],
        "copies": copies,
    }


def standard_questions(
    record: Record, language: str, view: View, others: Sequence[Record], rng: Random
) -> list[list[str]]:
    """Every kind of question in its standard wording, presence with either answer in turn."""
    qa = []
    for kind in ("name", *kinds_for(record, view)):
        if kind == "presence":
            absent = pick_absent(record, others, rng) if rng.random() < 0.5 else None
            qa.append(list(ask(kind, language, record, view, absent, rng)))
        elif kind != "count":  # counting has views of its own
            question = QUESTIONS[kind][language][0][1]
            qa.append([question, answer(kind, language, record, view)])
    return qa


def read_selection(asked: argparse.Namespace) -> Selection:
    """The selection file, overridden by the flags."""
    data = json.loads(asked.selection.read_text(encoding="utf-8")) if asked.selection else {}
    for name in ("groups", "styles"):
        if getattr(asked, name):
            data[name] = getattr(asked, name).split(",")
    if asked.variants:
        data["variants"] = asked.variants
    return Selection.from_json(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write training and held-out examples.")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/nano/full/examples.jsonl"))
    parser.add_argument("--selection", type=Path, help="JSON file: see Selection")
    parser.add_argument("--groups", help="comma-separated, instead of the selection's")
    parser.add_argument("--styles", help="comma-separated, instead of the selection's")
    parser.add_argument("--variants", type=int, help="samples per picture and task")
    parser.add_argument(
        "--t2i-shift",
        type=float,
        default=Shares.t2i_shift,
        help="share of text-to-image samples of toned people from a shifted picture",
    )
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    try:
        records = read_lines(asked.data / "pictures.jsonl")
        selection = read_selection(asked)
        rows = selection.rows(records)
        if not rows:
            raise ValueError("the selection holds no picture")
        shares = Shares(t2i_shift=asked.t2i_shift)
        toned = selection.variants if selection.toned is None else selection.toned
        examples = list(
            training_examples(records, rows, selection.variants, toned, asked.seed, shares)
        )
        held = list(heldout_examples(records, rows, asked.seed))
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_lines(asked.out, examples)
        write_lines(asked.out.with_name("heldout.jsonl"), held)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, lines in (("training", examples), ("held-out", held)):
        counts = Counter((one["task"], one.get("split", "train")) for one in lines)
        text = ", ".join(f"{task} {split} {count}" for (task, split), count in counts.items())
        print(f"{name}: {len({one['picture'] for one in lines})} pictures; {text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
