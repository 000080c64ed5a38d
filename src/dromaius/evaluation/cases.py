"""An evaluation set: a folder with pictures, galleries of named pictures, and cases.

    set.json      name, size and file of the pictures, galleries, styles, attributes
    pictures.npy  uint8 [N,S,S,4], straight alpha; or pictures.webp, one lossless picture with all
                  of them in rows of `columns`
    cases.jsonl   one case a line, by its "task": reconstruct, draw, ask

What a picture shows is words in galleries and cases; nothing here knows what they are about.

Legend: N pictures, S side in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dromaius.errors import InputError
from dromaius.files import read_bytes
from dromaius.io.jsonl import read_jsonl

WHITE = (255, 255, 255)
MAX_PICTURES = 100_000
MAX_SIDE = 1024
MAX_HEADER_BYTES = 64 * 2**20

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Gallery:
    """Pictures with names, among which the nearest one is looked for."""

    pictures: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A picture on a colour, moved right and down by so many pixels."""

    picture: int
    background: Colour = WHITE
    shift: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Draw:
    """A prompt, and the name that the nearest picture of the galleries should have."""

    split: str
    language: str
    prompt: str
    galleries: tuple[str, ...]
    name: str
    background: Colour = WHITE


@dataclass(frozen=True)
class Question:
    """A question about a view, and its exact answer."""

    split: str
    language: str
    kind: str
    view: View
    question: str
    answer: str


@dataclass(frozen=True)
class EvaluationSet:
    """What a model is measured with."""

    name: str
    pictures: np.ndarray
    """uint8 [N,S,S,4], straight alpha."""
    galleries: Mapping[str, Gallery]
    styles: tuple[str, ...]
    """The galleries that differ in style."""
    attributes: frozenset[str]
    """Words that a name may carry behind its ": ", as in "waving hand: dark skin tone"."""
    reconstructions: Mapping[str, tuple[int, ...]]
    """Pictures to encode and decode, by split."""
    draws: tuple[Draw, ...]
    questions: tuple[Question, ...]

    @property
    def side(self) -> int:
        return int(self.pictures.shape[1])

    def show(self, view: View) -> np.ndarray:
        """The view as opaque RGB uint8 [S,S,3]; what leaves the frame is cut off."""
        rgba = self.pictures[view.picture]
        dx, dy = view.shift
        if dx or dy:
            moved, side = np.zeros_like(rgba), self.side
            to_x, to_y = slice(max(dx, 0), side + min(dx, 0)), slice(max(dy, 0), side + min(dy, 0))
            from_x = slice(max(-dx, 0), side - max(dx, 0))
            from_y = slice(max(-dy, 0), side - max(dy, 0))
            moved[to_y, to_x] = rgba[from_y, from_x]
            rgba = moved
        alpha = rgba[..., 3:].astype(np.uint32)
        below = np.array(view.background, np.uint32)
        shown = (rgba[..., :3] * alpha + below * (255 - alpha) + 127) // 255
        return shown.astype(np.uint8)

    def parts(self, name: str) -> tuple[str, tuple[str, ...]]:
        """A name's base and its attributes: "man: dark skin tone, beard" -> ("man, beard", ...)."""
        base, _, rest = name.partition(": ")
        words = rest.split(", ") if rest else []
        others = [word for word in words if word not in self.attributes]
        return ", ".join([base, *others]), tuple(w for w in words if w in self.attributes)


