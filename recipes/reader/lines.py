"""One printed line as a picture: dark on white, in a frame of WIDTH x HEIGHT.

Size, place and width are drawn here. Slant, turn, light, blur and noise are the training's
([augmentation] in recipes/ocr.toml): a stored line serves many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from fonts import Face

HEIGHT, WIDTH = 32, 256
_DRAWN = 40
"""Pixels per em that a line is drawn with before it is brought to its size: more than it will have,
so that only shrinking blurs it."""


@dataclass(frozen=True)
class Layout:
    """How a line lies in its frame."""

    tall: float = 0.75
    """Height of the ink's box as a share of the frame's."""
    squeeze: float = 1.0
    """Width of the letters as a share of their own, before the frame's width bounds it."""
    x: float = 0.0
    y: float = 0.5
    """Where the free space lies: 0 all to the right and below, 1 all to the left and above."""


PLAIN = Layout()


def random_layout(draw: Random) -> Layout:
    """As lines are cut from pages: most fill the height, some are stretched to the whole frame."""
    if draw.random() < 0.2:
        return Layout(draw.uniform(0.7, 1.0), draw.uniform(1.2, 2.6), draw.random(), draw.random())
    return Layout(
        draw.uniform(0.45, 0.95),
        draw.uniform(0.75, 1.3),
        0.0 if draw.random() < 0.5 else draw.random(),
        draw.random(),
    )


def draw_line(text: str, face: Face, layout: Layout = PLAIN) -> np.ndarray:
    """The line as uint8 [HEIGHT, WIDTH], black on white.

    The box is that of the font's ascent and descent, not of this text's ink: "a" stays smaller than
    "A".
    """
    font = face.at(_DRAWN)
    left, top, right, bottom = font.getbbox(text)
    ascent, descent = font.getmetrics()
    tall = min(ascent + descent, int(1.3 * _DRAWN))
    above = min(top, max(0, ascent + descent - tall) // 2)
    wide = max(right - left, 1)
    margin = 4
    ink = Image.new("L", (wide + 2 * margin, max(tall, bottom - above) + 2 * margin), 0)
    ImageDraw.Draw(ink).text((margin - left, margin - above), text, font=font, fill=255)
    scale_y = layout.tall * HEIGHT / ink.height
    scale_x = min(scale_y * layout.squeeze, (WIDTH - 2) / ink.width)
    # A line too long for its frame shrinks in height too, but not as much.
    scale_y = min(scale_y, scale_x * 2.0)
    size = (max(1, round(ink.width * scale_x)), max(1, round(ink.height * scale_y)))
    small = ink.resize(size, Image.Resampling.BOX if scale_x < 1 else Image.Resampling.BICUBIC)
    frame = Image.new("L", (WIDTH, HEIGHT), 0)
    frame.paste(small, (round(layout.x * (WIDTH - size[0])), round(layout.y * (HEIGHT - size[1]))))
    return 255 - np.asarray(frame)
