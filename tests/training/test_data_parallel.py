"""Two processes that average gradients: the same step as one process, exact resumption, an end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dromaius.training.loop import run
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]

SCRIPT = """
import json, os, signal, sys
import torch.distributed as dist
from dromaius.training.loop import Interrupted, run
from dromaius.training.tasks import make_plan

def train(recipe, report=lambda now: None):
    plan = make_plan(recipe)
    run(plan.task, plan.loop, plan.optimizer, recipe, report)

def stop(now):
    if now.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

def threads():
    folder = "/proc/self/task"
    return [open(f"{folder}/{one}/comm").read() for one in os.listdir(folder)]

alone, undisturbed, stopped = json.load(open(sys.argv[1]))
train(alone)
if os.path.isdir("/proc/self/task"):
    assert not any("gloo" in name for name in threads()), threads()

address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
store = dist.PrefixStore("again", dist.TCPStore(address, port, is_master=False))
rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
train(undisturbed)
try:
    train(stopped, stop)
    sys.exit("was not stopped")
except Interrupted:
    dist.barrier()
train(stopped)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("averaged")


@pytest.fixture
def averaged(make_recipe: Make, folder: Path) -> Path:
    """Three runs by two processes, in `folder`: pictures, undisturbed, stopped."""
    if (folder / "recipes.json").exists():
        return folder
    recipes = [
        pictures(make_recipe, folder / "pictures"),
        make_recipe("language_model", folder / "undisturbed", steps=4, checkpoint_every=9),
        make_recipe("language_model", folder / "stopped", steps=4, checkpoint_every=9),
    ]
    (folder / "recipes.json").write_text(json.dumps(recipes))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(folder / "script.py"), str(folder / "recipes.json")]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def pictures(make_recipe: Make, out: Path) -> dict[str, Any]:
    recipe = make_recipe("vision_tokenizer", out, steps=2)
    # Which vector a dead codebook entry moves to depends on the order of the vectors.
    recipe["objective"]["patience"] = 100
    return recipe


@pytest.mark.distributed
def test_two_processes_equal_one(make_recipe: Make, averaged: Path, tmp_path: Path) -> None:
    alone = pictures(make_recipe, tmp_path)
    plan = make_plan(alone)
    run(plan.task, plan.loop, plan.optimizer, alone)
    one, two = (load_file(out / "model.safetensors") for out in (tmp_path, averaged / "pictures"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=2e-3, rtol=0, msg=key)
    moved = (one["vision_tokenizer.encoder.conv_in.weight"]).abs().max()
    assert moved > 0


@pytest.mark.distributed
def test_stopped_and_resumed_is_never_stopped(averaged: Path) -> None:
    """With dropout: each process needs its own noise back, a checkpoint is by one of them."""
    for name in ("checkpoint.safetensors", "model.safetensors"):
        one, other = (load_file(averaged / out / name) for out in ("undisturbed", "stopped"))
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key
