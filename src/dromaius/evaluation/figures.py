"""Figures with 95 % intervals, and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Figure:
    """One line of a table of figures.

    `low` and `high` bound the 95 % interval; None where there is none (times, shares of a fixed
    set). `must` and `goal` are thresholds, None for figures that are reported only.
    """

    row: str
    name: str
    value: float
    cases: int
    low: float | None = None
    high: float | None = None
    must: float | None = None
    goal: float | None = None
    digits: int = 2
    less_is_better: bool = False

    @property
    def met(self) -> str:
        """Of "must": "yes", "within" its interval only, "no", or "" where nothing is asked."""
        if self.must is None:
            return ""
        if self.less_is_better:
            best = self.value if self.low is None else self.low
            return "yes" if self.value <= self.must else "within" if best <= self.must else "no"
        best = self.value if self.high is None else self.high
        return "yes" if self.value >= self.must else "within" if best >= self.must else "no"


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, without continuity correction)."""
    if not trials:
        return 0.0, 1.0
    p, n = hits / trials, trials
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by the normal approximation; everything for fewer than two."""
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = Z * deviation / math.sqrt(n)
    return mean - half, mean + half


def share(
    row: str,
    name: str,
    hits: Sequence[bool],
    must: float | None = None,
    goal: float | None = None,
) -> Figure:
    """The share of hits; nan without any case."""
    total = sum(hits)
    value = total / len(hits) if hits else math.nan
    return Figure(row, name, value, len(hits), *wilson(total, len(hits)), must, goal)


def mean(
    row: str,
    name: str,
    values: Sequence[float],
    must: float | None = None,
    goal: float | None = None,
    digits: int = 2,
) -> Figure:
    """The mean of the values; nan without any."""
    value = sum(values) / len(values) if values else math.nan
    return Figure(row, name, value, len(values), *mean_interval(values), must, goal, digits)


def rate(
    row: str,
    name: str,
    counts: Sequence[int],
    sizes: Sequence[int],
    must: float | None = None,
    goal: float | None = None,
) -> Figure:
    """All counts over all sizes, where less is better; nan without any.

    Its 95 % interval: that of a ratio of means over the cases (the delta method).
    """
    n, total = len(counts), sum(sizes)
    value = sum(counts) / total if total else math.nan
    low, high = -math.inf, math.inf
    if n > 1 and total:
        squares = sum((c - value * s) ** 2 for c, s in zip(counts, sizes, strict=True))
        half = Z * math.sqrt(squares / (n - 1) / n) / (total / n)
        low, high = max(0.0, value - half), value + half
    return Figure(row, name, value, n, low, high, must, goal, digits=4, less_is_better=True)
