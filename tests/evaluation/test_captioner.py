"""The captioner's figures, beside an Emu3 model's, on a small set of squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dromaius.evaluation import captioner
from dromaius.evaluation.cases import EvaluationSet, read_set
from tests.evaluation.fake import Noise, write_set


@pytest.fixture
def cases(tmp_path: Path) -> EvaluationSet:
    return read_set(write_set(tmp_path / "set"))


class Knowing:
    """Says the right name of every view, or `instead` of some."""

    def __init__(self, cases: EvaluationSet, instead: dict[str, str] | None = None) -> None:
        self.names = {
            cases.show(one.view).tobytes(): one.answer
            for one in cases.questions
            if (one.kind, one.language) == ("name", "en")
        }
        self.instead = instead or {}

    def caption(self, pictures: Sequence[Image.Image], batch_size: int) -> list[Any]:
        names = [self.names[np.asarray(one).tobytes()] for one in pictures]
        return [SimpleNamespace(text=self.instead.get(one, one) + " ") for one in names]


def test_exact_names_count(cases: EvaluationSet) -> None:
    found = {one.name: one for one in captioner.evaluate(Knowing(cases), cases)}  # type: ignore[arg-type]
    trained = found["trained picture, unseen shift: name exact"]
    assert (trained.value, trained.must, trained.cases) == (1, 0.85, 12)
    assert found["control, names of other pictures"].value < 0.2
    assert found["unseen skin tone: name exact"].value == 1
    assert found["known emoji in another style: name exact"].cases == 1
    assert not any("twemoji" in name for name in found)  # the set has none


def test_a_wrong_tone_is_still_the_person(cases: EvaluationSet) -> None:
    model = Knowing(cases, {"hand: dark skin": "hand: light skin"})
    found = {one.name: one for one in captioner.evaluate(model, cases)}  # type: ignore[arg-type]
    assert found["unseen skin tone: name exact"].value == 0.5
    assert found["unseen skin tone: tone named"].value == 0.5
    assert found["unseen skin tone: person named"].value == 1


def test_beside_another_model(cases: EvaluationSet, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    other: Any = Noise(tmp_path / "set")
    figures = captioner.evaluate(
        Knowing(cases),
        cases,
        3,
        other,
        lambda done, total: told.append((done, total)),  # type: ignore[arg-type]
    )
    names = [one.name for one in figures]
    found = figures[names.index("oracle: trained picture, unseen shift: name exact")]
    assert found.value == 0 and found.cases == 3
    assert all(one.must is None for one in figures if one.name.startswith("oracle"))
    assert told[-1][0] == told[-1][1] == 2 * (3 + 3 + 1)


@pytest.mark.slow
def test_the_shipped_captioner_knows_its_pictures() -> None:
    """On the quick set; the card has the figures of the whole one."""
    import torch

    import dromaius

    assets = Path(__file__).resolve().parents[2] / "src/dromaius/assets"
    cases = read_set(assets / "nano" / "quick")
    model: Any = dromaius.load("nano-captioner", device="cpu")
    found = {one.name: one for one in captioner.evaluate(model, cases)}
    trained = found["trained picture, unseen shift: name exact"]
    assert trained.cases >= 50 and trained.met != "no", trained
    assert found["control, names of other pictures"].value < 0.1
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.model.parameters():
            p.copy_(torch.randn_like(p) * 0.05)
    chance = captioner.evaluate(model, cases, 10)[0]
    assert chance.value < 0.2
