"""A bar chart as SVG, drawn by hand: no plotting library is needed for so little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 800, 170, 190, 30, 78
INK, FAINT, LINE = "#24292f", "#6a737d", "#d8dee4"
BOUND = "#c0392b"


@dataclass(frozen=True)
class Bar:
    """One line of the chart."""

    name: str
    value: float
    bound: float
    """Drawn as a mark on the bar: the value cannot be less."""
    note: str
    color: str


def bars(
    title: str, subtitles: Sequence[str], rows: Sequence[Bar], keys: Sequence[tuple[str, str]]
) -> str:
    """The chart: a bar a row from 0, a mark at its bound, a note behind it; keys are colours."""
    most = max(max(row.value, row.bound) for row in rows)
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TOP + ROW * len(rows) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 26, title, 16, INK, weight="bold"),
        *(_text(16, 46 + 16 * i, line, 11, FAINT) for i, line in enumerate(subtitles)),
    ]
    for place, row in enumerate(rows):
        y = TOP + ROW * place
        length, mark = row.value * scale, LEFT + row.bound * scale
        parts += [
            _text(LEFT - 8, y + 19, row.name, 12, INK, anchor="end"),
            f'<rect x="{LEFT}" y="{y + 5}" width="{length:.1f}" height="20" fill="{row.color}"/>',
            f'<rect x="{mark - 1.5:.1f}" y="{y + 2}" width="3" height="26" fill="{BOUND}"/>',
            _text(max(LEFT + length, mark) + 8, y + 19, row.note, 11, FAINT),
        ]
    y = TOP + ROW * len(rows)
    parts.append(f'<rect x="{LEFT}" y="{TOP}" width="1" height="{ROW * len(rows)}" fill="{LINE}"/>')
    x = LEFT
    for name, color in [*keys, ("the least that memory allows", BOUND)]:
        parts.append(f'<rect x="{x}" y="{y + 16}" width="12" height="12" fill="{color}"/>')
        parts.append(_text(x + 18, y + 26, name, 11, FAINT))
        x += 50 + 7 * len(name)
    return "\n".join([*parts, "</svg>\n"])


def _text(
    x: float, y: float, text: str, size: int, color: str, anchor: str = "start", weight: str = ""
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" '
        f'text-anchor="{anchor}"{bold}>{escape(text)}</text>'
    )
