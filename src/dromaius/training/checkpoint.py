"""A training run's whole state in one safetensors file, written whole or not at all.

Names: "model/<parameter>", "optimizer<i>/<parameter>/<entry>", "task/<buffer>", "random", and of a
run on a GPU "random_cuda". The file's metadata holds the step, the seconds spent and the recipe, as
JSON. It can be loaded on any device, whichever it was saved on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dromaius.errors import CheckpointError, InputError
from dromaius.files import atomic_path
from dromaius.training.optimizer import load_state_tensors, state_tensors

CHECKPOINT = "checkpoint.safetensors"
FREE = ("out", "device", "log_every", "evaluate_every", "checkpoint_every")
"""Keys of [loop] that may change on the way: no number depends on them, but for the rounding of
another device's arithmetic."""


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Wall-clock seconds spent in the loop, over all its sittings."""
    cpu_seconds: float = 0.0
    """Processor seconds of this process, likewise."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    extra: nn.Module,
    progress: Progress,
    recipe: Mapping[str, Any],
) -> None:
    """Write everything that the next step depends on to `path`, atomically.

    Raises InputError naming the file when it cannot be written.
    """
    tensors = {f"model/{name}": p for name, p in unique_parameters(model).items()}
    for index, optimizer in enumerate(optimizers):
        for name, value in state_tensors(model, optimizer).items():
            tensors[f"optimizer{index}/{name}"] = value
    tensors |= {f"task/{name}": value for name, value in extra.state_dict().items()}
    tensors["random"] = torch.get_rng_state()
    if (device := _device(model)).type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(device)
    metadata = {"progress": json.dumps(vars(progress)), "recipe": json.dumps(recipe)}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # how it tells of a full disk
            raise InputError(f"cannot write {path}: {error}") from error


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    extra: nn.Module,
    recipe: Mapping[str, Any],
) -> Progress:
    """Put a saved state back; the next step is the one an undisturbed run would take.

    Raises CheckpointError when the file is damaged, or was written under another recipe.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        progress = Progress(**json.loads(metadata["progress"]))
        saved = binding(json.loads(metadata["recipe"]))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a training checkpoint: {error}") from error
    if saved != binding(json.loads(json.dumps(recipe))):
        raise CheckpointError(
            f"{path} was written under another recipe; finish it with that one, or remove it"
        )
    with torch.no_grad():
        for name, p in unique_parameters(model).items():
            p.copy_(_take(tensors, f"model/{name}", path))
    extra.load_state_dict({name: tensors[f"task/{name}"] for name in extra.state_dict()})
    for index, optimizer in enumerate(optimizers):
        prefix = f"optimizer{index}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        load_state_tensors(model, optimizer, own)
    torch.set_rng_state(_take(tensors, "random", path))
    if (device := _device(model)).type == "cuda" and "random_cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random_cuda"], device)
    return progress


def binding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe must stay the same when a run goes on: all that its numbers depend on."""
    loop = {key: value for key, value in recipe.get("loop", {}).items() if key not in FREE}
    return {name: value for name, value in recipe.items() if name != "samples"} | {"loop": loop}


def remove_leftovers(folder: Path) -> None:
    """What `atomic_path` could not remove, because its process was killed while it wrote."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def unique_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied tensor only under its first name."""
    seen: set[int] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _take(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{path} has no tensor {name}")
    return tensors[name]
