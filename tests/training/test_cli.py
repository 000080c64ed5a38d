"""`dromaius train` as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECIPE = """
task = "vision_tokenizer"
[loop]
out = "{out}"
steps = 2
log_every = 1
[optimizer]
muon_lr = 1e-3
adamw_lr = 1e-3
[model]
codebook_size = 8
embed_dim = 2
z_channels = 2
ch = 4
ch_mult = [1, 1]
num_res_blocks = 1
norm_num_groups = 2
[objective]
batch = 2
[data]
folder = "{data}"
[heldout]
folder = "{data}"
"""


def dromaius(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from dromaius.cli.main import run; sys.exit(run(sys.argv[1:]))"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


def test_progress_on_stderr_and_the_result_on_stdout(picture_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(out=tmp_path / "out", data=picture_folder))
    done = dromaius("train", str(recipe))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert "step 1/2" in done.stderr and "step 2/2" in done.stderr and "items/s" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2
