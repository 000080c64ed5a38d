"""What an evaluation set is made from, and its files (dromaius.evaluation.cases reads them)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from build_data import read_lines, write_array, write_text
from captions import Record
from palette import COLOURS, TONE_WORDS
from render import View, render_view

ATLAS_COLUMNS = 32
TONES = tuple(tone for tone in TONE_WORDS if tone)


class Source:
    """The drawn pictures of a folder of build_data.py, and which of them are used."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "pictures.jsonl").is_file():
            raise ValueError(f"no pictures in {folder}: run recipes/nano/build_data.py, for twemoji"
                             " with --styles twemoji --out runs/nano/twemoji")  # fmt: skip
        self.records: list[Record] = read_lines(folder / "pictures.jsonl")
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        self._twins = {(r["style"], r["dup_of"]) for r in self.records if r["dup_of"] is not None}

    def exact(self, row: int) -> bool:
        """Whether the pixels have one name only."""
        r = self.records[row]
        return r["dup_of"] is None and (r["style"], r["cp"]) not in self._twins


class EvaluationWriter:
    """Pictures, galleries and cases as they are collected."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []
        self.galleries: dict[str, dict[str, list[Any]]] = {}
        self.cases: list[dict[str, Any]] = []
        self._places: dict[object, int] = {}
        self._lines: dict[object, dict[str, Any]] = {}

    def place(self, source: Source, row: int) -> int:
        """The number of a stored picture."""
        return self._place((id(source), row), lambda: source.pictures[row])

    def composite(self, source: Source, row: int, view: View) -> int:
        """The number of a picture of several copies, rendered here: opaque."""

        def render() -> np.ndarray:
            shown = render_view(np.asarray(source.pictures[row]), view)
            return np.dstack([shown, np.full(shown.shape[:2], 255, np.uint8)])

        return self._place((id(source), row, json.dumps(view)), render)

    def _place(self, key: object, picture: Callable[[], np.ndarray]) -> int:
        if key not in self._places:
            self._places[key] = len(self.pictures)
            self.pictures.append(np.asarray(picture()))
        return self._places[key]

    def gallery(self, name: str, source: Source, rows: Iterable[int]) -> None:
        """A gallery of stored pictures with their English names; an empty one is none."""
        found = list(rows)
        if found:
            self.galleries[name] = {
                "pictures": [self.place(source, row) for row in found],
                "names": [source.records[row]["en"] for row in found],
            }

    def ask(
        self,
        split: str,
        picture: int,
        asked: tuple[str, str, str, str],
        shift: tuple[int, int] = (0, 0),
        background: str = "white",
    ) -> None:
        """Kind, language, question, answer; both languages share a line, kinds do not, so that
        the first so many cases of a kind are as even as all."""
        key = (split, picture, shift, background, asked[0])
        if key not in self._lines:
            line: dict[str, Any] = {"task": "ask", "split": split, "picture": picture}
            if shift != (0, 0):
                line["shift"] = list(shift)
            if background != "white":
                line["background"] = list(COLOURS[background])
            self._lines[key] = line | {"asked": []}
            self.cases.append(self._lines[key])
        self._lines[key]["asked"].append(list(asked))

    def write(self, out: Path, name: str, styles: Sequence[str], webp: bool) -> None:
        """set.json last, so that a folder with one is whole."""
        out.mkdir(parents=True, exist_ok=True)
        size, count = self.pictures[0].shape[0], len(self.pictures)
        head: dict[str, Any] = {"file": "pictures.npy", "count": count, "side": size}
        (out / "set.json").unlink(missing_ok=True)
        if webp:
            head |= {"file": "pictures.webp", "columns": ATLAS_COLUMNS}
            write_atlas(out / "pictures.webp", self.pictures)
        else:
            write_array(out / "pictures.npy", [one[None] for one in self.pictures], size)
        write_text(out / "cases.jsonl", "".join(compact(one) for one in self.cases))
        content = {
            "format": "dromaius-evaluation",
            "format_version": 1,
            "name": name,
            "pictures": head,
            "styles": list(styles),
            "attributes": [TONE_WORDS[tone].en for tone in TONES],
            "galleries": self.galleries,
        }
        write_text(out / "set.json", compact(content))


def compact(value: dict[str, Any]) -> str:
    """A line of JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_atlas(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """All pictures in one lossless WebP; colours under full transparency are not kept."""
    size, columns = pictures[0].shape[0], ATLAS_COLUMNS
    rows = -(-len(pictures) // columns)
    atlas = np.zeros((rows * size, columns * size, 4), np.uint8)
    for place, picture in enumerate(pictures):
        y, x = divmod(place, columns)
        atlas[y * size : (y + 1) * size, x * size : (x + 1) * size] = picture
    Image.fromarray(atlas).save(path, lossless=True, quality=100, method=6)
