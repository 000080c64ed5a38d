"""The figures of nano: what is measured, with what, and how good it must be.

Rows are numbered as in the specification: 1 reconstruction, 2 text to image, 3 picture to name,
4 unseen skin tones of known people, 5 unseen drawings, 6 questions with exact answers, 7 style, 8
seconds; "wordings" are prompts as people type them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from dromaius.evaluation.bench import GREEDY, SAMPLED, Bench, Progress
from dromaius.evaluation.cases import Draw, EvaluationSet, Question, View
from dromaius.evaluation.figures import Figure, mean, share

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

LANGUAGES = ("en", "zh")
KINDS = ("category", "style", "tone", "background", "count", "presence")
KIND_NAMES = {"background": "background colour", "tone": "skin tone", "presence": "yes or no"}
SEEN_PER_CODE = 16
"""Codes in use say something once each could have been seen so often."""
TRAINED_GALLERY = "trained"
"""All pictures that the language model has seen: where figure 5's baseline looks."""

DRAWING = (  # options, language, must, goal
    ("greedy", "en", 0.90, 0.98),
    ("sampled", "en", 0.80, 0.95),
    ("greedy", "zh", 0.85, 0.97),
    ("sampled", "zh", 0.80, 0.95),
)
OPTIONS = {"greedy": GREEDY, "sampled": SAMPLED}


def evaluate(
    model: Emu3,
    cases: EvaluationSet,
    limit: int | None = None,
    rows: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Figure]:
    """All figures of the rows asked for (None: of every row of ROWS), those without cases left out.

    Args:
        model: what `dromaius.load` returns.
        cases: see `read_set`.
        limit: cases per split, language and kind, the first ones.
        rows: of the keys of ROWS.
        progress: called as cases are done.
    """
    bench = Bench(model, cases, limit, progress)
    chosen = [row for row in ROWS if rows is None or row in rows]
    bench.total = sum(ROWS[row][0](bench) for row in chosen)
    found = [figure for row in chosen for figure in ROWS[row][1](bench)]
    return [figure for figure in found if figure.cases]


# --- 1 -------------------------------------------------------------------------------------------


def _count_reconstruction(bench: Bench) -> int:
    return sum(len(bench.reconstructions(split)) for split in ("held_emoji", "unseen_style"))


