"""How a block is run."""

import ast
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius import errors
from tests.compat.conftest import Checkpoints
from tests.compat.seed_blocks.blocks import source
from tests.compat.seed_blocks.support import Run


@pytest.fixture(scope="session")
def seeds(seeds_dir: Path) -> Path:
    if not seeds_dir.is_dir():
        pytest.skip(f"needs the seeds, which are not at {seeds_dir}")
    return seeds_dir


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of noise, 48x32."""
    folder = tmp_path_factory.mktemp("frames")
    noise = np.random.default_rng(1).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    for index, frame in enumerate(noise):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def run(
    seeds: Path,
    checkpoints: Checkpoints,
    picture: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run a block in `tmp_path`, on the meta device if asked; `given` are names it may use."""
    monkeypatch.chdir(tmp_path)
    errors.warn_once.cache_clear()  # each test sees the warnings of its own block
    places = {
        "hf": checkpoints.hf,
        "baai_lm": checkpoints.baai_lm,
        "baai_vq": checkpoints.baai_vq,
        "picture": picture,
        "frames": frames,
    }

    def run_block(name: str, meta: bool = False, **given: Any) -> dict[str, Any]:
        tree = ast.parse(source(seeds, name, places))
        if isinstance(tree.body[-1], ast.Expr):
            last = tree.body[-1]
            kept = ast.Assign([ast.Name("_", ast.Store())], last.value)
            tree.body[-1] = ast.fix_missing_locations(ast.copy_location(kept, last))
        torch.manual_seed(0)
        with torch.device("meta") if meta else contextlib.nullcontext():
            exec(compile(tree, f"seed {name}", "exec"), given)
        return given

    return run_block
