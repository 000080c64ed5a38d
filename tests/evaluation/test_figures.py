"""Intervals against numbers worked out by hand or printed in the literature."""

from __future__ import annotations

import math

import pytest

from dromaius.evaluation.figures import Figure, mean, mean_interval, share, wilson
from dromaius.evaluation.table import HEAD, as_json, cells, markdown, text


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),  # by hand: n / (n + z^2) = 29 / 32.8415
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=6e-5)


def test_mean_interval_by_hand() -> None:
    # mean 3, variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5, half 1.959964 * sqrt(0.5) = 1.385904
    low, high = mean_interval([1, 2, 3, 4, 5])
    assert (low, high) == pytest.approx((3 - 1.385904, 3 + 1.385904), abs=1e-6)
    assert mean_interval([2.0]) == (-math.inf, math.inf)


def test_a_figure_meets_what_its_interval_reaches() -> None:
    hits = [True] * 82 + [False] * 18
    figure = share("2", "drawn", hits, must=0.85, goal=0.95)
    # Wilson for 82 of 100: 0.7333 to 0.8830
    assert (figure.low, figure.high) == pytest.approx((0.7333, 0.8830), abs=1e-4)
    assert figure.met == "within"
    assert share("2", "drawn", hits, must=0.80).met == "yes"
    assert share("2", "drawn", hits, must=0.89).met == "no"
    assert share("2", "drawn", hits).met == ""


def test_of_seconds_less_is_better() -> None:
    def seconds(value: float) -> str:
        return Figure("8", "seconds", value, 5, must=0.5, less_is_better=True).met

    assert [seconds(0.2), seconds(0.5), seconds(0.51)] == ["yes", "yes", "no"]


def test_the_tables_show_the_same_cells() -> None:
    figures = [
        share("2", "drawn", [True, True, True, False], must=0.9, goal=0.98),
        mean("1", "PSNR in dB", [24.0, 26.0], must=25.0),
        Figure("8", "seconds", 0.0912, 5, must=0.5, digits=3, less_is_better=True),
    ]
    first, second, third = (
        ["2", "drawn", "0.75", "0.9", "0.98", "4", "0.30 to 0.95", "within"],
        ["1", "PSNR in dB", "25.00", "25", "", "2", "23.04 to 26.96", "yes"],
        ["8", "seconds", "0.091", "<= 0.5", "", "5", "", "yes"],
    )
    assert [cells(figure) for figure in figures] == [first, second, third]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(figures).splitlines()
    ]
    assert rows == [list(HEAD), ["---"] * len(HEAD), first, second, third]
    lines = text(figures).splitlines()
    assert [line.split() for line in lines[1:2]] == [" ".join(first).split()]
    assert lines[1].index("0.75") == lines[2].index("25.00") + 1  # numbers stand to the right


def test_json_has_numbers_and_no_infinity() -> None:
    found = as_json(mean("1", "PSNR in dB", [24.0], must=25.0))
    assert found["low"] is None and found["high"] is None and found["value"] == 24.0
    assert as_json(share("2", "drawn", [True] * 3, must=0.9))["met"] is True
    assert as_json(share("2", "drawn", [False] * 30, must=0.9))["met"] is False
    assert as_json(share("2", "drawn", [False] * 30))["met"] is None
