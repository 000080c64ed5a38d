"""How near a text is to the right one."""

from collections.abc import Sequence


def edit_distance(one: str, other: str) -> int:
    """Characters to insert, remove or replace to make one of the other (Levenshtein 1966)."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        above, row[0] = row[0], number
        for place, wanted in enumerate(other, start=1):
            cost = min(row[place] + 1, row[place - 1] + 1, above + (letter != wanted))
            above, row[place] = row[place], cost
    return row[-1]


def character_error_rate(read: Sequence[str], texts: Sequence[str]) -> float:
    """All edits over all characters of the right texts; it can exceed 1."""
    edits = sum(edit_distance(one, text) for one, text in zip(read, texts, strict=True))
    return edits / max(1, sum(map(len, texts)))