def read_set(folder: Path) -> EvaluationSet:
    """Reads an evaluation set. Raises InputError in one line for a folder that holds none."""
    try:
        head = json.loads(read_bytes(folder / "set.json", MAX_HEADER_BYTES))
        if head.get("format") != "dromaius-evaluation" or head.get("format_version") != 1:
            raise InputError(f"{folder / 'set.json'} is not an evaluation set of version 1")
        pictures = _pictures(folder, head["pictures"])
        galleries = {
            str(name): Gallery(_indices(one["pictures"], pictures), tuple(one["names"]))
            for name, one in head["galleries"].items()
        }
        if wrong := [n for n, g in galleries.items() if len(g.pictures) != len(g.names)]:
            raise InputError(f"{folder / 'set.json'}: gallery {wrong[0]!r} lacks names")
        cases = _Cases(pictures, galleries)
        for row in read_jsonl(folder / "cases.jsonl"):
            cases.add(row)
        found = {split: tuple(rows) for split, rows in cases.reconstructions.items()}
        return EvaluationSet(
            str(head["name"]),
            pictures,
            galleries,
            tuple(head["styles"]),
            frozenset(head["attributes"]),
            found,
            tuple(cases.draws),
            tuple(cases.questions),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} is not a whole evaluation set: {error!r}") from None


class _Cases:
    """Lines of cases.jsonl, sorted by task."""

    def __init__(self, pictures: np.ndarray, galleries: Mapping[str, Gallery]) -> None:
        self._pictures, self._galleries = pictures, galleries
        self.reconstructions: dict[str, list[int]] = {}
        self.draws: list[Draw] = []
        self.questions: list[Question] = []

    def add(self, row: Mapping[str, Any]) -> None:
        task, split = row["task"], str(row["split"])
        background = _colour(row.get("background", WHITE))
        if task == "reconstruct":
            self.reconstructions.setdefault(split, []).extend(
                _indices(row["pictures"], self._pictures)
            )
        elif task == "draw":
            given = tuple(row["galleries"])
            if not given or not set(given) <= self._galleries.keys():
                raise InputError(f"a case names galleries that the set lacks: {list(given)}")
            prompt, name = str(row["prompt"]), str(row["name"])
            self.draws.append(Draw(split, row["language"], prompt, given, name, background))
        elif task == "ask":
            dx, dy = map(int, row.get("shift", (0, 0)))
            if max(abs(dx), abs(dy)) >= self._pictures.shape[1]:
                raise InputError(f"a case moves its picture out of sight: {[dx, dy]}")
            [index] = _indices([row["picture"]], self._pictures)
            view = View(index, background, (dx, dy))
            for kind, language, question, answer in row["asked"]:
                self.questions.append(
                    Question(split, language, kind, view, str(question), str(answer))
                )
        else:
            raise InputError(f"unknown task {task!r} in cases.jsonl")


def _indices(rows: Sequence[int], pictures: np.ndarray) -> tuple[int, ...]:
    found = tuple(map(int, rows))
    if found and not 0 <= min(found) <= max(found) < len(pictures):
        raise InputError(f"a case names a picture outside of 0..{len(pictures) - 1}")
    return found


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{list(values)} is not a colour of three numbers in 0..255")
    return red, green, blue


def _pictures(folder: Path, head: Mapping[str, Any]) -> np.ndarray:
    count, side, name = int(head["count"]), int(head["side"]), str(head["file"])
    if not (0 < count <= MAX_PICTURES and 0 < side <= MAX_SIDE) or Path(name).name != name:
        raise InputError(f"{folder / 'set.json'}: impossible pictures {dict(head)}")
    path = folder / name
    if not path.is_file():
        raise InputError(f"the evaluation set in {folder} lacks {name}")
    if path.suffix == ".npy":
        pictures: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        columns = int(head["columns"])
        rows = -(-count // columns)
        try:
            with Image.open(path) as atlas:
                if atlas.size != (columns * side, rows * side):
                    raise InputError(f"{path} is {atlas.size} pixels, not as set.json says")
                flat = np.asarray(atlas.convert("RGBA"))  # [rows*S,columns*S,4]
        except OSError as error:
            raise InputError(f"{path} is no picture that can be read: {error}") from None
        grid = flat.reshape(rows, side, columns, side, 4).swapaxes(1, 2)
        pictures = grid.reshape(rows * columns, side, side, 4)[:count]
    if pictures.shape != (count, side, side, 4) or pictures.dtype != np.uint8:
        raise InputError(f"{path} holds {pictures.dtype} {pictures.shape}, not as set.json says")
    return pictures
