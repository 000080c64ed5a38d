"""A small evaluation set of coloured squares, and models that know it by heart or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from dromaius.evaluation.cases import EvaluationSet, View, read_set

SIDE = 12
TONES = ("light", "dark")
STYLES = ("plain", "bold")
NAMES = tuple(f"thing {number}" for number in range(6))


def write_set(folder: Path, webp: bool = False) -> Path:
    """Two styles of six things, and one hand in two tones for each style."""
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (len(STYLES) * (len(NAMES) + len(TONES)), SIDE, SIDE, 4))
    pictures = pictures.astype(np.uint8)
    pictures[..., 3] = np.where(rng.random(pictures.shape[:3]) < 0.3, 0, 255)
    galleries: dict[str, Any] = {}
    cases: list[dict[str, Any]] = []
    place = 0
    for style in STYLES:
        rows = list(range(place, place + len(NAMES)))
        galleries[style] = {"pictures": rows, "names": list(NAMES)}
        place += len(NAMES)
        hands = list(range(place, place + len(TONES)))
        toned = [f"hand: {tone} skin" for tone in TONES]
        galleries[f"{style} people"] = {"pictures": hands, "names": toned}
        place += len(TONES)
        for row, name in zip(rows, NAMES, strict=True):
            for language in ("en", "zh"):
                cases.append(draw("trained", language, f"{name}, {style}", style, name))
                name_of = ["name", f"what, {language}?", f"{name} {language}"]
                cases.append(ask("trained", language, row, name_of, shift=[1, -2]))
                for kind in ("category", "style", "background", "count", "presence"):
                    colour = [10, 200, 30] if kind == "background" else [255, 255, 255]
                    answer = f"{kind} of {row}" if kind != "presence" else "yes"
                    wanted = [kind, f"{kind}?", answer]
                    cases.append(ask("trained", language, row, wanted, [2, 0], colour))
        for row, name in zip(hands, toned, strict=True):
            cases.append(draw("held_combo", "en", f"{name}, {style}", f"{style} people", name))
            cases.append(ask("held_combo", "en", row, ["name", "what?", name], [0, 1]))
            for language in ("en", "zh"):
                cases.append(ask("held_combo", language, row, ["tone", "tone?", name[6:]]))
    galleries["trained"] = galleries["plain"]
    cases.append(ask("held_pair", "en", len(NAMES) + len(TONES), ["name", "what?", NAMES[0]]))
    cases.append({"task": "reconstruct", "split": "held_emoji", "pictures": [0, 1, 2]})
    wording = draw("wordings", "en", "a thing 3 on green", "plain", NAMES[3])
    cases.append(wording | {"galleries": list(STYLES), "background": [10, 200, 30]})
    folder.mkdir(parents=True)
    head: dict[str, Any] = {"file": "pictures.npy", "count": len(pictures), "side": SIDE}
    if webp:
        head |= {"file": "pictures.webp", "columns": 4}
        grid = pictures.reshape(-1, 4, SIDE, SIDE, 4).swapaxes(1, 2)
        atlas = Image.fromarray(grid.reshape(-1, 4 * SIDE, 4))
        atlas.save(folder / "pictures.webp", lossless=True)
    else:
        np.save(folder / "pictures.npy", pictures)
    (folder / "cases.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cases))
    content = {
        "format": "dromaius-evaluation",
        "format_version": 1,
        "name": "squares",
        "pictures": head,
        "styles": list(STYLES),
        "attributes": [f"{tone} skin" for tone in TONES],
        "galleries": galleries,
    }
    (folder / "set.json").write_text(json.dumps(content))
    return folder


def draw(split: str, language: str, prompt: str, gallery: str, name: str) -> dict[str, Any]:
    return {"task": "draw", "split": split, "language": language, "prompt": prompt,
            "galleries": [gallery], "name": name}  # fmt: skip


def ask(
    split: str,
    language: str,
    picture: int,
    asked: Sequence[str],
    shift: Sequence[int] = (0, 0),
    background: Sequence[int] = (255, 255, 255),
) -> dict[str, Any]:
    question = [asked[0], language, *asked[1:]]
    return {"task": "ask", "split": split, "picture": picture,
            "shift": list(shift), "background": list(background), "asked": [question]}  # fmt: skip


class Oracle:
    """Draws the gallery's picture and gives the right answer; codes are the pixels' red."""

    vocabulary = SimpleNamespace(codebook_size=256)
    spatial_factor = 1
    name, hash = "oracle", "0"

    def __init__(self, folder: Path) -> None:
        self.cases: EvaluationSet = read_set(folder)
        self.prompts: list[str] = []
        self.options: list[dict[str, Any]] = []
        self._views: dict[bytes, list[Any]] = {}
        for one in self.cases.questions:
            self._views.setdefault(self.cases.show(one.view).tobytes(), []).append(one)
        self._draws = {one.prompt: one for one in self.cases.draws}

    def generate_image(self, prompt: str | list[str], **options: Any) -> Any:
        if isinstance(prompt, str):
            return self._drawing(prompt)
        self.prompts += prompt
        self.options.append(options)
        return [self._drawing(one) for one in prompt]

    def _drawing(self, prompt: str) -> Image.Image:
        case = self._draws[prompt]
        gallery = self.cases.galleries[case.galleries[0]]
        picture = gallery.pictures[gallery.names.index(case.name)]
        return Image.fromarray(self.cases.show(View(picture, case.background)))

    def encode_image(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture)

    def decode_image(self, codes: np.ndarray) -> Image.Image:
        return Image.fromarray(codes)

    def answer(self, picture: Any, question: str, max_new_tokens: int) -> str:
        found = self._views.get(np.asarray(picture).tobytes(), [])
        matching = [one.answer for one in found if one.question == question]
        return matching[0] if matching else "?"

    def require_language_model(self) -> None: ...

    def require_vision_tokenizer(self) -> None: ...


class Noise(Oracle):
    """Draws noise, decodes to noise and says nothing that is right."""

    def _drawing(self, prompt: str) -> Image.Image:
        rng = np.random.default_rng(len(prompt))
        return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))

    def decode_image(self, codes: np.ndarray) -> Image.Image:
        return self._drawing("noise")

    def answer(self, picture: Any, question: str, max_new_tokens: int) -> str:
        return "no idea"
