"""Figures as a table of text, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dromaius.evaluation.figures import Figure

HEAD = ("row", "figure", "value", "must", "goal", "cases", "95 % interval", "met")


def cells(figure: Figure) -> list[str]:
    """The figure as texts, in the order of HEAD."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.{figure.digits}f}"

    def bound(value: float | None) -> str:
        return "" if value is None else f"{'<= ' if figure.less_is_better else ''}{value:g}"

    interval = ""
    if figure.low is not None and figure.high is not None and math.isfinite(figure.high):
        interval = f"{number(figure.low)} to {number(figure.high)}"
    value, must, goal = number(figure.value), bound(figure.must), bound(figure.goal)
    return [figure.row, figure.name, value, must, goal, f"{figure.cases:,}", interval, figure.met]


def markdown(figures: Sequence[Figure]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [f"| {' | '.join(cells(figure))} |" for figure in figures]
    return "\n".join(lines)


def text(figures: Sequence[Figure]) -> str:
    """Columns of text; numbers to the right."""
    rows = [list(HEAD), *(cells(figure) for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [
            value.rjust(width) if 2 <= place <= 5 else value.ljust(width)
            for place, (value, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def as_json(figure: Figure) -> dict[str, Any]:
    """The figure as an object; what is missing or infinite is null."""

    def number(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(value, 6)

    return {
        "row": figure.row,
        "figure": figure.name,
        "value": number(figure.value),
        "must": figure.must,
        "goal": figure.goal,
        "cases": figure.cases,
        "low": number(figure.low),
        "high": number(figure.high),
        "met": None if figure.must is None else figure.met != "no",
    }
