"""`dromaius train`, killed with SIGKILL and started again, ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from dromaius.cli.main import run

Make = Callable[..., dict[str, Any]]

STEPS = 40
TRAIN = [sys.executable, "-m", "dromaius.cli.main", "train"]

KILLED_WHILE_SAVING = """
import os, signal, sys
from dromaius.cli.main import run
from dromaius.training import checkpoint
whole, saved = checkpoint.save_file, []
def half(tensors, path, metadata):
    whole(tensors, path, metadata)
    saved.append(path)
    if len(saved) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = half
run(sys.argv[1:])
"""


def as_toml(value: Any) -> str:
    """A value as TOML writes it within a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(one) for one in value) + "]"
    return json.dumps(value)


def write_recipe(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text("".join(f"{name} = {as_toml(value)}\n" for name, value in recipe.items()))
    return path


def kill_at(step: int, recipe: Path) -> None:
    """Start a training and kill it as soon as it tells of `step`.

    Its stderr holds one page only, so that it cannot be far ahead of what is read.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*TRAIN, str(recipe)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        with contextlib.suppress(AttributeError):  # Linux only
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        said = []
        for line in process.stderr:
            said.append(line.decode())
            if f"step {step}/" in said[-1]:
                break
        process.kill()
        rest = process.stderr.read().decode()
    assert process.returncode == -signal.SIGKILL, "".join([*said, rest])
    assert f"step {STEPS}/" not in rest


def kill_while_saving(recipe: Path) -> None:
    """Go on; die when the second checkpoint of this sitting is half written."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, "train", str(recipe)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def tensors(path: Path) -> dict[str, bytes]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}


def exported(folder: Path) -> dict[str, bytes]:
    """All that a run leaves behind but its log and its checkpoint, which tell the time."""
    files = [one for one in folder.rglob("*") if one.is_file()]
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in files
        if not one.name.startswith(("log.jsonl", "checkpoint", "events.out"))
    }


def log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    timed = ("seconds", "cpu_seconds", "items/s", "tokens/s")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def steps_on_the_board(folder: Path) -> list[int]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return [event.step for event in board.Scalars("loss")]


@pytest.mark.parametrize(
    ("task", "accumulate"),
    [("vision_tokenizer", 1), ("language_model", 2), ("vision_encoder_decoder", 2)],
    ids=str,
)
def test_killed_twice_is_never_killed(
    make_recipe: Make, tmp_path: Path, task: str, accumulate: int
) -> None:
    changes = {"steps": STEPS, "accumulate": accumulate, "evaluate_every": 20}
    recipes = {}
    for name in ("undisturbed", "killed"):
        content = make_recipe(task, tmp_path / name, **changes)
        if task == "language_model":
            content["samples"] = {"prompts": ["a red apple", "apple"]}
        recipes[name] = write_recipe(tmp_path / f"{name}.toml", content)
    killed = tmp_path / "killed"

    assert run(["train", str(recipes["undisturbed"])]) == 0
    kill_at(5, recipes["killed"])  # checkpoints are made at 3, 6, 9, ...
    assert (killed / "checkpoint.safetensors").exists()
    assert not (killed / "model.safetensors").exists()
    kill_while_saving(recipes["killed"])
    assert list(killed.glob(".checkpoint.safetensors.*")), "no half-written file was left"
    time.sleep(1.1)  # TensorBoard reads its files in the order of the seconds in their names
    assert run(["train", str(recipes["killed"])]) == 0

    undisturbed = tmp_path / "undisturbed"
    one, other = (tensors(folder / "checkpoint.safetensors") for folder in (undisturbed, killed))
    assert {name.split("/")[0] for name in one} >= {"model", "optimizer0", "optimizer1", "random"}
    assert one == other
    assert exported(undisturbed) == exported(killed)
    assert {"config.json", "model.safetensors", "samples/step-000020.png"} <= set(exported(killed))
    assert log(undisturbed) == log(killed)
    assert [line["step"] for line in log(killed)] == list(range(1, STEPS + 1))
    assert steps_on_the_board(killed) == list(range(1, STEPS + 1))
