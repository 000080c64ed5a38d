"""The grammar of a picture against the published state machine (spec section 4.5)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from dromaius.engine.token_grid import TokenGrid

EOL, EOF, EOI, EOS, PAD = 1, 2, 3, 4, 0
VISUAL = range(10, 42)


def grid(height: int, width: int) -> TokenGrid:
    return TokenGrid(height, width, VISUAL.start, VISUAL.stop, EOL, EOF, EOI, EOS)


def published_rule(height: int, width: int, offset: int) -> range:
    """What upstream allows; its offsets count from 1."""
    if offset % (width + 1) == 0:
        return range(EOL, EOL + 1)
    for step, token in enumerate((EOF, EOI, EOS), start=1):
        if offset == (width + 1) * height + step:
            return range(token, token + 1)
    return range(PAD, PAD + 1) if offset > (width + 1) * height + 3 else VISUAL


def picture(height: int, width: int) -> list[range]:
    """The sequence written out row by row."""
    row = [VISUAL] * width + [range(EOL, EOL + 1)]
    return row * height + [range(token, token + 1) for token in (EOF, EOI, EOS)]


@pytest.mark.parametrize("height", range(1, 9))
@pytest.mark.parametrize("width", range(3, 12))
def test_equals_published_rule(height: int, width: int) -> None:
    rule = grid(height, width)
    assert rule.length == height * (width + 1) + 3
    for offset in range(rule.length):
        assert rule.allowed(offset) == published_rule(height, width, offset + 1), offset


@pytest.mark.parametrize("height", range(1, 6))
@pytest.mark.parametrize("width", range(1, 6))
def test_every_width_is_written_row_by_row(height: int, width: int) -> None:
    """Widths 1 and 2 too, where the published rule loses EOI or EOS."""
    rule = grid(height, width)
    assert [rule.allowed(offset) for offset in range(rule.length)] == picture(height, width)


def test_published_rule_is_wrong_for_narrow_grids() -> None:
    """The two anomalies that the closed form mends are there to be mended."""
    assert published_rule(2, 1, 2 * 2 + 2) == range(EOL, EOL + 1)  # instead of EOI
    assert published_rule(2, 2, 2 * 3 + 3) == range(EOL, EOL + 1)  # instead of EOS


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (3, 2), (4, 7)])
def test_drawn_ids_are_the_offsets_that_are_not_forced(height: int, width: int) -> None:
    rule = grid(height, width)
    free = [offset for offset in range(rule.length) if rule.forced(offset) is None]
    assert rule.drawn == len(free) == height * width
    assert [rule.offset(index) for index in range(rule.drawn)] == free
    for index in range(rule.drawn):
        assert rule.closes_row(index) == (rule.forced(rule.offset(index) + 1) == EOL)


@pytest.mark.parametrize("offset", [-1, 2 * 4 + 3])
def test_outside_of_the_picture(offset: int) -> None:
    with pytest.raises(IndexError, match="11 tokens"):
        grid(2, 3).allowed(offset)


def test_a_full_picture_has_the_published_number_of_tokens() -> None:
    assert [grid(90, 90).length, grid(64, 64).length, grid(68, 120).length] == [8193, 4163, 8231]


def test_immutable() -> None:
    rule = grid(2, 3)
    with pytest.raises(FrozenInstanceError):
        rule.width = 4  # type: ignore[misc]  # the point of the test
    assert hash(rule) == hash(grid(2, 3)) and rule == grid(2, 3)


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 3)])
def test_needs_rows_and_columns(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height}x{width}"):
        grid(height, width)
