"""recipes/nano/sheet.py: where pictures and captions stand on the sheet. Needs no network."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageFont
from PIL.ImageFont import FreeTypeFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "nano"))

import sheet  # noqa: E402  (the recipe's scripts import each other by name)

WHITE = (255, 255, 255)


def default_font() -> FreeTypeFont:
    font = ImageFont.load_default(sheet.TEXT)
    assert isinstance(font, FreeTypeFont)
    return font


def test_two_rows_of_four_in_the_order_of_the_prompts_each_above_its_caption() -> None:
    colours = [(30 * i, 0, 255 - 30 * i) for i in range(8)]
    pictures = [Image.new("RGB", (64, 64), colour) for colour in colours]
    page = sheet.sheet(pictures, tuple("ABCDEFGH"), default_font())
    side, step, line = 64 * sheet.SCALE, 64 * sheet.SCALE + sheet.GAP, 64 * sheet.SCALE
    assert page.width == 4 * step + sheet.GAP
    for i, colour in enumerate(colours):
        x, y = sheet.GAP + i % 4 * step, sheet.GAP + i // 4 * (line + sheet.CAPTION)
        assert page.getpixel((x, y)) == page.getpixel((x + side - 1, y + side - 1)) == colour
        below = page.crop((x, y + side, x + side, y + side + sheet.CAPTION))
        left, top, right, bottom = below.convert("L").point(lambda v: 255 * (v < 200)).getbbox()
        assert abs((left + right) / 2 - side / 2) <= 2, "the caption is centred"
        assert 0 < top < bottom < sheet.CAPTION
    assert page.getpixel((sheet.GAP + side + 1, sheet.GAP)) == WHITE


def test_captions_break_at_spaces_and_fit() -> None:
    font = default_font()
    lines = sheet.wrapped("woman firefighter: dark skin tone, noto-v1 style", font, 192)
    assert " ".join(lines) == "woman firefighter: dark skin tone, noto-v1 style"
    assert len(lines) > 1 and all(font.getlength(line) <= 192 for line in lines)
    assert sheet.wrapped("a fox", font, 192) == ["a fox"]
