"""The text lines of a page: straightened, found by their ink, in reading order.

Projection profiles of what differs from the paper: rows with ink are lines, wide white strips part
columns. Made for scans and screenshots of running text; ruled tables and handwriting that runs
into the next line are beyond it.

Legend: H, W pixels of the page; positions are pixels of the straightened page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SHARPEST = 2000
"""Ink is looked for in a picture of at most so many pixels a side."""
MAX_TURN = 5.0
"""Degrees within which a page is straightened."""
_FAINT = 24
"""Levels of grey that paper varies by."""
_COLUMN_GAP = 2.0
"""Width of the white between columns, in line heights."""


@dataclass(frozen=True)
class Box:
    """A rectangle of a page: first row and column in it, first behind it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class Page:
    """A straightened page and where its lines are."""

    image: Image.Image
    degrees: float
    """How far it was turned, against the clock."""
    lines: tuple[Box, ...]
    paper: tuple[int, int, int]
    """The colour behind the text."""

    def cut(self, box: Box) -> Image.Image:
        """A line's picture."""
        return self.image.crop((box.left, box.top, box.right, box.bottom))


def find_lines(image: Image.Image) -> Page:
    """The lines of an RGB page in reading order, column by column; none if there is no ink."""
    scale = min(1.0, SHARPEST / max(image.size))
    grey = _grey(image, scale)
    ink = find_ink(grey)
    paper = _paper(image, scale, ink)
    degrees = _turn(ink)
    if degrees:
        turned = Image.Resampling.BICUBIC
        image = image.rotate(degrees, turned, expand=True, fillcolor=paper)
        ink = find_ink(_grey(image, scale))
    boxes = _lines(ink)
    width, height = image.size
    large = [
        Box(
            max(0, int(box.left / scale)),
            max(0, int(box.top / scale)),
            min(width, int(np.ceil(box.right / scale))),
            min(height, int(np.ceil(box.bottom / scale))),
        )
        for box in boxes
    ]
    return Page(image, degrees, tuple(large), paper)


def paper_colour(image: Image.Image) -> tuple[int, int, int]:
    """The colour behind the text of an RGB picture."""
    scale = min(1.0, SHARPEST / max(image.size))
    return _paper(image, scale, find_ink(_grey(image, scale)))


def find_ink(grey: np.ndarray) -> np.ndarray:
    """Grey levels [H,W] -> bool [H,W], True where something differs from the paper around it."""
    difference = _paper_levels(grey) - grey  # above 0: darker than the paper
    dark, light = (np.clip(sign * difference - _FAINT, 0, None).sum() for sign in (1, -1))
    difference = difference if dark >= light else -difference
    strong = difference[difference > _FAINT]
    if strong.size < 4:
        return np.zeros(grey.shape, dtype=bool)
    return np.asarray(difference > max(_FAINT, 0.4 * float(np.percentile(strong, 75))))


def cut_at_gaps(line: Image.Image, longest: float) -> list[Image.Image]:
    """Pieces of a line, each at most `longest` times as wide as high, cut between words.

    Where no gap is wide enough the widest white serves; letters are cut only if there is none.
    """
    limit = max(1, int(longest * line.height))
    if line.width <= limit:
        return [line]
    ink = np.asarray(find_ink(_grey(line, 1.0)).any(axis=0))  # [W]
    pieces, start = [], 0
    while line.width - start > limit:
        cut = start + _best_cut(ink[start : start + limit], line.height)
        pieces.append((start, cut))
        start = cut
    pieces.append((start, line.width))
    kept = [piece for piece in pieces if ink[slice(*piece)].any()]
    return [line.crop((left, 0, right, line.height)) for left, right in kept] or [line]


