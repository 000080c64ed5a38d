"""What the lines say: words, numbers and plain noise, in the ways that print has them.

Everything follows from a `random.Random`. A word belongs to the held-out texts by its own letters
(`is_held`), whatever its case, so that no held-out line has a word that training has seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fonts import PRINTABLE, WORDS, fetch, members

LONGEST = 32
"""Characters in a line."""
SHORTEST_NAMED = 3
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
ENDS = (*"....,,,;:!?", "...", "")
PAIRS = ("()", "[]", '""', "''", "<>", "{}")
DOMAINS = ("com", "org", "net", "io", "de", "co.uk")
_HELD_SHARE = 10


def words(cache: Path, base: str) -> list[str]:
    """English words of at most 14 letters."""
    tarball = fetch(WORDS, cache, base)
    content = dict(members(tarball, suffix="index.json"))["index.json"]
    return [word for word in json.loads(content) if word.isascii() and len(word) <= 14]


def is_held(text: str) -> bool:
    """Whether a word (or a whole line without words) is for held-out lines only: one in ten."""
    digest = hashlib.sha256(text.lower().encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // _HELD_SHARE


class Writer:
    """Lines of 1 to LONGEST characters; with `held`, only such as training never has."""

    def __init__(self, known: Sequence[str], held: bool) -> None:
        self.words = [word for word in known if is_held(word) == held]
        # Short words are few and much used; drawn evenly, long ones would be all there is.
        self.short = [word for word in self.words if len(word) <= 6]
        self.held = held

    def line(self, draw: Random) -> str:
        """A line: two thirds of words, the others numbers, addresses and noise."""
        kinds = (self._phrase, self._number, self._address, self._noise)
        longest = draw.choice((8, 16, 24, LONGEST, LONGEST))
        while True:
            [kind] = draw.choices(kinds, (60, 18, 5, 17))
            text = " ".join(kind(draw, longest).split())[:longest].strip()
            if not text:
                continue
            if kind in (self._number, self._noise) and is_held(text) != self.held:
                continue
            return text

    def _word(self, draw: Random) -> str:
        word = draw.choice(self.short if draw.random() < 0.6 else self.words)
        case = draw.random()
        return word if case < 0.6 else word.capitalize() if case < 0.85 else word.upper()

    def _phrase(self, draw: Random, longest: int) -> str:
        text = self._word(draw)
        if draw.random() < 0.15:
            text = text.upper()
        while draw.random() < 0.85:
            joint = draw.choices((" ", "-", ", ", "/", " & ", ": ", "'s "), (80, 5, 6, 2, 2, 3, 2))
            more = self._number(draw, 6) if draw.random() < 0.1 else self._word(draw)
            if len(text) + len(joint[0]) + len(more) > longest:
                break
            text += joint[0] + more
        if draw.random() < 0.3:
            text += draw.choice(ENDS)
        if draw.random() < 0.08:
            opening, closing = draw.choice(PAIRS)
            text = opening + text[: longest - 2] + closing
        return text

    def _number(self, draw: Random, longest: int) -> str:
        n = draw.randrange(10 ** draw.randint(1, 7))
        day, month, year = draw.randint(1, 31), draw.randint(1, 12), draw.randint(1900, 2099)
        forms = (
            f"{n}", f"{n:,}", f"{n / 100:.2f}", f"${n / 100:,.2f}", f"{n % 1000}%", f"#{n}",
            f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"{month}/{day}/{year}",
            f"{day} {MONTHS[month - 1]} {year}", f"{day % 24:02}:{n % 60:02}",
            f"{day % 24:02}:{n % 60:02}:{draw.randrange(60):02}",
            f"+{day} {n % 1000:03} {draw.randrange(10**6):06}", f"({n % 1000:03}) {n % 10000:04}",
            f"No. {n}", f"{draw.choice(PRINTABLE[33:59])}{n}", f"{n} + {day} = {n + day}",
            f"v{month}.{day}.{n % 100}", f"-{n / 1000:.3f}", f"{n % 1000}*{day}", f"~{day}^{month}",
        )  # fmt: skip
        return draw.choice(forms)

    def _address(self, draw: Random, longest: int) -> str:
        a, b = draw.choice(self.short), draw.choice(self.short)
        domain = draw.choice(DOMAINS)
        forms = (
            f"{a}@{b}.{domain}", f"www.{a}.{domain}", f"http://{b}.{domain}/{a}", f"{a}_{b}",
            f"C:\\{a}\\{b}", f"/{a}/{b}.txt", f"{a}={b}&", f"{a}|{b}", f"`{a}`",
        )  # fmt: skip
        return draw.choice(forms)

    def _noise(self, draw: Random, longest: int) -> str:
        letters = draw.choice((PRINTABLE, PRINTABLE[1:], PRINTABLE[16:26] + PRINTABLE[33:59]))
        return "".join(draw.choice(letters) for _ in range(draw.randint(1, longest)))
