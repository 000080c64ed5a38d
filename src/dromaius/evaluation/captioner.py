"""The figures of nano-captioner: names of nano's pictures, and Emu3 nano's beside them.

The pictures, their views and the right names are those of nano's evaluation set; a captioner is
shown the view and asked nothing, nano is asked for the name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from dromaius.evaluation.bench import Bench, Progress
from dromaius.evaluation.cases import EvaluationSet, Question
from dromaius.evaluation.figures import Figure, share

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3
    from dromaius.pipelines.reading.image_to_text import ImageToText

BATCH = 32
SPLITS = {
    "trained": "trained picture, unseen shift",
    "held_combo": "unseen skin tone",
    "held_pair": "known emoji in another style",
    "unseen_style": "unseen style (twemoji)",
}
MUST, GOAL = 0.85, 0.97
"""Of trained pictures, as nano's row 3."""
Ask = Callable[[Sequence[Question]], list[str]]


def evaluate(
    model: ImageToText,
    cases: EvaluationSet,
    limit: int | None = None,
    beside: Emu3 | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Figure]:
    """Exact names by split; with `beside`, an Emu3 model, the same rows of it."""
    asked = {split: _named(cases, split)[:limit] for split in SPLITS}
    total = sum(map(len, asked.values())) * (1 if beside is None else 2)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    figures = _figures(cases, asked, lambda questions: captions(model, cases, questions, tick))
    if beside is not None:
        bench = Bench(beside, cases, limit, lambda one, of: tick(1))
        figures += _figures(cases, asked, bench.answer, f"{beside.name}: ")
    return [one for one in figures if one.cases]


def _named(cases: EvaluationSet, split: str) -> list[Question]:
    wanted = (split, "name", "en")
    return [one for one in cases.questions if (one.split, one.kind, one.language) == wanted]


def captions(
    model: ImageToText, cases: EvaluationSet, questions: Sequence[Question], tick: Any
) -> list[str]:
    """What the model says of each question's view."""
    found: list[str] = []
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        pictures = [Image.fromarray(cases.show(one.view)) for one in part]
        found += [one.text.strip() for one in model.caption(pictures, batch_size=BATCH)]
        tick(len(part))
    return found


def _figures(
    cases: EvaluationSet, asked: dict[str, list[Question]], ask: Ask, who: str = ""
) -> list[Figure]:
    """Whose model it is stands before the names of figures that are not the captioner's."""
    figures = []
    for row, (split, what) in enumerate(SPLITS.items(), start=1):
        questions = asked[split]
        if not questions:
            continue
        found = ask(questions)
        must, goal = (MUST, GOAL) if split == "trained" and not who else (None, None)
        right = [one.answer for one in questions]
        name = f"{who}{what}"
        figures.append(share(str(row), f"{name}: name exact", _same(found, right), must, goal))
        if split == "trained" and not who:
            others = [*right[1:], right[0]]
            figures.append(share("1", "control, names of other pictures", _same(found, others)))
        if split == "held_combo":
            parts = [(cases.parts(a), cases.parts(b)) for a, b in zip(found, right, strict=True)]
            tones = [a[1] == b[1] for a, b in parts]
            figures.append(share(str(row), f"{name}: tone named", tones))
            figures.append(
                share(str(row), f"{name}: person named", [a[0] == b[0] for a, b in parts])
            )
    return figures


def _same(found: Sequence[str], right: Sequence[str]) -> list[bool]:
    return [one == other for one, other in zip(found, right, strict=True)]
