"""Training on a GPU: what can be told without one, and two short runs where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import dromaius
from dromaius.data.samples import Batch
from dromaius.errors import ConfigError
from dromaius.training.checkpoint import binding
from dromaius.training.codebook import RunningCodebook
from dromaius.training.loop import LoopSettings, _moved, run
from dromaius.training.optimizer import (
    OptimizerSettings,
    build_optimizers,
    load_state_tensors,
    state_tensors,
)
from dromaius.training.processes import Shard, choose_device
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]
TASKS = ["vision_tokenizer", "language_model"]


def train(recipe: dict[str, Any]) -> dict[str, float]:
    plan = make_plan(recipe)
    return run(plan.task, plan.loop, plan.optimizer, recipe)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_gpu_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    gpus(monkeypatch, 0)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device is 'cuda', but no GPU"):
        choose_device("cuda")
    gpus(monkeypatch, 2)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 2 .* no GPU of its own, there are 2"):
        choose_device("auto")
    with pytest.raises(ConfigError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        LoopSettings.from_dict({"out": "x", "steps": 1, "device": "tpu"}, "loop")


def test_another_device_is_the_same_run() -> None:
    recipe = {"task": "t", "loop": {"steps": 3}}
    assert binding(recipe) == binding({"task": "t", "loop": {"steps": 3, "device": "cuda"}})


def test_a_batch_moves_whole() -> None:
    """The meta device holds no numbers, but tensors say that they are there."""
    ids = torch.zeros(2, 3, dtype=torch.int64)
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    for batch in (Batch(ids, ids, None, None, 6), Batch(ids, ids, ids, mask, 6)):
        moved = batch.to(torch.device("meta"))
        tensors = [one for one in vars(moved).values() if isinstance(one, Tensor)]
        assert len(tensors) == sum(isinstance(one, Tensor) for one in vars(batch).values())
        assert {one.device.type for one in tensors} == {"meta"}
        assert moved.tokens == 6


def test_what_a_step_computes_with_is_moved(make_recipe: Make, tmp_path: Path) -> None:
    meta = torch.device("meta")
    for name in TASKS:
        batch = make_plan(make_recipe(name, tmp_path)).task.batch(0, Shard())
        moved = _moved(batch, meta)
        parts = [vars(one) for one in moved] if isinstance(moved, list) else [{"pixels": moved}]
        assert len(parts) == (2 if name == "language_model" else 1)
        found = {one.device for part in parts for one in part.values() if isinstance(one, Tensor)}
        assert found == {meta}
    assert _moved(slice(3), meta) == slice(3)


def test_an_optimizer_goes_on_where_the_weights_are() -> None:
    """All but AdamW's count of steps, which torch keeps on the CPU."""
    settings = OptimizerSettings(muon_lr=0.1, adamw_lr=0.1)
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizers = build_optimizers(model, settings)
    model(torch.ones(1, 3)).square().sum().backward()
    for one in optimizers:
        one.step()
    saved = [state_tensors(model, one) for one in optimizers]
    model.to("meta")
    for tensors, one in zip(saved, build_optimizers(model, settings), strict=True):
        load_state_tensors(model, one, tensors)
        for entries in one.state.values():
            assert entries
            for name, value in entries.items():
                assert value.device.type == ("cpu" if name == "step" else "meta")


# --------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", TASKS)
def test_trained_and_resumed_on_a_gpu(
    make_recipe: Make, tmp_path: Path, task: str, precision: str
) -> None:
    """Three steps at once, or two and one with the checkpoint between; then on a CPU."""

    def recipe(name: str, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"steps": 3, "device": "cuda", "precision": precision}
        content = make_recipe(task, tmp_path / name, **settings | changes)
        if task == "language_model":
            content["samples"] = {"prompts": ["a red apple"]}
        return content

    train(recipe("whole"))
    plan = make_plan(recipe("parts", checkpoint_every=2))
    stop = RuntimeError("after the second step's checkpoint")

    def progress(step: int, steps: int) -> None:
        if step == 3:
            raise stop

    with pytest.raises(RuntimeError, match="second"):
        run(plan.task, plan.loop, plan.optimizer, recipe("parts"), progress=progress)
    assert next(plan.task.model.parameters()).is_cuda
    train(recipe("parts"))
    one, other = (
        tensors(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts")
    )
    assert one.keys() == other.keys() and "random_cuda" in one
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-2, rtol=1e-2, msg=name)
    figures = train(recipe("whole", device="cpu", precision=precision))
    assert all(torch.isfinite(torch.tensor(value)) for value in figures.values())
    assert str(dromaius.load(str(tmp_path / "whole"), device="cpu").device) == "cpu"


@pytest.mark.gpu
def test_a_run_begun_on_a_cpu_goes_on_on_a_gpu(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path, steps=3, checkpoint_every=2)
    plan = make_plan(recipe)
    train(recipe)
    before = tensors(tmp_path / "checkpoint.safetensors")
    train(recipe | {"loop": recipe["loop"] | {"device": "cuda"}})
    assert before.keys() == tensors(tmp_path / "checkpoint.safetensors").keys()
    assert plan.loop.device == "cpu"


@pytest.mark.gpu
def test_the_codebook_draws_as_on_a_cpu() -> None:
    vectors = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    codes = torch.zeros(64, dtype=torch.int64)
    weights = []
    for device in ("cpu", "cuda"):
        weight = torch.zeros(8, 3, device=device)
        codebook = RunningCodebook(weight, patience=1).to(device)
        draw = torch.Generator().manual_seed(1)
        codebook.update(vectors.to(device), codes.to(device), draw)
        weights.append(weight.cpu())
    torch.testing.assert_close(*weights)


def tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}
