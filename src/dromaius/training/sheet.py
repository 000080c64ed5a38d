"""Pictures side by side: what a model can do, at a glance."""

import math
from collections.abc import Sequence

from PIL import Image

MARGIN = 2
"""Pixels between pictures and around them."""


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """The pictures row by row on white, each in a cell of the largest one's size.

    Raises ValueError where there is no picture or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"a sheet needs pictures and columns, got {len(pictures)} and {columns}")
    columns = min(columns, len(pictures))
    width = max(one.width for one in pictures) + MARGIN
    height = max(one.height for one in pictures) + MARGIN
    rows = math.ceil(len(pictures) / columns)
    size = (columns * width + MARGIN, rows * height + MARGIN)
    page = Image.new("RGB", size, (255, 255, 255))
    for number, one in enumerate(pictures):
        row, column = divmod(number, columns)
        page.paste(one, (column * width + MARGIN, row * height + MARGIN))
    return page
