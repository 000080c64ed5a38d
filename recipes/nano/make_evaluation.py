"""Write the evaluation set that `dromaius eval nano` measures with.

    python recipes/nano/build_data.py
    python recipes/nano/build_data.py --styles twemoji --out runs/nano/twemoji
    python recipes/nano/make_evaluation.py                       # runs/nano/full/evaluation
    python recipes/nano/make_evaluation.py --quick               # the one in the package

The format is that of dromaius.evaluation.cases. Everything follows from the data and a seed. The
quick set has a few names in every style, and leaves twemoji (CC-BY-4.0) out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from captions import Record, plain_prompt, plural, with_article
from evaluation_files import TONES, EvaluationWriter, Source
from make_examples import COMPOSITE_SCALE, UNSEEN_SHIFTS, Selection
from palette import COLOURS, LANGUAGES
from questions import QUESTIONS, answer, kinds_for, pick_absent, untoned
from render import plain_view
from splits import split_of
from wordings import WORDINGS

ROOT = Path(__file__).resolve().parents[2]
QUICK_OUT = ROOT / "src" / "dromaius" / "assets" / "nano" / "quick"
QUICK_BYTES = 1_500_000
KINDS = ("category", "style", "tone", "background", "count", "presence")
SEED = 11


@dataclass(frozen=True)
class Counts:
    """At most so many pictures for each figure."""

    draws: int = 500
    names: int = 500
    asked: int = 250  # per kind of question, for trained pictures and for held_combo
    reported: int = 75  # per kind of question, for held_pair and held_emoji
    unseen_style: int = 400
    quick_names: int = 64
    quick_people: int = 5  # in each style, with all their tones


QUICK = Counts(draws=80, names=80, asked=25, reported=8)


# --- which pictures ------------------------------------------------------------------------------


def quick_rows(source: Source, rows: Sequence[int], counts: Counts) -> list[int]:
    """A few names in every style, and a few people of every style in all single tones."""
    records, rng = source.records, Random(SEED)
    drawn: dict[str, set[str]] = defaultdict(set)
    held = set()
    for r in (records[row] for row in rows):
        if r["is_base"] and r["dup_of"] is None:
            drawn[r["en"]].add(r["style"])
            if r["held_emoji"]:
                held.add(r["en"])
    styles = len({records[row]["style"] for row in rows})
    everywhere = [name for name, found in drawn.items() if len(found) >= styles - 1]
    rng.shuffle(everywhere)
    asked = [name for _, _, name, _, _ in WORDINGS]
    names = dict.fromkeys(name for name in asked if name in drawn)
    unseen = [name for name in everywhere if name in held][: counts.quick_names // 10]
    for name in [*unseen, *(name for name in everywhere if name not in held)]:
        if len(names) < counts.quick_names:
            names[name] = None
    people: set[tuple[str, str]] = set()
    for style in sorted({records[row]["style"] for row in rows}):
        bases = sorted({
            r["base_cp"] for row, r in ((row, records[row]) for row in rows)
            if r["style"] == style and r["tone"] in TONES and source.exact(row)
            and split_of(r) == "held_combo"
        })  # fmt: skip
        people |= {
            (style, base) for base in rng.sample(bases, min(len(bases), counts.quick_people))
        }
    for r in (records[row] for row in rows):
        if r["tone"] and r["en"] in asked:
            people.add((r["style"], r["base_cp"]))
    return [
        row
        for row, r in ((row, records[row]) for row in rows)
        if r["en"] in names
        or ((r["style"], r["base_cp"]) in people and (not r["tone"] or r["tone"] in TONES))
    ]


def galleries(
    writer: EvaluationWriter, source: Source, rows: Sequence[int], shown: Sequence[int]
) -> list[str]:
    """Per style its base emoji and its people in all tones, trained or not, and all that `rows`
    train with."""
    records = source.records
    single = [row for row in rows if records[row]["dup_of"] is None]
    styles = list(dict.fromkeys(records[row]["style"] for row in rows))
    for style in styles:
        own = [
            row for row in shown
            if records[row]["style"] == style and records[row]["dup_of"] is None
        ]  # fmt: skip
        writer.gallery(style, source, (row for row in own if records[row]["is_base"]))
        people = (row for row in own if records[row]["group"] == "people-body")
        writer.gallery(f"{style} people", source, people)
    trained = (row for row in single if split_of(records[row]) == "train")
    writer.gallery("trained", source, trained)
    return styles


# --- cases ---------------------------------------------------------------------------------------


def reconstructions(writer: EvaluationWriter, source: Source, rows: Sequence[int]) -> None:
    """Base emoji that no part was trained on."""
    found = [
        writer.place(source, row)
        for row in rows
        if source.records[row]["is_base"] and source.records[row]["held_emoji"]
    ]
    writer.cases.append({"task": "reconstruct", "split": "held_emoji", "pictures": found})


def drawings(writer: EvaluationWriter, source: Source, rows: dict[str, list[int]], n: int) -> None:
    """Standard prompts: trained base emoji in both languages, held_combo in English."""
    trained = [row for row in rows["train"] if source.records[row]["is_base"]][:n]
    for split, chosen, languages in (
        ("trained", trained, LANGUAGES),
        ("held_combo", rows["held_combo"][:n], LANGUAGES[:1]),
    ):
        for row in chosen:
            r = source.records[row]
            gallery = r["style"] if split == "trained" else f"{r['style']} people"
            for language in languages:
                writer.cases.append({
                    "task": "draw", "split": split, "language": language,
                    "prompt": plain_prompt(r, language), "galleries": [gallery], "name": r["en"],
                })  # fmt: skip


def typed(writer: EvaluationWriter, source: Source, rows: Sequence[int]) -> None:
    """What people type, as far as it was trained; without a style, in any style."""
    known: dict[str, set[str]] = defaultdict(set)
    for row, r in ((row, source.records[row]) for row in rows):
        if split_of(r) == "train" and source.exact(row):
            known[r["en"]].add(r["style"])
    for language, prompt, name, style, background in WORDINGS:
        ending = " people" if ": " in name else ""
        styles = [style] if style else sorted(known[name])
        found = [one + ending for one in styles if one in known[name]]
        if not found:
            print(f"left out, not trained: {prompt!r}", file=sys.stderr)
            continue
        line: dict[str, Any] = {
            "task": "draw", "split": "wordings", "language": language, "prompt": prompt,
            "galleries": found, "name": name,
        }  # fmt: skip
        if background:
            line["background"] = list(COLOURS[background])
        writer.cases.append(line)


def naming(
    writer: EvaluationWriter, source: Source, rows: dict[str, list[int]], counts: Counts
) -> None:
    """Names of trained pictures and held_combo under unseen shifts, of held_pair as drawn."""
    for split, name, n in (
        ("trained", "train", counts.names),
        ("held_combo", "held_combo", counts.names),
        ("held_pair", "held_pair", counts.names),
    ):
        for place, row in enumerate(rows[name][:n]):
            r = source.records[row]
            shift = (0, 0) if split == "held_pair" else UNSEEN_SHIFTS[place % len(UNSEEN_SHIFTS)]
            for language in LANGUAGES if split == "trained" else LANGUAGES[:1]:
                asked = ("name", language, QUESTIONS["name"][language][0][1], str(r[language]))
                writer.ask(split, writer.place(source, row), asked, shift)


def asking(
    writer: EvaluationWriter,
    source: Source,
    rows: dict[str, list[int]],
    others: Sequence[Record],
    counts: Counts,
) -> None:
    """Every kind of question in its standard wording, answers as even as the kind allows."""
    for split, name, n in (
        ("trained", "train", counts.asked),
        ("held_combo", "held_combo", counts.asked),
        ("held_pair", "held_pair", counts.reported),
        ("held_emoji", "held_emoji", counts.reported),
    ):
        for kind in KINDS:
            rng = Random(f"{SEED}:{split}:{kind}")
            fitting = [
                row
                for row in rows[name]
                if kind in ("background", "count")
                or kind in kinds_for(source.records[row], plain_view())
            ]
            if kind == "tone":
                fitting = even(fitting, lambda row: source.records[row]["tone"])
            for place, row in enumerate(fitting[:n]):
                question_case(writer, source, row, split, kind, place, others, rng)


def question_case(
    writer: EvaluationWriter,
    source: Source,
    row: int,
    split: str,
    kind: str,
    place: int,
    others: Sequence[Record],
    rng: Random,
) -> None:
    """One question in both languages; `place` makes the answers take turns."""
    r = source.records[row]
    colour = list(COLOURS)[place % len(COLOURS)] if kind == "background" else "white"
    view = plain_view(COLOURS[colour])
    shift = UNSEEN_SHIFTS[rng.randrange(len(UNSEEN_SHIFTS))]
    picture = writer.place(source, row)
    if kind == "count" and (copies := place % 4 + 1) > 1:
        view |= {"dx": 1, "dy": 1, "scale": COMPOSITE_SCALE, "copies": copies}
        picture, shift = writer.composite(source, row, view), (0, 0)
    absent = pick_absent(r, others, rng) if kind == "presence" and place % 2 else None
    for language in LANGUAGES:
        name = untoned(r if absent is None else absent, language)
        question = QUESTIONS[kind][language][0][1].format(
            name=name, a_name=with_article(name, "a"), plural=plural(name)
        )
        wanted = answer(kind, language, r, view, present=absent is None)
        writer.ask(split, picture, (kind, language, question, wanted), shift, colour)


def even(rows: Sequence[int], kind: Callable[[int], str]) -> list[int]:
    """The rows in turns: one of each kind, then the next of each."""
    seen: Counter[str] = Counter()
    order = []
    for place, row in enumerate(rows):
        order.append((seen[kind(row)], place, row))
        seen[kind(row)] += 1
    return [row for _, _, row in sorted(order)]


def unseen_style(
    writer: EvaluationWriter, source: Source, seen: set[str], n: int, seed: int = SEED
) -> None:
    """Base emoji of a style that is not trained, whose names are."""
    rows = [
        row for row, r in enumerate(source.records)
        if r["is_base"] and not r["held_emoji"] and source.exact(row) and r["cp"] in seen
    ]  # fmt: skip
    Random(seed).shuffle(rows)
    question = QUESTIONS["name"]["en"][0][1]
    for row in rows[:n]:
        asked = ("name", "en", question, str(source.records[row]["en"]))
        writer.ask("unseen_style", writer.place(source, row), asked)
    unknown = [row for row, r in enumerate(source.records) if r["is_base"]]
    Random(seed).shuffle(unknown)
    found = [writer.place(source, row) for row in unknown[:n]]
    writer.cases.append({"task": "reconstruct", "split": "unseen_style", "pictures": found})


def make(
    source: Source,
    rows: Sequence[int],
    shown: Sequence[int],
    counts: Counts,
    control: Source | None,
) -> tuple[EvaluationWriter, list[str]]:
    """The whole set, and the styles in it: cases from `rows`, the model's; galleries of `shown`."""
    writer = EvaluationWriter()
    styles = galleries(writer, source, rows, shown)
    records, splits = source.records, defaultdict(list)
    for row in rows:
        tone = records[row]["tone"]
        if source.exact(row) and (split_of(records[row]) != "held_combo" or tone in TONES):
            splits[split_of(records[row])].append(row)
    for found in splits.values():
        Random(SEED).shuffle(found)
    names = {records[row]["cp"]: records[row] for row in rows
             if split_of(records[row]) == "train" and records[row]["is_base"]}  # fmt: skip
    reconstructions(writer, source, shown)
    drawings(writer, source, splits, counts.draws)
    typed(writer, source, rows)
    naming(writer, source, splits, counts)
    asking(writer, source, splits, list(names.values()), counts)
    if control is not None:
        unseen_style(writer, control, set(names), counts.unseen_style)
    return writer, styles


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the evaluation set of nano.")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--twemoji", type=Path, default=Path("runs/nano/twemoji"))
    parser.add_argument("--out", type=Path, help="default: runs/nano/full/evaluation, or package")
    parser.add_argument(
        "--selection",
        type=Path,
        default=Path(__file__).with_name("full") / "selection.json",
        help="JSON file: what the model was trained on",
    )
    parser.add_argument("--quick", action="store_true", help="the small set of the package")
    asked = parser.parse_args(arguments)
    out = asked.out or (QUICK_OUT if asked.quick else Path("runs/nano/full/evaluation"))
    try:
        source = Source(asked.data)
        data = json.loads(asked.selection.read_text(encoding="utf-8"))
        rows = Selection.from_json(data).rows(source.records)
        if asked.quick:
            chosen = quick_rows(source, rows, QUICK)
            writer, styles = make(source, chosen, chosen, QUICK, None)
        else:
            everything = range(len(source.records))
            writer, styles = make(source, rows, everything, Counts(), Source(asked.twemoji))
        writer.write(out, f"nano {'quick' if asked.quick else 'full'}", styles, asked.quick)
        size = sum(path.stat().st_size for path in out.iterdir())
        if asked.quick and size > QUICK_BYTES:
            raise ValueError(f"the quick set has {size:,} bytes, more than {QUICK_BYTES:,}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    tasks = Counter((one["task"], one["split"]) for one in writer.cases)
    print(f"{out}: {len(writer.pictures):,} pictures, {size:,} bytes")
    print(", ".join(f"{task} {split} {count}" for (task, split), count in tasks.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
