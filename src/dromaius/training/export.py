"""Trained parts written in our own layout (one folder, config.json + model.safetensors)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dromaius.errors import ConfigError
from dromaius.files import atomic_path, write_text
from dromaius.models.emu3.config import FORMAT, FORMAT_VERSION, Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import load_vision_tokenizer
from dromaius.tokenizers import load_tokenizer
from dromaius.training.checkpoint import unique_parameters

LANGUAGE, VISION = "language_model.", "vision_tokenizer."
MAX_FILE = 15_000_000
"""Bytes of weights beyond which the halves become files of their own."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_vision_tokenizer(folder: Path, model: VisionTokenizer) -> None:
    """A folder that holds the vision tokenizer alone."""
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_type": "emu3",
        "vision_tokenizer": model.config.to_dict(),
    }
    _write(folder, config, {VISION + k: v for k, v in model.state_dict().items()})


def export_language_model(folder: Path, model: LanguageModel, base: Path, dtype: str) -> None:
    """`base` (config, tokenizer, vision tokenizer) and the trained language model, in `folder`.

    The language model is stored as `dtype`; a tied head once, as the embedding.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"export dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    vision = load_vision_tokenizer(base)
    tensors = {VISION + name: value for name, value in vision.state_dict().items()}
    for name, value in unique_parameters(model).items():
        tensors[LANGUAGE + name] = value.to(DTYPES[dtype])
    config = replace(read_config(base), language_model=model.config)
    _write(folder, config.to_json(), tensors)
    load_tokenizer(base).save(folder)


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """config.json and the tensors: one file, or one per half where it would exceed MAX_FILE."""
    Emu3Config.from_json(config)  # refuse to write what could not be read
    folder.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().contiguous() for k, v in tensors.items()}
    halves = [{k: v for k, v in plain.items() if k.startswith(p)} for p in (LANGUAGE, VISION)]
    halves = [half for half in halves if half]
    index = folder / "model.safetensors.index.json"
    if len(halves) == 1 or sum(v.nbytes for v in plain.values()) < MAX_FILE:
        _save(folder / "model.safetensors", plain)
        index.unlink(missing_ok=True)
    else:
        places: dict[str, str] = {}
        for number, half in enumerate(halves, start=1):
            name = f"model-{number:05d}-of-{len(halves):05d}.safetensors"
            _save(folder / name, half)
            places |= dict.fromkeys(half, name)
        total = sum(v.nbytes for v in plain.values())
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        write_text(index, json.dumps(content, indent=2) + "\n")
        (folder / "model.safetensors").unlink(missing_ok=True)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that only their owner can read
