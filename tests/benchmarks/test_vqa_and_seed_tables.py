"""Both benchmarks run at a tiny size, compare what they say, and say what is scaled."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import seed_tables, vqa

TINY = {"size": 32, "answer": 3, "dtype": "bfloat16", "repeats": 1, "hidden": 64, "layers": 1}


def arguments(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**TINY | {"base": 32, "seed": 0} | changes)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return vqa.measure(arguments())


def test_vqa_times_three_sides_that_write_the_same_tokens(result: dict[str, Any]) -> None:
    assert result["equal_greedy_tokens"]
    assert result["vocabulary"] == 184622
    prompt = 4 * (4 + 1)  # rows of codes, each with its line end
    prompt += len("4*4") + len(["bos", "image start", "image token"])
    prompt += len(["end of frame", "end of image"]) + len(vqa.QUESTION)
    assert result["prompt_tokens"] == prompt
    for name, parts in result["median"].items():
        assert min(parts["seconds"], parts["vision"], parts["token"]) > 0, name
    medians = {name: parts["seconds"] for name, parts in result["median"].items()}
    assert result["ratio"].keys() == {"compat", "engine"}
    for name, ratio in result["ratio"].items():
        assert ratio == pytest.approx(medians["transformers"] / medians[name], rel=0.1)
    assert json.loads(json.dumps(result)) == result
    lines = vqa.table(result).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["transformers", "compat", "engine"]


def test_vqa_times_nothing_where_tokens_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> vqa.Answer:
        return vqa.Answer(tokens=[-1, 0, 0], times=[1.0, 1.0, 1.0])

    monkeypatch.setitem(vqa.SIDES, "engine", wrong)
    with pytest.raises(SystemExit, match="engine parts from transformers at token 0"):
        vqa.measure(arguments())


def test_the_seeds_figures_are_the_seeds(seeds_dir: Path) -> None:
    """Every row of the inference tables of seed 001, and nothing else."""
    text = (seeds_dir / "001_ea09af9397a2bace.txt").read_text(encoding="utf-8")
    inference = text[text.index("Performance\n") : text.index("Training\n\nExperiments")]
    vision = re.findall(r"768x1360 ([\d.]+) ([\d.]+)$", inference, re.MULTILINE)
    assert vision == [(f"{r.seconds:.2f}", f"{r.rate:.2f}") for r in seed_tables.SEED[:8]]
    language = re.findall(r" (720x720|384x384) (?:ON|OFF) ([\d.]+) \d+$", inference, re.MULTILINE)
    ours = [(row.task.split()[1], f"{row.rate:.2f}") for row in seed_tables.SEED[8:]]
    assert language == ours


def test_scaled_rows_claim_nothing() -> None:
    import torch

    result = seed_tables.report(seed_tables.TINY, torch.device("cpu"), torch.float32, 1)
    assert not result["same_work"]
    assert len(result["rows"]) == len(seed_tables.SEED)
    assert all(row["ratio"] is None and row["rate"] > 0 for row in result["rows"])
    by_task = {row["task"]: row for row in result["rows"]}
    assert "32x48" in by_task["image 768x1360"]["measured"]
    assert "3 tokens" in by_task["answer 384x384"]["measured"]
    frames, still = by_task["4 frames 768x1360"], by_task["image 768x1360"]
    assert frames["rate"] * frames["seconds"] == pytest.approx(4, rel=0.05)
    assert still["rate"] * still["seconds"] == pytest.approx(1, rel=0.05)
    text = seed_tables.table(result)
    assert "SCALED DOWN" in text
    assert json.loads(json.dumps(result)) == result


def test_the_sizes_of_the_seed_take_its_number_of_steps() -> None:
    side = seed_tables.FULL.drawn // 8
    assert side * (side + 1) + 3 == 8193
    assert seed_tables.FULL.answer == 652
