"""Parameters: from a folder and into one, as a tree, new ones. Without PyTorch.

Names and orientation are those on disk (spec, section 1.7), flat: `{name: array}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.errors import CheckpointError
from dromaius.files import atomic_path, write_text
from dromaius.models.vision_encoder_decoder.array_files import read_arrays, read_json
from dromaius.models.vision_encoder_decoder.arrays import configuration
from dromaius.models.vision_encoder_decoder.arrays.layers import Params
from dromaius.models.vision_encoder_decoder.arrays.model import DECODERS, ENCODERS
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that a model of this configuration reads."""
    encoder, decoder = configuration.encoder(config), configuration.decoder(config)
    found = {f"encoder.{n}": s for n, s in ENCODERS[encoder["model_type"]].tensors(encoder)}
    found |= {f"decoder.{n}": s for n, s in DECODERS[decoder["model_type"]].tensors(decoder)}
    width, read = configuration.encoder_width(config), configuration.memory_width(config)
    if width != read:
        found |= {"enc_to_dec_proj.weight": (read, width), "enc_to_dec_proj.bias": (read,)}
    return found


def check(config: Mapping[str, Any], params: Params) -> None:
    """Raises CheckpointError for a tensor that is missing or of another shape than it must have."""
    for name, shape in tensors(config).items():
        if name not in params:
            raise CheckpointError(f"the checkpoint holds no tensor {name}, which the model needs")
        if tuple(params[name].shape) != shape:
            raise CheckpointError(
                f"{name} has shape {tuple(params[name].shape)}, the configuration says {shape}"
            )


def new(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters: normal matrices and tables, norms of one, biases of zero.

    The width of the distribution is the part's `initializer_range` (or `init_std`); GPT2's products
    that lead back into the sum are narrower, as in its paper; the projection's is 0.02.
    """
    drawn = np.random.default_rng(seed)
    parts = {"encoder": configuration.encoder(config), "decoder": configuration.decoder(config)}
    params = {}
    for name, shape in tensors(config).items():
        part = parts.get(name.partition(".")[0], {})
        leaf = name.rpartition(".")[2]
        if leaf in ("lambda_1", "lambda_2"):
            value = np.full(shape, part["layer_scale_init_value"])
        elif len(shape) == 1:
            value = np.full(shape, float(leaf == "weight"))  # of norms
        elif leaf == "relative_position_bias_table":
            value = np.zeros(shape)
        else:
            width = part.get("initializer_range", part.get("init_std", 0.02))
            if ".h." in name and name.endswith("c_proj.weight"):
                width /= math.sqrt(2 * part["n_layer"])
            value = drawn.normal(0.0, width, shape)
        params[name] = value.astype(np.float32)
    return params


def place(xp: Namespace, params: Params) -> dict[str, Array]:
    """The parameters as arrays of the namespace's framework."""
    return {name: xp.asarray(value) for name, value in params.items()}


def tree(params: Params) -> dict[str, Any]:
    """Flat names as nested dicts: `{"encoder": {"embeddings": {"cls_token": ...}}}`."""
    nested: dict[str, Any] = {}
    for name, value in params.items():
        *scopes, leaf = name.split(".")
        inside = nested
        for scope in scopes:
            inside = inside.setdefault(scope, {})
        inside[leaf] = value
    return nested


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Nested dicts as flat names; the inverse of `tree`."""
    params: dict[str, Array] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            params |= flat(value, f"{prefix}{name}.")
        else:
            params[prefix + name] = value
    return params


# ----------------------------------------------------------------------------------------- files


def load(folder: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(content of config.json, parameters in float32) of a checkpoint folder.

    Tensors that the forward does not read (poolers, old buffers) are left out. model.safetensors
    is read, and what TensorFlow and Flax wrote; pytorch_model.bin needs PyTorch.

    Raises CheckpointError for files that are absent or damaged or lack a tensor, ConfigError for a
    part that is not here.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_FILE)
    wanted = tensors(config)
    found = read_arrays(folder)
    params = {name: value for name, value in found.items() if name in wanted}
    check(config, params)
    return config, params


def save(folder: Path | str, config: Mapping[str, Any], params: Params) -> None:
    """Writes config.json and model.safetensors, which every framework reads.

    Raises CheckpointError if the parameters are not those of the configuration.
    """
    from safetensors.numpy import save_file

    check(config, params)
    folder = Path(folder)
    arrays = {name: np.ascontiguousarray(np.asarray(value)) for name, value in params.items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(arrays, temporary, metadata={"format": "pt"})
    write_text(folder / CONFIG_FILE, json.dumps(dict(config), indent=2, sort_keys=True) + "\n")
