"""The reader's lines: what is held out stays out, and a line keeps within its frame."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "reader"))

from fonts import families  # noqa: E402
from lines import HEIGHT, WIDTH, Layout, draw_line, random_layout  # noqa: E402
from texts import LONGEST, Writer, is_held  # noqa: E402

KNOWN = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("n", "rt", "sting", "mel")]
WORD = re.compile(r"[A-Za-z]{3,}")
FACE: Any = SimpleNamespace(at=lambda size: ImageFont.load_default(size))


def test_no_family_is_on_both_sides_and_all_are_pinned() -> None:
    found = families()
    assert len({one.name for one in found}) == len(found) == 134
    held = [one.name for one in found if one.held]
    assert len(held) == 26
    assert all(one.package.integrity.startswith("sha512-") for one in found)
    assert {one.package.licence for one in found} <= {"OFL-1.1", "Apache-2.0", "UFL-1.0"}
    makers = ("pt-", "space-", "b612", "ibm-", "roboto", "ubuntu", "dejavu", "source-", "red-hat")
    for maker in makers:  # families of one maker look alike
        assert len({one.held for one in found if one.name.startswith(maker)}) == 1, maker
    assert {"lato", "carlito"} <= set(held)


def test_held_out_lines_have_no_trained_word() -> None:
    draw = Random(1)
    writers = {held: Writer(KNOWN, held) for held in (False, True)}
    assert not set(writers[True].words) & set(writers[False].words)
    assert 0.04 < len(writers[True].words) / len(KNOWN) < 0.2
    known = set(KNOWN)
    for held, writer in writers.items():
        for _ in range(300):
            line = writer.line(draw)
            assert 1 <= len(line) <= LONGEST and line == " ".join(line.split())
            assert line.isascii() and line.isprintable()
            for word in WORD.findall(line):
                if word.lower() in known:
                    assert is_held(word) == held, line


def test_lines_follow_from_the_seed() -> None:
    one, other = ([Writer(KNOWN, False).line(Random(n)) for n in range(50)] for _ in range(2))
    assert one == other and len(set(one)) > 40


def test_a_line_keeps_within_its_frame() -> None:
    draw = Random(2)
    for text in ("i", "Word", "a line of many letters, all of it"):
        for layout in [Layout(), *(random_layout(draw) for _ in range(20))]:
            picture = draw_line(text, FACE, layout)
            assert picture.shape == (HEIGHT, WIDTH) and picture.dtype == np.uint8
            ink = np.argwhere(picture < 200)
            assert ink.size, (text, layout)
            assert picture[:, -1].min() > 100, "cut on the right"


def test_low_letters_stay_low() -> None:
    heights = {}
    for text in ("x", "X"):
        rows = np.flatnonzero((draw_line(text, FACE) < 128).any(axis=1))
        heights[text] = rows[-1] - rows[0]
    assert heights["x"] < 0.85 * heights["X"]
