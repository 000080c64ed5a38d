"""Two processes that average gradients take the step that one process takes on the whole batch."""

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

SCRIPT = """
import json, sys
from dromaius.training.loop import run
from dromaius.training.tasks import make_plan
recipe = json.load(open(sys.argv[1]))
plan = make_plan(recipe)
run(plan.task, plan.loop, plan.optimizer, recipe)
"""


@pytest.mark.distributed
def test_two_processes_equal_one(
    make_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    alone = make_recipe("vision_tokenizer", tmp_path / "a", steps=2)
    # Which vector a dead codebook entry moves to depends on the order of the vectors.
    alone["objective"]["patience"] = 100
    plan = make_plan(alone)
    run(plan.task, plan.loop, plan.optimizer, alone)
    recipe = alone | {"loop": alone["loop"] | {"out": str(tmp_path / "b")}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(tmp_path / "script.py"), str(tmp_path / "recipe.json")]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=2e-3, rtol=0, msg=key)
    moved = (one["vision_tokenizer.encoder.conv_in.weight"]).abs().max()
    assert moved > 0