def _best_cut(ink: np.ndarray, height: int) -> int:
    """The column to cut at: the last gap as wide as one between words, else the widest."""
    gaps = [(a, b) for a, b in _runs(~ink) if a > 0 and a > len(ink) // 8]
    if not gaps:
        return len(ink)
    wide = [gap for gap in gaps if gap[1] - gap[0] >= max(2, height / 6)]
    first, last = wide[-1] if wide else max(gaps, key=lambda gap: gap[1] - gap[0])
    return max(1, (first + last) // 2)


def _grey(image: Image.Image, scale: float) -> np.ndarray:
    """float32 [H,W]."""
    grey = image.convert("L")
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def _paper_levels(grey: np.ndarray) -> np.ndarray:
    """The paper's grey around each pixel: medians of large blocks, so light may fall unevenly."""
    height, width = grey.shape
    block = max(48, max(height, width) // 16)
    rows, columns = max(1, round(height / block)), max(1, round(width / block))
    across = np.linspace(0, height, rows + 1).astype(int)
    down = np.linspace(0, width, columns + 1).astype(int)
    levels = np.array(
        [
            [np.median(grey[a:b, c:d]) for c, d in zip(down, down[1:], strict=False)]
            for a, b in zip(across, across[1:], strict=False)
        ],
        dtype=np.float32,
    )
    small = Image.fromarray(_median_3x3(levels))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def _median_3x3(levels: np.ndarray) -> np.ndarray:
    """A block that a heading fills takes the paper of its neighbours."""
    padded = np.pad(levels, 1, mode="edge")
    height, width = levels.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.median(np.stack(around), axis=0).astype(np.float32)


def _paper(image: Image.Image, scale: float, ink: np.ndarray) -> tuple[int, int, int]:
    small = image.convert("RGB")
    if scale < 1:
        small = small.resize(ink.shape[::-1], Image.Resampling.BOX)
    colours = np.asarray(small)[~ink]
    middle = np.median(colours, axis=0) if len(colours) else np.full(3, 255)
    red, green, blue = (int(level) for level in middle)
    return red, green, blue


def _turn(ink: np.ndarray) -> float:
    """Degrees by which the page has to be turned against the clock for its lines to lie level."""
    rows, columns = np.nonzero(ink)
    if len(rows) < 50 or np.ptp(columns) < 256:  # too short for a slope to be told from letters
        return 0.0
    step = max(1, len(rows) // 40_000)
    rows, columns = rows[::step].astype(np.float32), columns[::step].astype(np.float32)

    def sharpness(degrees: float) -> float:
        level = rows - columns * np.tan(np.radians(degrees))
        counts = np.bincount((level - level.min()).astype(int))
        return float((np.diff(counts.astype(np.float64)) ** 2).sum())

    coarse = np.arange(-MAX_TURN, MAX_TURN + 0.01, 0.5)
    best = max(coarse, key=sharpness)
    fine = np.arange(best - 0.4, best + 0.41, 0.1)
    best = float(max(fine, key=sharpness))
    # a turn blurs letters: it must be worth it
    return best if abs(best) >= 0.25 and sharpness(best) > 1.1 * sharpness(0.0) else 0.0


def _lines(ink: np.ndarray) -> list[Box]:
    """Boxes of all lines, the left column's first."""
    bands = _bands(ink)
    if not bands:
        return []
    typical = float(np.median([bottom - top for top, bottom in bands]))
    boxes = []
    for left, right in _columns(ink, bands, typical):
        part = ink[:, left:right]
        found = _bands(part, typical)
        ends = [
            0,
            *(bottom for _, bottom in found),
        ]  # of the lines above
        starts = [*(top for top, _ in found[1:]), ink.shape[0]]
        for (top, bottom), above, below in zip(found, ends, starts, strict=False):
            columns = np.nonzero(part[top:bottom].any(axis=0))[0]
            box = Box(left + int(columns[0]), top, left + int(columns[-1]) + 1, bottom)
            if not _is_speck(ink, box, typical):
                boxes.append(_with_margin(box, typical, (above, below), ink.shape[1]))
    return boxes


def _bands(ink: np.ndarray, typical: float | None = None) -> list[tuple[int, int]]:
    """(top, bottom) of each line: rows with ink, dots joined to their letters, specks left out."""
    profile = ink.sum(axis=1).astype(np.float64)  # [H]
    filled = profile[profile > 0]
    if not filled.size:
        return []
    least = max(1.0, 0.02 * float(np.percentile(filled, 90)))
    bands = _runs(profile > least)
    if not bands:
        return []
    weights = [profile[top:bottom].sum() for top, bottom in bands]
    usual = typical or _weighted_median([bottom - top for top, bottom in bands], weights)
    joined: list[tuple[int, int]] = []
    for top, bottom in bands:
        if joined and _belong(joined[-1], (top, bottom), usual):
            joined[-1] = (joined[-1][0], bottom)
        else:
            joined.append((top, bottom))
    split = [piece for band in joined for piece in _split(profile, band, usual)]
    return [band for band in split if band[1] - band[0] >= max(3.0, 0.3 * usual)]


def _belong(above: tuple[int, int], below: tuple[int, int], usual: float) -> bool:
    """Whether two bands are one line: one of them is a row of dots or accents, close by."""
    gap = below[0] - above[1]
    small = min(above[1] - above[0], below[1] - below[0])
    return gap <= 0.3 * usual and small < 0.4 * usual


def _split(profile: np.ndarray, band: tuple[int, int], usual: float) -> list[tuple[int, int]]:
    """Lines that touch, parted where the ink is thinnest."""
    top, bottom = band
    count = round((bottom - top) / usual)
    if count < 2 or (bottom - top) < 1.7 * usual:
        return [band]
    pitch, cuts = (bottom - top) / count, [top]
    for i in range(1, count):
        middle, reach = top + i * pitch, max(1, int(0.3 * pitch))
        first = max(cuts[-1] + 1, int(middle) - reach)
        window = profile[first : int(middle) + reach + 1]
        peak = float(profile[top:bottom].mean())
        if window.size and window.min() < 0.5 * peak:
            cuts.append(first + int(window.argmin()))
    return list(zip(cuts, [*cuts[1:], bottom], strict=True))


def _columns(
    ink: np.ndarray, bands: Sequence[tuple[int, int]], typical: float
) -> list[tuple[int, int]]:
    """(left, right) of each column of text; a gap must run along most of the page's lines."""
    width = ink.shape[1]
    if len(bands) < 4:
        return [(0, width)]
    held = np.stack([ink[top:bottom].any(axis=0) for top, bottom in bands])  # [lines,W]
    empty = held.mean(axis=0) < 0.05
    gaps = [gap for gap in _runs(empty) if gap[1] - gap[0] >= _COLUMN_GAP * typical]
    inner = [gap for gap in gaps if gap[0] > 0 and gap[1] < width]
    cuts = [0]
    for first, last in inner:
        left, right = held[:, cuts[-1] : first], held[:, last:]
        # a column is text on both sides, beside each other in most lines
        both = left.any(axis=1) & right.any(axis=1)
        if both.mean() > 0.5:
            cuts.append((first + last) // 2)
    return list(zip(cuts, [*cuts[1:], width], strict=True))


def _is_speck(ink: np.ndarray, box: Box, typical: float) -> bool:
    area = ink[box.top : box.bottom, box.left : box.right].sum()
    return box.width < 0.15 * typical and box.height < 0.5 * typical or area < 4


def _with_margin(box: Box, typical: float, free: tuple[int, int], width: int) -> Box:
    """A little paper around a line, as a reader has learnt it, but nothing of its neighbours.

    A line of low letters gets the height of the others, or it would be shown larger than they are.
    free: where the line above ends and the line below begins.
    """
    margin = max(1, round(0.12 * typical))
    around = max(margin, round((typical - box.height) / 2) + margin)
    return Box(
        max(0, box.left - 2 * margin),
        max(free[0], box.top - around),
        min(width, box.right + 2 * margin),
        min(free[1], box.bottom + around),
    )


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, first behind) of each run of True in bool [N]."""
    edges = np.diff(np.concatenate(([0], flags.astype(np.int8), [0])))
    starts, ends = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def _weighted_median(values: Sequence[int], weights: Sequence[float]) -> float:
    order = np.argsort(values)
    total = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(values)[order][np.searchsorted(total, total[-1] / 2)])
