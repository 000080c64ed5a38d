"""A checkpoint folder of any framework -> tensors under the names that lie on disk in PyTorch's.

Read are `.safetensors` and `.bin` (also in shards), TensorFlow's `tf_model.h5` and its safetensors,
Flax's `flax_model.msgpack` (also in shards). `array_files` reads the same without PyTorch.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dromaius.errors import CheckpointError
from dromaius.io.checkpoint import read_tensors
from dromaius.models.vision_encoder_decoder import folders
from dromaius.models.vision_encoder_decoder.folders import (
    FLAX_FILE,
    SAFETENSORS_FILE,
    TF_FILE,
    few,
)
from dromaius.models.vision_encoder_decoder.foreign import (
    Part,
    flax_tensor,
    tf_tensor,
    with_shared_embedding,
)
from dromaius.models.vision_encoder_decoder.foreign_files import BFLOAT16, read_flax, read_h5


def read_state(folder: Path, part: Part = None, framework: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, memory-mapped where the format allows it.

    part: "encoder" or "decoder" if the folder holds only that one.
    framework: "pt", "tf" or "flax"; None takes the first of them that is there.
    Raises CheckpointError when there are no weights, or a file is damaged or does what none may.
    """
    folder = Path(folder)
    chosen = folders.choose(folder, framework)
    if chosen == "tf" and (folder / TF_FILE).is_file():
        pairs = (tf_tensor(*pair, part) for pair in read_h5(folder / TF_FILE))
        return _torch(folder / TF_FILE, pairs)
    if chosen == "flax":
        return _torch(folder / FLAX_FILE, (flax_tensor(*pair) for pair in read_flax(folder)))
    state = dict(read_tensors(folder))
    written_by = folders.safetensors_format(folder)
    if written_by == "tf":
        pairs = (tf_tensor(name, tensor.numpy(), part) for name, tensor in state.items())
        state = _torch(folder / SAFETENSORS_FILE, pairs)
    elif written_by == "flax":
        pairs = (flax_tensor(name.split("."), t.numpy()) for name, t in state.items())
        state = _torch(folder / SAFETENSORS_FILE, pairs)
    return with_shared_embedding(state) if part == "decoder" else state


def _torch(file: Path, pairs: Iterator[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in pairs:
        if name in state:
            raise CheckpointError(f"{file}: two tensors are {name}")
        state[name] = _tensor(value)
    return state


def _tensor(value: np.ndarray) -> Tensor:
    if value.dtype == BFLOAT16:
        bits = np.ascontiguousarray(value["bfloat16"])
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(value))


def check_loaded(
    folder: Path, model: Any, info: Mapping[str, Any], allowed: Iterable[str] = ()
) -> None:
    """Raises CheckpointError for tensors that would be random.

    info: what transformers' loader reports; allowed: names that may be missing.
    """
    if wrong := sorted(info["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors have another shape, {name} is {tuple(stored)} and "
            f"should be {tuple(wanted)}: config.json does not fit the weights"
        )
    missing = sorted(
        name for name in set(info["missing_keys"]) - set(allowed) if not _is_computed(model, name)
    )
    if missing:
        held = sorted(info["unexpected_keys"])
        instead = f"; it holds {few(held)} instead" if held else ""
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing and would be random: "
            f"{few(missing)}{instead}"
        )


def _is_computed(model: Any, name: str) -> bool:
    """Whether a tensor is sines and cosines, which some files leave out (Marian, Pegasus)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return "Sinusoidal" in type(owner).__name__
