"""Edit distances by hand, and against the definition."""

from __future__ import annotations

import random
from functools import cache

import pytest

from dromaius.training.vision_encoder_decoder.figures import character_error_rate, edit_distance


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("kitten", "sitting", 3),
        ("flaw", "lawn", 2), ("saturday", "sunday", 3), ("ab", "ba", 2), ("a", "A", 1),
    ],
)  # fmt: skip
def test_by_hand(one: str, other: str, edits: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == edits


def test_against_the_definition() -> None:
    @cache
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    draw = random.Random(0)
    for _ in range(100):
        a, b = ("".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(2))
        assert edit_distance(a, b) == slow(a, b)


def test_the_rate_is_over_all_characters() -> None:
    assert character_error_rate(["ab", "wxyz"], ["ab", "wxy!"]) == pytest.approx(1 / 6)
    assert character_error_rate(["long one"], ["a"]) > 1
