"""A checkpoint folder of any framework -> tensors under the names that lie on disk in PyTorch's.

Read are `.safetensors` and `.bin` (also in shards), TensorFlow's `tf_model.h5` and its safetensors,
Flax's `flax_model.msgpack` (also in shards). Nothing in a file is executed, no path in it is
followed, and no tensor may claim more bytes than the file holds.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes
from dromaius.io.checkpoint import MAX_INDEX_BYTES, read_tensors
from dromaius.models.vision_encoder_decoder.foreign import Part, flax_tensor, tf_tensor

TF_FILE, FLAX_FILE = "tf_model.h5", "flax_model.msgpack"
_TORCH_FILES = ("model.safetensors", "pytorch_model.bin")
_MAX_HEADER_BYTES = 100 * 2**20
_SHARED = ("shared.weight", "model.shared.weight")


def read_state(folder: Path, part: Part = None, framework: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, memory-mapped where the format allows it.

    part: "encoder" or "decoder" if the folder holds only that one.
    framework: "pt", "tf" or "flax"; None takes the first of them that is there.
    Raises CheckpointError when there are no weights, or a file is damaged or does what none may.
    """
    folder = Path(folder)
    found = [name for name in ("pt", "tf", "flax") if _holds(folder, name)]
    if not found or (framework or found[0]) not in found:
        raise CheckpointError(_nothing_there(folder, framework, found))
    chosen = framework or found[0]
    if chosen == "tf" and (folder / TF_FILE).is_file():
        pairs = (tf_tensor(*pair, part) for pair in _read_h5(folder / TF_FILE))
        return _torch(folder / TF_FILE, pairs)
    if chosen == "flax":
        return _torch(folder / FLAX_FILE, (flax_tensor(*pair) for pair in _read_flax(folder)))
    state = dict(read_tensors(folder))
    written_by = _safetensors_format(folder)
    if written_by == "tf":
        pairs = (tf_tensor(name, tensor.numpy(), part) for name, tensor in state.items())
        state = _torch(folder / _TORCH_FILES[0], pairs)
    elif written_by == "flax":
        pairs = (flax_tensor(name.split("."), t.numpy()) for name, t in state.items())
        state = _torch(folder / _TORCH_FILES[0], pairs)
    return _with_shared_embedding(state) if part == "decoder" else state


def _holds(folder: Path, framework: str) -> bool:
    if framework == "flax":
        return any((folder / name).is_file() for name in (FLAX_FILE, f"{FLAX_FILE}.index.json"))
    if framework == "tf" and (folder / TF_FILE).is_file():
        return True
    files = [folder / f"{name}{end}" for name in _TORCH_FILES for end in ("", ".index.json")]
    there = any(file.is_file() for file in files)
    return there and (framework == "pt" or _safetensors_format(folder) == "tf")


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


def _safetensors_format(folder: Path) -> str:
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


def _with_shared_embedding(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sequence-to-sequence files hold the embedding once; a decoder alone looks for its own."""
    for name in _SHARED:
        if name in state:
            own = name.replace("shared", "decoder.embed_tokens")
            state.setdefault(own, state[name])
    return state


def _torch(file: Path, pairs: Iterator[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in pairs:
        if name in state:
            raise CheckpointError(f"{file}: two tensors are {name}")
        state[name] = _tensor(value)
    return state


def _tensor(value: np.ndarray) -> Tensor:
    if value.dtype == _BFLOAT16:
        bits = np.ascontiguousarray(value["bfloat16"])
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(value))


_BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""NumPy has no bfloat16: its bits, under a name that tells them from integers."""


# ---------------------------------------------------------------------------------- TensorFlow


def _read_h5(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(path inside of the layer's group, array) of a Keras weight file."""
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading it needs h5py (pip install 'dromaius[foreign]')"
        ) from error
    try:
        with h5py.File(file, "r") as opened:
            for path, dataset in _datasets(h5py, file, opened, ""):
                yield path, dataset[()]
    except CheckpointError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or cut short") from error


def _datasets(h5py: Any, file: Path, group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if prefix.count("/") > 64:
        raise CheckpointError(f"{file}: groups are nested too deep")
    for name in group:
        path = f"{prefix}/{name}" if prefix else name
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{file}: {path} is a link to elsewhere, which is not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, file, item, path)
        elif item.dtype.kind in "fiu":
            if item.external or item.is_virtual:
                raise CheckpointError(f"{file}: {path} lies in another file, which is not read")
            if item.id.get_storage_size() < item.nbytes:
                raise CheckpointError(f"{file}: {path} claims more bytes than the file holds")
            yield path, item


# ---------------------------------------------------------------------------------------- Flax


def _read_flax(folder: Path) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    for file in _flax_files(folder):
        yield from _leaves(file, _unpack(file, file.read_bytes()), ())


def _flax_files(folder: Path) -> list[Path]:
    index = folder / f"{FLAX_FILE}.index.json"
    if (folder / FLAX_FILE).is_file():
        return [folder / FLAX_FILE]
    try:
        content = json.loads(read_bytes(index, MAX_INDEX_BYTES, CheckpointError))
        names = set(content["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a weight index") from error
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
            raise CheckpointError(f"{index} points outside of its folder: {name!r}")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} points to a missing file: {name}")
    return sorted(folder / name for name in names)


def _unpack(file: Path, content: bytes) -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading it needs msgpack (pip install 'dromaius[foreign]')"
        ) from error
    try:
        return msgpack.unpackb(content, ext_hook=_array, raw=False, strict_map_key=True)
    except CheckpointError:
        raise
    except Exception as error:  # msgpack raises many kinds
        raise CheckpointError(f"{file} is damaged or cut short") from error


def _array(code: int, data: bytes) -> Any:
    """Flax's extension 1: (shape, dtype's name, bytes)."""
    import msgpack

    if code != 1:
        raise CheckpointError(f"a Flax file holds an object of kind {code}, which is not read")
    shape, dtype_name, content = msgpack.unpackb(data, raw=True)
    name = dtype_name.decode("ascii")
    dtype = _BFLOAT16 if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in "fiubV" or math.prod(shape) * dtype.itemsize != len(content):
        raise CheckpointError(f"a Flax file holds an array of {name} whose size is not its shape's")
    return np.frombuffer(content, dtype).reshape(shape)


def _leaves(
    file: Path, tree: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict) and "__msgpack_chunked_array__" in tree:
        yield path, _joined(file, tree)
    elif isinstance(tree, dict):
        for name, below in tree.items():
            yield from _leaves(file, below, (*path, *str(name).split("/")))
    else:
        raise CheckpointError(f"{file}: {'.'.join(path)} is no array")


def _joined(file: Path, tree: dict[str, Any]) -> np.ndarray:
    """An array above 1 GiB, which Flax writes in flat pieces."""
    try:
        shape = [tree["shape"][str(i)] for i in range(len(tree["shape"]))]
        pieces = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
        return np.concatenate(pieces).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: an array in pieces does not fit together") from error
