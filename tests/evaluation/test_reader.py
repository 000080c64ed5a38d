"""The reader's figures: on models that read all, nothing, or every third letter wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dromaius.errors import InputError
from dromaius.evaluation.figures import Figure, rate
from dromaius.evaluation.reader import evaluate, read_lines, worn

TEXTS = [f"line {number} of {number * 7919}" for number in range(40)]
SHIPPED = Path(__file__).resolve().parents[2] / "src/dromaius/assets/nano-reader"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty lines whose pixels are noise: a fake tells them apart by their first pixels."""
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 32)).astype(np.uint8)
    Image.fromarray(pictures.reshape(-1, 32)).save(tmp_path / "lines.webp", lossless=True)
    head: dict[str, Any] = {"name": "forty", "height": 8, "texts": TEXTS, "fonts": ["a"] * 40}
    (tmp_path / "lines.json").write_text(json.dumps(head))
    return tmp_path


class Fake:
    """Reads by `rule`, which is given the number of the line; worn lines come in the same order."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.seen = rule, 0

    def read(self, pictures: Sequence[Image.Image], layout: str, batch_size: int) -> list[Any]:
        assert layout == "line" and all(one.size == (32, 8) for one in pictures)
        found = [self.rule((self.seen + number) % 40) for number in range(len(pictures))]
        self.seen += len(pictures)
        return [SimpleNamespace(text=text) for text in found]


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {one.name: one for one in figures}


def test_right_wrong_and_nothing(folder: Path) -> None:
    lines = read_lines(folder)
    told: list[tuple[int, int]] = []
    right = by_name(evaluate(Fake(lambda n: TEXTS[n]), lines, None, lambda *a: told.append(a)))  # type: ignore[arg-type]
    clean = right["clean, unseen fonts and texts: characters wrong"]
    assert (clean.value, clean.cases, clean.met) == (0, 40, "yes")
    assert right["clean: lines without a fault"].value == 1
    assert right["control, texts of other lines: characters wrong"].value > 0.2
    assert told[-1] == (80, 80)
    empty = by_name(evaluate(Fake(lambda n: ""), lines))  # type: ignore[arg-type]
    assert empty["clean, unseen fonts and texts: characters wrong"].value == 1
    assert empty["worn, unseen fonts and texts: characters wrong"].met == ""
    one_wrong = Fake(lambda n: "X" + TEXTS[n][1:] if n == 3 else TEXTS[n])
    figure = evaluate(one_wrong, lines)[0]  # type: ignore[arg-type]
    assert figure.value == pytest.approx(1 / sum(map(len, TEXTS)))


def test_the_interval_of_a_rate_by_hand() -> None:
    """Two lines of 10 and 30 letters with 1 and 0 faults: ratio 1/40, residues 0.75 and -0.75."""
    figure = rate("1", "x", [1, 0], [10, 30])
    half = 1.959963984540054 * (2 * 0.75**2 / 1 / 2) ** 0.5 / 20
    assert figure.value == pytest.approx(0.025)
    assert figure.high == pytest.approx(0.025 + half) and figure.low == 0


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        sizes = draw.integers(1, 33, 300)
        hard = draw.random(300) < 0.3  # faults come in heaps
        counts = draw.binomial(sizes, np.where(hard, 0.1, 0.005))
        figure = rate("1", "x", counts.tolist(), sizes.tolist())
        assert figure.low is not None and figure.high is not None
        covered += figure.low <= 0.3 * 0.1 + 0.7 * 0.005 <= figure.high
    assert 0.91 <= covered / 300 <= 0.98


def test_worn_lines_are_worn_alike_each_time(folder: Path) -> None:
    pictures = read_lines(folder).pictures
    assert np.array_equal(worn(pictures), worn(pictures))
    assert np.array_equal(worn(pictures[:5]), worn(pictures)[:5])
    assert (worn(pictures) != pictures).mean() > 0.9


def test_folders_that_hold_no_set(folder: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_lines(folder / "absent")
    head = json.loads((folder / "lines.json").read_text())
    (folder / "lines.json").write_text(json.dumps(head | {"texts": TEXTS[:9], "fonts": ["a"] * 9}))
    with pytest.raises(InputError, match="does not hold 9 lines of 8"):
        read_lines(folder)
    (folder / "lines.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InputError, match="not a whole set of lines"):
        read_lines(folder)


@pytest.mark.slow
def test_the_shipped_reader_meets_its_figure_and_chance_does_not() -> None:
    """The first lines of the shipped set; the card has the figure of all of them."""
    import torch

    import dromaius

    model: Any = dromaius.load("nano-reader", device="cpu")
    lines = read_lines(SHIPPED / "heldout").first(120)
    assert len(set(lines.fonts)) >= 20
    read = by_name(evaluate(model, lines))
    clean = read["clean, unseen fonts and texts: characters wrong"]
    assert clean.met != "no", clean
    assert read["control, texts of other lines: characters wrong"].value > 0.7
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.model.parameters():
            p.copy_(torch.randn_like(p) * 0.05)
    chance = evaluate(model, lines.first(16))[0]
    assert chance.value > 0.7 and chance.met == "no"
