"""The loop: accumulation, stopping and going on. Killed runs: test_resume.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dromaius.errors import CheckpointError, ConfigError
from dromaius.training.loop import Interrupted, LoopSettings, Report, run
from dromaius.training.optimizer import OptimizerSettings
from dromaius.training.processes import Shard
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]


def train(recipe: dict[str, Any], report: Callable[[Report], None] = lambda r: None) -> None:
    plan = make_plan(recipe)
    run(plan.task, plan.loop, plan.optimizer, recipe, report)


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path / "a")
    before = signal.getsignal(signal.SIGINT)

    def report(now: Report) -> None:
        if now.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step 2 of 8.*the same command goes on"):
        train(recipe, report)
    assert signal.getsignal(signal.SIGINT) is before
    steps: list[int] = []
    train(recipe, lambda now: steps.append(now.step))
    assert steps[0] == 3


def test_another_recipe_does_not_resume(make_recipe: Make, tmp_path: Path) -> None:
    train(make_recipe("language_model", tmp_path / "a"))
    with pytest.raises(CheckpointError, match="another recipe"):
        train(make_recipe("language_model", tmp_path / "a", seed=4))
    (tmp_path / "a").rename(tmp_path / "b")  # no number depends on where it lies
    moved = make_recipe("language_model", tmp_path / "b", log_every=3, evaluate_every=2)
    train(moved | {"samples": {"prompts": ["apple"]}})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        train(make_recipe("language_model", tmp_path / "a"))


class Regression:
    """Least squares on fixed rows; a batch is `size` of them."""

    def __init__(self, size: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        self.extra = nn.Module()
        self.size = size
        self.inputs, self.outputs = torch.randn(24, 3), torch.randn(24, 3)

    def begin(self) -> None: ...

    def batch(self, index: int, shard: Shard) -> slice:
        return slice(index * self.size, (index + 1) * self.size)

    def loss(self, batch: slice) -> tuple[torch.Tensor, dict[str, float]]:
        error = self.model(self.inputs[batch]) - self.outputs[batch]
        return error.pow(2).mean(), {"items": float(self.size)}

    def after_step(self, step: int) -> None: ...

    def evaluate(self) -> dict[str, float]:
        return {}

    def samples(self) -> None:
        return None

    def export(self, folder: Path) -> None: ...


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    weights = []
    reported: list[float] = []
    for accumulate, size in ((1, 8), (4, 2)):
        task = Regression(size)
        settings = LoopSettings(
            out=str(tmp_path / str(accumulate)), steps=3, accumulate=accumulate, log_every=1
        )
        optimizer = OptimizerSettings(muon_lr=0.01, adamw_lr=0.01, warmup=1)
        run(task, settings, optimizer, {}, lambda now: reported.append(now.figures["loss"]))
        weights.append(task.model[1].weight.detach())
    # AdamW's first steps depend on signs only, so compare losses of all steps too
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0)
    assert reported[:3] == pytest.approx(reported[3:], rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    task = Regression(2)
    task.outputs[3] = float("nan")
    settings = LoopSettings(out=str(tmp_path), steps=5)
    with pytest.raises(ConfigError, match="nan at step 1"):
        run(task, settings, OptimizerSettings(muon_lr=0.01, adamw_lr=0.01), {})


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="loop: precision .* 'float8'"):
        LoopSettings.from_dict({"out": "x", "steps": 1, "precision": "float8"}, "loop")
    with pytest.raises(ConfigError, match="steps must be at least 1, got 0"):
        LoopSettings.from_dict({"out": "x", "steps": 0}, "loop")
