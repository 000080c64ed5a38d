"""C++ kernels, built by the machine's own compiler when they are first needed.

Nothing depends on them: without a compiler, or with DROMAIUS_KERNELS=0, PyTorch does the work.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

from dromaius.files import atomic_path

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
TIMEOUT = 300
"""Seconds after which a compiler is given up; it takes a few, but a busy machine may starve it."""


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The kernels of `name`.cpp, or None where they cannot be had.

    The result is kept in the user's cache, under a name that tells sources, compiler and processor.
    """
    if os.environ.get("DROMAIUS_KERNELS") == "0" or platform.system() != "Linux":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    source = SOURCES / f"{name}.cpp"
    headers = (path.read_bytes() for path in sorted(SOURCES.glob("*.h")))
    parts = (source.read_bytes(), *headers, " ".join(FLAGS).encode(), compiler[1], _processor())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    built = cache_folder() / f"{name}-{key}.so"
    try:
        if not built.exists():
            _build(compiler[0], source, built)
        # torch is loaded by now, so that the name libgomp means its OpenMP and its threads.
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(_told_why(source.name, error), RuntimeWarning, stacklevel=2)
        return None


def cache_folder() -> Path:
    """Where built kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "dromaius" / "kernels"


def _build(compiler: str, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        command = [compiler, *FLAGS, str(source), "-o", str(temporary)]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)


def _told_why(name: str, error: Exception) -> str:
    """One line of why there are no kernels, for who wonders that all is slow."""
    reason = str(error)
    if isinstance(error, subprocess.TimeoutExpired):
        reason = f"the compiler was not done after {TIMEOUT} s"
    elif isinstance(error, subprocess.CalledProcessError):
        reason = f"the compiler failed with status {error.returncode}"
    return f"{name}: no kernels, PyTorch does their work more slowly: {reason}"


def _compiler() -> tuple[str, bytes] | None:
    """Path and version of the first compiler there is ($CXX goes first)."""
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        try:
            told = subprocess.run([path, "--version"], capture_output=True, timeout=TIMEOUT)
        except (OSError, subprocess.SubprocessError):
            continue
        if told.returncode == 0:
            return path, told.stdout
    return None


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it, as far as Linux tells."""
    told = _told()
    words = f"{told.get('flags', '')} {told.get('Features', '')}".split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def _processor() -> bytes:
    """What -march=native depends on: a cache may be shared by machines."""
    told = _told()
    if not told:
        return platform.processor().encode()
    return "\n".join(told.get(key, "") for key in ("model name", "flags", "Features")).encode()


def _told() -> dict[str, str]:
    """What Linux says of the last of its processors; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0].strip(): line for line in lines}
