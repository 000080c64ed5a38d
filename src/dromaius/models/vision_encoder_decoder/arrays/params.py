"""Parameters: from a folder and into one, as a tree, new ones. Without PyTorch.

Names and orientation are those on disk (spec, section 1.7), flat: `{name: array}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.errors import CheckpointError
from dromaius.files import atomic_path, read_bytes, write_text
from dromaius.models.vision_encoder_decoder.arrays import configuration
from dromaius.models.vision_encoder_decoder.arrays.layers import Params
from dromaius.models.vision_encoder_decoder.arrays.model import DECODERS, ENCODERS
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace
from dromaius.models.vision_encoder_decoder.foreign import flax_tensor, tf_tensor

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 * 2**20
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}


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
    """(content of config.json, parameters in float32) of a folder with model.safetensors.

    Tensors that the forward does not read (poolers, old buffers) are left out. Files that
    TensorFlow or Flax wrote as safetensors are read too; pytorch_model.bin needs PyTorch.

    Raises CheckpointError for files that are absent or damaged or lack a tensor, ConfigError for a
    part that is not here.
    """
    folder = Path(folder)
    config = _json(folder / CONFIG_FILE)
    wanted = tensors(config)
    params: dict[str, np.ndarray] = {}
    for file in _files(folder):
        for name, value in _read(file):
            if name in wanted:
                params[name] = value
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


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(file, _MAX_JSON_BYTES, CheckpointError))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is not JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return content


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not (folder / _INDEX_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS_FILE}; write it once with PyTorch: "
            "VisionEncoderDecoderModel.from_pretrained(folder).save_pretrained(folder)"
        )
    places = _json(folder / _INDEX_FILE).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else {None}
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or not (folder / name).is_file():
            raise CheckpointError(f"{folder / _INDEX_FILE} points to no file beside it: {name!r}")
    return sorted(folder / str(name) for name in names)


def _read(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            written_by = (opened.metadata() or {}).get("format", "pt")
            for name in opened.keys():  # noqa: SIM118  # no mapping
                if opened.get_slice(name).get_dtype() == "BF16":
                    value = _bfloat16(file, name)
                else:
                    value = opened.get_tensor(name)
                yield _named(written_by, name, value)
    except (SafetensorError, TypeError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _bfloat16(file: Path, name: str) -> np.ndarray:
    """A tensor of a file that safetensors has checked, as float32: NumPy knows no bfloat16."""
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        entry = json.loads(opened.read(size))[name]
        begin, end = entry["data_offsets"]
        opened.seek(8 + size + begin)
        bits = np.frombuffer(opened.read(end - begin), dtype="<u2")
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def _named(written_by: str, name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if written_by == "tf":
        name, value = tf_tensor(name, value)
    elif written_by == "flax":
        name, value = flax_tensor(name.split("."), value)
    scopes, _, leaf = name.rpartition(".")
    name = f"{scopes}.{_OLD_LEAVES.get(leaf, leaf)}"
    if value.dtype.kind == "f":
        value = np.ascontiguousarray(value, dtype=np.float32)
    return name, value
