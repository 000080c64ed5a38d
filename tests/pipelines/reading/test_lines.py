"""Lines of pages that are drawn here: how many there are and where is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dromaius.pipelines.reading.lines import cut_at_gaps, find_lines

WORDS = "It was a bright cold day in April; jumping, the quick fox said: (why not?) 1984!".split()


def text(line: int, length: int = 40) -> str:
    words = WORDS[line % 7 :] + WORDS
    return " ".join(words)[:length].strip()


def page(
    lines: int = 12,
    size: int = 20,
    spacing: float = 1.6,
    degrees: float = 0.0,
    paper: int = 255,
    ink: int = 20,
    columns: int = 1,
    noise: float = 0.0,
    shade: bool = False,
) -> tuple[Image.Image, list[float]]:
    """A page and the height of each line's middle above the page's top."""
    font = ImageFont.load_default(size)
    width = 620 * columns
    image = Image.new("L", (width, int(lines * size * spacing) + 120), paper)
    draw = ImageDraw.Draw(image)
    tops = [60 + i * size * spacing for i in range(lines)]
    for column in range(columns):
        for i, top in enumerate(tops):
            draw.text((50 + 620 * column, top), text(i + column), font=font, fill=ink)
    image = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=paper)
    array = np.asarray(image, dtype=np.float32)
    if shade:  # as a page that is photographed in the evening
        array = array * np.linspace(1, 0.45, array.shape[1])
    drawn = np.random.default_rng(0).normal(0, noise, array.shape) if noise else 0
    whole = Image.fromarray((array + drawn).clip(0, 255).astype(np.uint8)).convert("RGB")
    return whole, [top + 0.6 * size for top in tops]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 12},
        {"size": 48, "lines": 5},
        {"spacing": 1.15},
        {"spacing": 3.0},
        {"paper": 30, "ink": 230},
        {"noise": 12.0},
        {"shade": True},
        {"lines": 2},
        {"lines": 60, "size": 16},
    ],
    ids=str,
)
def test_each_line_is_found_once(settings: dict[str, float]) -> None:
    image, middles = page(**settings)  # type: ignore[arg-type]  # the table mixes kinds
    found = find_lines(image)
    assert found.degrees == 0
    assert len(found.lines) == len(middles)
    for box, middle in zip(found.lines, middles, strict=True):
        assert box.top < middle < box.bottom
        assert box.height < 2.2 * settings.get("size", 20)


@pytest.mark.parametrize("degrees", [-4.0, -1.3, 0.7, 3.0])
def test_a_turned_page_is_straightened(degrees: float) -> None:
    image, middles = page(degrees=degrees)
    found = find_lines(image)
    assert found.degrees == pytest.approx(-degrees, abs=0.25)
    assert len(found.lines) == len(middles)


def test_columns_are_read_one_after_the_other() -> None:
    image, middles = page(columns=2)
    found = find_lines(image)
    assert len(found.lines) == 2 * len(middles)
    left, right = found.lines[: len(middles)], found.lines[len(middles) :]
    assert all(box.right < 620 for box in left) and all(box.left > 600 for box in right)
    assert [box.top for box in left] == sorted(box.top for box in left)


def test_one_line_is_one_line_also_with_dots_and_tails() -> None:
    font = ImageFont.load_default(30)
    for words in ("jumpy (Ä) ijlq", "...", "i", "1984"):
        image = Image.new("RGB", (400, 60), "white")
        ImageDraw.Draw(image).text((12, 8), words, font=font, fill="black")
        assert len(find_lines(image).lines) == 1, words


def test_an_empty_page_has_no_lines() -> None:
    for level in (0, 128, 255):
        assert find_lines(Image.new("RGB", (200, 300), (level,) * 3)).lines == ()
    assert find_lines(Image.new("RGB", (1, 1))).lines == ()


def test_a_long_line_is_cut_between_words() -> None:
    font = ImageFont.load_default(24)
    words = "one two three four five six seven eight nine ten eleven twelve"
    length = int(font.getlength(words))
    image = Image.new("RGB", (length + 20, 40), "white")
    ImageDraw.Draw(image).text((10, 6), words, font=font, fill="black")
    pieces = cut_at_gaps(image, 8.0)
    assert len(pieces) > 1 and all(piece.width <= 8 * piece.height for piece in pieces)
    assert sum(piece.width for piece in pieces) == image.width
    for piece in pieces:  # no letter touches a cut
        array = np.asarray(piece.convert("L"))
        assert array[:, 0].min() > 200 and array[:, -1].min() > 200
    assert cut_at_gaps(image.crop((0, 0, 100, 40)), 8.0)[0].size == (100, 40)
