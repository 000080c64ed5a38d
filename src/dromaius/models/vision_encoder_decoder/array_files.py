"""A checkpoint folder of any framework -> NumPy arrays under PyTorch's names, without PyTorch.

Read are `.safetensors` (also in shards), TensorFlow's `tf_model.h5`, Flax's `flax_model.msgpack`.
`.bin` is a format of PyTorch's own and needs it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes
from dromaius.models.vision_encoder_decoder import folders
from dromaius.models.vision_encoder_decoder.folders import SAFETENSORS_FILE, TF_FILE
from dromaius.models.vision_encoder_decoder.foreign import (
    Part,
    flax_tensor,
    tf_tensor,
    with_shared_embedding,
)
from dromaius.models.vision_encoder_decoder.foreign_files import BFLOAT16, read_flax, read_h5

_INDEX_FILE = f"{SAFETENSORS_FILE}.index.json"
_MAX_JSON_BYTES = 64 * 2**20
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}
"""What the first BERT files call the tensors of a norm."""


def read_arrays(
    folder: Path | str, part: Part = None, framework: str | None = None
) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, floating ones in float32.

    part: "encoder" or "decoder" if the folder holds only that one.
    framework: "pt", "tf" or "flax"; None takes the first of them that is there.
    Raises CheckpointError when there are no weights, or a file is damaged or does what none may.
    """
    folder = Path(folder)
    chosen = folders.choose(folder, framework)
    if chosen == "tf" and (folder / TF_FILE).is_file():
        pairs = (tf_tensor(*pair, part) for pair in read_h5(folder / TF_FILE))
    elif chosen == "flax":
        pairs = (flax_tensor(*pair) for pair in read_flax(folder))
    else:
        pairs = (pair for file in _files(folder) for pair in _read(file, part))
    found: dict[str, np.ndarray] = {}
    for name, value in pairs:
        if name in found:
            raise CheckpointError(f"{folder}: two tensors are {name}")
        found[name] = _float32(value)
    return with_shared_embedding(found) if part == "decoder" else found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for a file that is absent, too large, or none."""
    content = read_bytes(file, _MAX_JSON_BYTES, CheckpointError)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return found


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    if (folder / SAFETENSORS_FILE).is_file():
        return [folder / SAFETENSORS_FILE]
    if not (folder / _INDEX_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds only PyTorch's .bin, which needs PyTorch; write it once as "
            f"{SAFETENSORS_FILE}: VisionEncoderDecoderModel.from_pretrained(folder)"
            ".save_pretrained(folder)"
        )
    places = read_json(folder / _INDEX_FILE).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else {None}
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or not (folder / name).is_file():
            raise CheckpointError(f"{folder / _INDEX_FILE} points to no file beside it: {name!r}")
    return sorted(folder / str(name) for name in names)


def _read(file: Path, part: Part) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            written_by = (opened.metadata() or {}).get("format", "pt")
            for name in opened.keys():  # noqa: SIM118  # no mapping
                bfloat16 = opened.get_slice(name).get_dtype() == "BF16"
                value = _read_bfloat16(file, name) if bfloat16 else opened.get_tensor(name)
                if written_by == "tf":
                    yield tf_tensor(name, value, part)
                elif written_by == "flax":
                    yield flax_tensor(name.split("."), value)
                else:
                    scopes, dot, leaf = name.rpartition(".")
                    yield f"{scopes}{dot}{_OLD_LEAVES.get(leaf, leaf)}", value
    except (SafetensorError, TypeError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _read_bfloat16(file: Path, name: str) -> np.ndarray:
    """A tensor of a file that safetensors has checked: it gives NumPy none of a dtype it lacks."""
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        entry = json.loads(opened.read(size))[name]
        begin, end = entry["data_offsets"]
        opened.seek(8 + size + begin)
        return np.frombuffer(opened.read(end - begin), BFLOAT16).reshape(entry["shape"])


def _float32(value: np.ndarray) -> np.ndarray:
    """Contiguous; bfloat16, however it is represented, too."""
    if value.dtype == BFLOAT16:
        bits = np.ascontiguousarray(value["bfloat16"]).astype(np.uint32) << 16
        return bits.view(np.float32)
    if value.dtype.kind == "f" or str(value.dtype) == "bfloat16":
        return np.ascontiguousarray(value, dtype=np.float32)
    return np.ascontiguousarray(value)