def reconstruction(bench: Bench) -> list[Figure]:
    """Pictures that no part was trained on, encoded and decoded."""
    pictures = bench.reconstructions("held_emoji")
    psnr, ssim, used = bench.reconstruct(pictures)
    control, _, _ = bench.reconstruct(bench.reconstructions("unseen_style"))
    size = bench.model.vocabulary.codebook_size
    factor = bench.model.spatial_factor
    enough = len(pictures) * (bench.cases.side // factor) ** 2 >= SEEN_PER_CODE * size
    codes = Figure("1", "reconstruction, unseen emoji: codes in use", len(used) / size,
                   len(pictures), must=0.95 if enough else None, goal=0.98)  # fmt: skip
    return [
        mean("1", "reconstruction, unseen emoji: PSNR in dB", psnr, 25.0, 27.0),
        mean("1", "reconstruction, unseen emoji: SSIM", ssim, 0.86, 0.90, digits=3),
        codes,
        mean("1", "reconstruction, unseen style (twemoji): PSNR in dB", control, 22.5),
    ]


# --- 2 and 7 -------------------------------------------------------------------------------------


def _count_drawing(bench: Bench) -> int:
    return sum(len(bench.draws("trained", language)) for _, language, _, _ in DRAWING)


def drawing(bench: Bench) -> list[Figure]:
    """Trained names: the nearest picture of the asked style should have the name. The greedy
    English drawings serve row 7 as well: is the nearest picture of all styles of that style?"""
    figures, style = [], []
    for way, language, must, goal in DRAWING:
        draws = bench.draws("trained", language)
        if not draws:
            continue
        drawn = bench.draw(draws, OPTIONS[way])
        names = [name for _, name in bench.found(drawn, draws)]
        hits = [found == one.name for found, one in zip(names, draws, strict=True)]
        figures.append(share("2", f"text to image, {way}, {language}", hits, must, goal))
        if (way, language) == ("greedy", "en"):
            others = [*draws[1:], draws[0]]
            shuffled = [found == one.name for found, one in zip(names, others, strict=True)]
            figures.append(share("2", "control: the names of other prompts", shuffled))
            anywhere = [replace(one, galleries=bench.cases.styles) for one in draws]
            galleries = [gallery for gallery, _ in bench.found(drawn, anywhere)]
            obeyed = [
                found == one.galleries[0] for found, one in zip(galleries, draws, strict=True)
            ]
            style = [share("7", "style obeyed, greedy, en", obeyed, 0.85, 0.97)]
    return [*figures, *style]


# --- 3, 4, 5 -------------------------------------------------------------------------------------


def _hits(answers: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    return [found == one.answer for found, one in zip(answers, questions, strict=True)]


def _asked(bench: Bench, split: str, kind: str, language: str) -> list[bool]:
    questions = bench.questions(split, kind, language)
    return _hits(bench.answer(questions), questions)


def _count_naming(bench: Bench) -> int:
    return sum(len(bench.questions("trained", "name", language)) for language in LANGUAGES)


def naming(bench: Bench) -> list[Figure]:
    """Trained pictures, moved as training never moves them."""
    return [
        share("3", f"picture to name, unseen shift, {language}",
              _asked(bench, "trained", "name", language), 0.85, 0.97)
        for language in LANGUAGES
    ]  # fmt: skip


def _count_combinations(bench: Bench) -> int:
    return len(bench.questions("held_combo", "name", "en")) + len(bench.draws("held_combo", "en"))


def combinations(bench: Bench) -> list[Figure]:
    """People and hands in a skin tone in which training does not show them, in this style."""
    parts = bench.cases.parts
    questions = bench.questions("held_combo", "name", "en")
    pairs = [
        (parts(found), parts(one.answer))
        for found, one in zip(bench.answer(questions), questions, strict=True)
    ]
    draws = bench.draws("held_combo", "en")
    drawn = bench.draw(draws, GREEDY)
    drawn_pairs = [
        (parts(found), parts(one.name))
        for (_, found), one in zip(bench.found(drawn, draws), draws, strict=True)
    ]
    what = "unseen skin tone"
    return [
        share("4", f"{what}: name exact, en", [a == b for a, b in pairs], 0.60, 0.85),
        share("4", f"{what}: tone named, en", [a[1] == b[1] for a, b in pairs], 0.90, 0.98),
        share("4", f"{what}: person named, en", [a[0] == b[0] for a, b in pairs], 0.65, 0.90),
        share("4", f"{what}: tone drawn, greedy, en", [a[1] == b[1] for a, b in drawn_pairs],
              0.60, 0.95),
        share("4", f"{what}: person drawn, greedy, en", [a[0] == b[0] for a, b in drawn_pairs],
              0.40, 0.80),
    ]  # fmt: skip


UNSEEN = {"held_pair": "known emoji in another style", "unseen_style": "unseen style (twemoji)"}


def _count_unseen(bench: Bench) -> int:
    return sum(len(bench.questions(split, "name", "en")) for split in UNSEEN)


def unseen(bench: Bench) -> list[Figure]:
    """Drawings that training does not show, of emoji that it shows in other styles."""
    figures = []
    for split, what in UNSEEN.items():
        questions = bench.questions(split, "name", "en")
        goal = 0.60 if split == "held_pair" else None
        hits = _hits(bench.answer(questions), questions)
        figures.append(share("5", f"{what}: name exact, en", hits, goal=goal))
        if questions and TRAINED_GALLERY in bench.cases.galleries:
            near = _hits(bench.neighbours(questions, TRAINED_GALLERY), questions)
            figures.append(share("5", f"{what}: nearest trained picture's name", near))
    return figures


# --- 6 -------------------------------------------------------------------------------------------

COUNTED = ("trained", "held_combo")
REPORTED = {"held_pair": "known emoji in another style", "held_emoji": "unseen emoji"}


def _questions(bench: Bench, kind: str, splits: Sequence[str]) -> list[Question]:
    return [
        one
        for language in LANGUAGES
        for split in splits
        for one in bench.questions(split, kind, language)
    ]


def _blank(bench: Bench, kind: str) -> list[Question]:
    """Every fifth question that counts, for the control: answers take turns by 2, 4, 6 and 9."""
    return _questions(bench, kind, COUNTED)[::5]


def _count_asking(bench: Bench) -> int:
    return sum(
        len(_questions(bench, kind, (*COUNTED, *REPORTED))) + len(_blank(bench, kind))
        for kind in KINDS
    )


def asking(bench: Bench) -> list[Figure]:
    """Questions with exact answers: on trained pictures and unseen tones they count, on unseen
    drawings they are reported; about a white picture they show what the wording gives away."""
    figures = []
    for kind in KINDS:
        name = KIND_NAMES.get(kind, kind)
        questions = _questions(bench, kind, COUNTED)
        hits = _hits(bench.answer(questions), questions)
        figures.append(share("6", f"question: {name}", hits, 0.85, 0.95))
        for language in LANGUAGES:
            part = [
                hit for hit, one in zip(hits, questions, strict=True) if one.language == language
            ]
            figures.append(share("6", f"question: {name}, {language}", part))
    for split, what in REPORTED.items():
        for kind in KINDS:
            questions = _questions(bench, kind, (split,))
            hits = _hits(bench.answer(questions), questions)
            figures.append(share("6", f"{what}: {KIND_NAMES.get(kind, kind)}", hits))
    for kind in KINDS:
        questions = _blank(bench, kind)
        hits = _hits(bench.answer_blank(questions), questions)
        figures.append(share("6", f"control, white picture: {KIND_NAMES.get(kind, kind)}", hits))
    return figures


# --- 8 and wordings ------------------------------------------------------------------------------


def timing(bench: Bench) -> list[Figure]:
    """One picture with the model's own guidance, one answer: the best of five."""
    draws = [*bench.draws("trained", "en"), *bench.cases.draws]
    questions = [*bench.questions("trained", "name", "en"), *bench.cases.questions]
    prompt = draws[0].prompt if draws else "a picture"
    question = questions[0].question if questions else "What is in the image?"
    picture = Image.fromarray(bench.cases.show(View(questions[0].view.picture if questions else 0)))
    jobs: list[tuple[str, Callable[[], object], float, float]] = [
        ("a picture with guidance", lambda: bench.model.generate_image(prompt, seed=7), 0.5, 0.25),
        ("an answer", lambda: bench.model.answer(picture, question, 16), 0.2, 0.1),
    ]
    return [
        Figure("8", f"seconds: {what}", bench.seconds(job), 5, must=must, goal=goal, digits=3,
               less_is_better=True)
        for what, job, must, goal in jobs
    ]  # fmt: skip


def _count_wordings(bench: Bench) -> int:
    return len(OPTIONS) * sum(len(bench.draws("wordings", language)) for language in LANGUAGES)


def wordings(bench: Bench) -> list[Figure]:
    """Prompts as people type them; without a style any style may come."""
    draws: list[Draw] = [d for lang in LANGUAGES for d in bench.draws("wordings", lang)]
    figures = []
    for way, options in OPTIONS.items():
        pairs = zip(bench.found(bench.draw(draws, options), draws), draws, strict=True)
        hits = [found == one.name for (_, found), one in pairs]
        figures.append(share("wordings", f"wordings that people type, {way}", hits))
    return figures


ROWS: dict[str, tuple[Callable[[Bench], int], Callable[[Bench], list[Figure]]]] = {
    "1": (_count_reconstruction, reconstruction),
    "2": (_count_drawing, drawing),
    "3": (_count_naming, naming),
    "4": (_count_combinations, combinations),
    "5": (_count_unseen, unseen),
    "6": (_count_asking, asking),
    "8": (lambda bench: 10, timing),
    "wordings": (_count_wordings, wordings),
}
"""How many cases a row has, and the row; row 7 comes with row 2."""


def missed(figures: Sequence[Figure]) -> list[Figure]:
    """Figures whose "must" lies beyond their interval."""
    return [one for one in figures if one.met == "no"]
