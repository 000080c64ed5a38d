"""The figures of nano-reader: characters read wrong, on lines that no training saw.

A set of lines is a folder with lines.webp, grey, one line of text below the other, and lines.json:
{"name", "height", "texts": [...], "fonts": [...]}. Legend: N lines, H and W pixels of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from dromaius.errors import InputError
from dromaius.evaluation.figures import Figure, rate, share
from dromaius.files import read_bytes
from dromaius.io.images import open_image
from dromaius.training.vision_encoder_decoder.figures import edit_distance

if TYPE_CHECKING:
    from dromaius.pipelines.reading.image_to_text import ImageToText

BATCH = 32
MAX_HEADER_BYTES = 4 * 2**20
MUST, GOAL = 0.02, 0.01
WORN_SEED = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lines:
    """Pictures of one line each, what they say, and the typeface it is printed in."""

    name: str
    pictures: np.ndarray
    """uint8 [N,H,W]."""
    texts: tuple[str, ...]
    fonts: tuple[str, ...]

    def first(self, limit: int | None) -> Lines:
        """The first `limit` of them; None: all."""
        cut = slice(limit)
        return Lines(self.name, self.pictures[cut], self.texts[cut], self.fonts[cut])


def read_lines(folder: Path) -> Lines:
    """A set of lines. Raises InputError in one line for a folder that holds none."""
    try:
        head = json.loads(read_bytes(folder / "lines.json", MAX_HEADER_BYTES))
        texts, fonts = (tuple(map(str, head[key])) for key in ("texts", "fonts"))
        height = int(head["height"])
        grey = np.asarray(open_image(folder / "lines.webp"))[..., 0]  # [N*H,W]
        if not texts or len(fonts) != len(texts) or grey.shape[0] != height * len(texts):
            raise InputError(f"{folder}: lines.webp does not hold {len(texts)} lines of {height}")
        pictures = grey.reshape(len(texts), height, grey.shape[1])
        return Lines(str(head["name"]), pictures, texts, fonts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} is not a whole set of lines: {error!r}") from None


def evaluate(
    model: ImageToText,
    lines: Lines,
    limit: int | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Figure]:
    """Lines as they are, lines that are worn, and what guessing would give."""
    lines = lines.first(limit)
    ways = {"clean": lines.pictures, "worn": worn(lines.pictures)}
    figures: list[Figure] = []
    done, total = 0, len(ways) * len(lines.texts)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for row, (way, pictures) in enumerate(ways.items(), start=1):
        read = read_all(model, pictures, tick)
        must, goal = (MUST, GOAL) if way == "clean" else (None, None)
        figures += [
            error_rate(str(row), f"{way}, unseen fonts and texts: characters wrong", read,
                       lines.texts, must, goal),
            share(str(row), f"{way}: lines without a fault",
                  [one == text for one, text in zip(read, lines.texts, strict=True)]),
        ]  # fmt: skip
        if way == "clean":
            others = (*lines.texts[1:], lines.texts[0])
            control = error_rate(
                "1", "control, texts of other lines: characters wrong", read, others
            )
            figures.append(control)
    return figures


def read_all(
    model: ImageToText, pictures: np.ndarray, progress: Callable[[int], None]
) -> list[str]:
    """The text of each picture, uint8 [N,H,W]; `progress` hears how many more are read."""
    found: list[str] = []
    for start in range(0, len(pictures), BATCH):
        batch = [Image.fromarray(one) for one in pictures[start : start + BATCH]]
        found += [one.text for one in model.read(batch, layout="line", batch_size=BATCH)]
        progress(len(batch))
    return found


def error_rate(
    row: str,
    name: str,
    read: Sequence[str],
    texts: Sequence[str],
    must: float | None = None,
    goal: float | None = None,
) -> Figure:
    """All edits over all characters, with the interval of that ratio over the lines."""
    edits = [edit_distance(one, text) for one, text in zip(read, texts, strict=True)]
    return rate(row, name, edits, [len(text) for text in texts], must, goal)


def worn(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N,H,W] as from a bad scan: less contrast, blurred, uneven light, grain."""
    out = np.empty_like(pictures)
    for number, picture in enumerate(pictures):
        draw = np.random.default_rng((WORN_SEED, number))
        blurred = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(draw.uniform(0.2, 0.7)))
        ink = draw.uniform(0, 70)
        values = ink + np.asarray(blurred, np.float64) * (draw.uniform(190, 255) - ink) / 255
        values *= 1 - draw.uniform(0, 0.2) * np.linspace(0, 1, picture.shape[1])
        values += draw.normal(0, draw.uniform(2, 14), picture.shape)
        out[number] = values.round().clip(0, 255)
    return out
