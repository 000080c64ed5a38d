"""`dromaius train` as a person runs it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import command, start

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


def test_a_terminal_sees_a_bar_and_a_line_after_the_evaluation(
    picture_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    content = RECIPE.format(out="out", data=picture_folder)
    recipe.write_text(content.replace("steps = 2", "steps = 30"))
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    process = start(command("train", str(recipe), model="real"), tmp_path, env, stderr=theirs)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    out, _ = process.communicate(timeout=120)
    text = shown.decode()
    assert (process.returncode, out) == (0, b"out\n"), text
    assert "training" in text and "items/s" in text and "%" in text
    [line] = [line for line in text.splitlines() if "dromaius: " in line]
    assert "step 30/30" in line and "to go" in line
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 30


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize("allowed", [0, 40])
def test_a_full_disk_is_one_line(picture_folder: Path, tmp_path: Path, allowed: int) -> None:
    """No file may grow over `allowed` blocks of 1024 bytes: the log, or the checkpoint."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(out="out", data=picture_folder))
    limit = ["bash", "-c", f'trap "" XFSZ; ulimit -f {allowed}; exec "$@"', "bash"]
    process = start([*limit, *command("train", str(recipe), model="real")], tmp_path)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, b"")
    name = "checkpoint.safetensors" if allowed else "log.jsonl"
    last = err.decode().splitlines()[-1]
    assert last.startswith(f"dromaius: error: cannot write out/{name}: "), err.decode()
    assert "File too large" in last and "Traceback" not in err.decode()
