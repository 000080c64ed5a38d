"""recipes/nano: the evaluation set that is written, and the package with its card."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dromaius.evaluation.cases import EvaluationSet, read_set

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano"
sys.path.insert(0, str(RECIPE))

import average  # noqa: E402  (the recipe's scripts import each other by name)
import build_data  # noqa: E402
import make_evaluation  # noqa: E402
import make_examples  # noqa: E402
import package  # noqa: E402
import palette  # noqa: E402
import render  # noqa: E402

TONES = {"": "", "1": ": light skin tone", "5": ": dark skin tone"}


def records() -> list[dict[str, Any]]:
    """Twenty fruits and eight people in two styles; fruit 3 looks like fruit 2."""
    found = []
    for style in ("noto", "fluent-flat"):
        for number in range(28):
            person = number >= 20
            for tone, words in TONES.items() if person else [("", "")]:
                cp = f"{number:x}"
                found.append({
                    "style": style, "cp": f"{cp}-{tone}" if tone else cp, "base_cp": cp,
                    "en": f"{'person' if person else 'fruit'}{chr(97 + number % 20)}{words}",
                    "zh": f"{'人' if person else '果'}{chr(97 + number % 20)}{words}",
                    "group": "people-body" if person else "food-drink", "subgroup": "",
                    "keywords_en": [], "keywords_zh": [], "tone": tone,
                    "is_base": not tone, "licence": "MIT",
                    "dup_of": "2" if number == 3 else None,
                    "held_emoji": number in (0, 1), "held_pair": number in (4, 5),
                    "held_combo": tone == "5" and number % 2 == 0,
                })  # fmt: skip
    return found


@pytest.fixture
def made(tmp_path: Path) -> tuple[EvaluationSet, np.ndarray, list[dict[str, Any]]]:
    lines = records()
    pictures = np.random.default_rng(2).integers(0, 256, (len(lines), 32, 32, 4)).astype(np.uint8)
    (tmp_path / "data").mkdir()
    build_data.write_array(tmp_path / "data" / "pictures.npy", [pictures], 32)
    build_data.write_lines(tmp_path / "data" / "pictures.jsonl", lines)
    (tmp_path / "twemoji").symlink_to(tmp_path / "data")
    (tmp_path / "all.json").write_text("{}")
    arguments = [
        "--data",
        "data",
        "--twemoji",
        "twemoji",
        "--out",
        "set",
        "--selection",
        "all.json",
    ]
    given = [str(tmp_path / one) if not one.startswith("--") else one for one in arguments]
    assert make_evaluation.main(given) == 0
    return read_set(tmp_path / "set"), pictures, lines


def test_what_is_asked_follows_from_the_records(
    made: tuple[EvaluationSet, np.ndarray, list[dict[str, Any]]],
) -> None:
    cases, pictures, lines = made
    by_name = {(line["style"], line["en"]): line for line in lines}
    gallery = cases.galleries["noto"]
    assert len(gallery.names) == 27 and "fruitd" not in gallery.names  # the duplicate
    assert len(cases.galleries["noto people"].names) == 8 * 3
    for one in cases.draws:
        if one.split != "wordings":
            line = by_name[one.galleries[0].removesuffix(" people"), one.name]
            held = line["held_emoji"] or line["held_pair"] or line["dup_of"] or line["cp"] == "2"
            assert not held and line["held_combo"] == (one.split == "held_combo")
    named = [one for one in cases.questions if one.kind == "name" and one.split == "trained"]
    assert {one.view.shift for one in named} == set(make_examples.UNSEEN_SHIFTS)
    assert not {one.view.shift for one in named} & set(make_examples.SHIFTS)
    assert all("fruitc" not in one.answer and "fruitd" not in one.answer for one in named)


def test_views_are_those_of_the_training_data(
    made: tuple[EvaluationSet, np.ndarray, list[dict[str, Any]]],
) -> None:
    cases, pictures, _ = made
    stored = {picture.tobytes(): picture for picture in pictures}
    checked = 0
    for view in {one.view for one in cases.questions if one.kind != "count"}:
        (dx, dy), colour = view.shift, list(view.background)
        rgba = stored[cases.pictures[view.picture].tobytes()]
        shown = render.render_view(rgba, {"dx": dx, "dy": dy, "scale": 1.0, "background": colour})
        assert np.array_equal(cases.show(view), shown)
        checked += 1
    assert checked > 50


def test_answers_take_turns(made: tuple[EvaluationSet, np.ndarray, list[dict[str, Any]]]) -> None:
    cases, _, _ = made
    trained = [one for one in cases.questions if (one.split, one.language) == ("trained", "en")]
    answers = {
        kind: [one.answer for one in trained if one.kind == kind]
        for kind in ("count", "presence", "background", "tone")
    }
    assert answers["count"][:5] == ["one", "two", "three", "four", "one"]
    assert answers["presence"][:4] == ["yes", "no", "yes", "no"]
    assert answers["background"][:9] == list(palette.COLOURS)
    assert set(answers["tone"][:3]) == {"no skin tone", "light skin tone", "dark skin tone"}
    for one in trained:
        if one.kind == "background":
            assert palette.colour_name(one.view.background) == one.answer


# --- the package -----------------------------------------------------------------------------


def trained_run(folder: Path, sizes: dict[str, int]) -> Path:
    """A run of training as package.py finds it; sizes are bytes of weight files."""
    run = folder / "runs" / "full"
    for name in ("model", "vision_tokenizer"):
        (run / name).mkdir(parents=True)
        (run / name / "log.jsonl").write_text('{"seconds": 1}\n{"seconds": 600}\n')
    (run / "model" / "config.json").write_text("{}")
    for name, size in sizes.items():
        save_file({"a": torch.zeros(size, dtype=torch.uint8)}, run / "model" / name)
    (run / "examples.jsonl").write_text('{"picture": 1}\n{"picture": 1}\n{"picture": 2}\n')
    (run / "figures.md").write_text(
        "| row | figure | met |\n|---|---|---|\n| 2 | drawn | no |\n| 3 | named | yes |\n"
    )
    data = folder / "data"
    data.mkdir()
    one = {"name": "art", "version": "1.0", "licence": "MIT"}
    (data / "data.json").write_text(json.dumps({"packages": [one]}))
    build_data.write_lines(data / "pictures.jsonl", records())
    return run


def packaged(folder: Path, sizes: dict[str, int], quick: int = 0) -> tuple[int, Path]:
    run, out = trained_run(folder, sizes), folder / "out"
    (out / "quick").mkdir(parents=True)
    (out / "quick" / "pictures.webp").write_bytes(bytes(quick))
    (out / "model.safetensors").write_bytes(b"old")
    arguments = {"--run": run, "--data": folder / "data", "--out": out}
    given = [str(part) for pair in arguments.items() for part in pair]
    return package.main(given), out


def test_the_card_has_figures_sums_and_what_is_missed(tmp_path: Path) -> None:
    code, out = packaged(tmp_path, {"model.safetensors": 1_500_000})
    assert code == 0
    card = (out / "README.md").read_text()
    weights = (out / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card and f"{len(weights):,}" in card
    assert "| 2 | drawn | no |" in card and 'Below "must": drawn.' in card
    assert "1.5M parameters" in card and "and 2 the language model" in card
    assert "| art | 1.0 | MIT |" in card and "noto-v1" in card


@pytest.mark.parametrize(
    ("sizes", "quick", "said"),
    [
        ({"model.safetensors": 15_000_001}, 0, "15,000,000"),
        ({"model-1.safetensors": 14_000_000, "model-2.safetensors": 10_000_000}, 1_100_000,
         "25,000,000"),
        ({}, 0, "no model"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_not_packaged(
    tmp_path: Path,
    sizes: dict[str, int],
    quick: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out = packaged(tmp_path, sizes, quick)
    assert code == 1 and said in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == b"old"


def test_the_mean_of_the_stages_is_packaged_once_they_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_run(tmp_path, {"model.safetensors": 8})
    second, mean, out = run / "model_2", run / "average", tmp_path / "out"
    second.mkdir()
    (second / "log.jsonl").write_text('{"seconds": 1200}\n')
    arguments = ["--run", str(run), "--data", str(tmp_path / "data"), "--out", str(out)]
    assert package.main(arguments) == 1 and "model_2 is not trained" in capsys.readouterr().err
    (second / "config.json").write_text("{}")
    assert package.main(arguments) == 1 and "average.py writes it" in capsys.readouterr().err
    mean.mkdir()
    (mean / "config.json").write_text("{}")
    save_file({"a": torch.ones(2_500_000, dtype=torch.uint8)}, mean / "model.safetensors")
    assert package.main(arguments) == 0
    card = (out / "README.md").read_text()
    assert "2.5M parameters" in card and "and 30 for" in card
    assert (out / "model.safetensors").read_bytes() == (mean / "model.safetensors").read_bytes()


def test_two_stages_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [tmp_path / "one", tmp_path / "two"]
    for stage, number in zip(stages, (1.0, 4.0), strict=True):
        stage.mkdir()
        weights = {"a": torch.full((3,), number), "b": torch.tensor([number], dtype=torch.bfloat16)}
        save_file(weights, stage / "model.safetensors")
        for name in average.KEPT:
            (stage / name).write_text(stage.name)
    arguments = [*map(str, stages), "--out", str(tmp_path / "mean")]
    assert average.main(arguments) == 0
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert mean["a"].tolist() == [2.5] * 3 and mean["b"].dtype == torch.bfloat16
    assert (tmp_path / "mean" / "config.json").read_text() == "one"
    save_file({"a": torch.ones(2)}, stages[1] / "model.safetensors")
    assert average.main(arguments) == 1 and "not two stages" in capsys.readouterr().err
