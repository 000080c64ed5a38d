"""Runs code in a process where importing torch raises, and hands back the arrays it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[3]
BEFORE = """
import sys
sys.modules["torch"] = None  # importing it raises
import numpy
results = {}
"""
AFTER = """
assert not [name for name in sys.modules if name.startswith("torch.")]
numpy.savez("results.npz", **{name: numpy.asarray(value) for name, value in results.items()})
"""


def run(code: str, folder: Path) -> dict[str, np.ndarray]:
    """What `code`, run in `folder`, put into the dict `results`."""
    program = BEFORE + code + AFTER
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as found:
        return dict(found)
