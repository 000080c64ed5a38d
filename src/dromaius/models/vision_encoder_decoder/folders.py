"""Which framework's weights a checkpoint folder holds; nothing but file headers is read."""

import json
from pathlib import Path

from dromaius.errors import CheckpointError

TF_FILE, FLAX_FILE = "tf_model.h5", "flax_model.msgpack"
SAFETENSORS_FILE = "model.safetensors"
_TORCH_FILES = (SAFETENSORS_FILE, "pytorch_model.bin")
_MAX_HEADER_BYTES = 100 * 2**20


def choose(folder: Path, framework: str | None = None) -> str:
    """The framework whose weights to read: the wanted one, else the first that is there.

    framework: "pt", "tf", "flax" or None. Raises CheckpointError when there are no such weights.
    """
    found = held(folder)
    if not found or (framework or found[0]) not in found:
        raise CheckpointError(_nothing_there(folder, framework, found))
    return framework or found[0]


def held(folder: Path) -> list[str]:
    """The frameworks whose weights are there."""
    return [name for name in ("pt", "tf", "flax") if _holds(folder, name)]


def _holds(folder: Path, framework: str) -> bool:
    if framework == "flax":
        return any((folder / name).is_file() for name in (FLAX_FILE, f"{FLAX_FILE}.index.json"))
    if framework == "tf" and (folder / TF_FILE).is_file():
        return True
    files = [folder / f"{name}{end}" for name in _TORCH_FILES for end in ("", ".index.json")]
    there = any(file.is_file() for file in files)
    return there and (framework == "pt" or safetensors_format(folder) == "tf")


def _nothing_there(folder: Path, framework: str | None, found: list[str]) -> str:
    if framework and found:
        return f"{folder} holds no {framework} weights, but those of {' and '.join(found)}"
    if any(folder.glob("*.index")) or any(folder.glob("*.ckpt*")):
        return (
            f"{folder} holds a TensorFlow 1 checkpoint, which is not read; write it once as "
            f"{TF_FILE} with TensorFlow, or as model.safetensors with PyTorch"
        )
    if (folder / f"{TF_FILE}.index.json").is_file():
        return f"{folder} holds {TF_FILE} in shards, which are not read; save it as one file"
    return (
        f"{folder} holds no weights (model.safetensors, pytorch_model.bin, {TF_FILE}, {FLAX_FILE})"
    )


def safetensors_format(folder: Path) -> str:
    """Which framework wrote the safetensors file: "pt", "tf" or "flax"."""
    files = [folder / _TORCH_FILES[0], *sorted(folder.glob("model-*-of-*.safetensors"))[:1]]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return "pt"
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(size, _MAX_HEADER_BYTES))
    try:
        return str(json.loads(header)["__metadata__"]["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "pt"


def few(names: list[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
