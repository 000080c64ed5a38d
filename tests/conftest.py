"""What every test shares: where data files are, the run's random seed, and the skip rules.

Random configurations are drawn from one seed per run, printed in the report header; give it back
as DROMAIUS_TEST_SEED to see the same run again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before any test module imports torch: each xdist worker computes on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may depend on the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # Through the environment, so that all xdist workers and subprocesses draw from the same seed.
    os.environ.setdefault("DROMAIUS_TEST_SEED", str(int.from_bytes(os.urandom(4), "big")))


def pytest_report_header(config: pytest.Config) -> str:
    return f"DROMAIUS_TEST_SEED={os.environ['DROMAIUS_TEST_SEED']}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda_is_available():
        pytest.skip("needs a CUDA device")
    torch = sys.modules.get("torch")  # tests without torch must not pay for importing it
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()


def require_file(path: Path) -> Path:
    """Return `path`, or skip the test with the missing file's name."""
    if not path.exists():
        pytest.skip(f"needs {path.name}, which is not at {path}")
    return path


@pytest.fixture(name="require_file", scope="session")
def require_file_fixture() -> Callable[[Path], Path]:
    return require_file


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of public data files (tokenizers, configs) that are not part of the repository."""
    return Path(os.environ.get("DROMAIUS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def seeds_dir() -> Path:
    """Folder of the documents whose code blocks must run."""
    return Path(os.environ.get("DROMAIUS_SEEDS", REPOSITORY.parent / "shared" / "seeds"))


@pytest.fixture(scope="session")
def rng_seed() -> int:
    """The run's random seed; the report header prints it."""
    return int(os.environ["DROMAIUS_TEST_SEED"])
