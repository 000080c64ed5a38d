"""Trained parts written in our own layout (one folder, config.json + model.safetensors)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dromaius.errors import ConfigError
from dromaius.files import write_text
from dromaius.io.shards import save_sharded
from dromaius.models.emu3.config import FORMAT, FORMAT_VERSION, Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import LANGUAGE, VISION, load_vision_tokenizer
from dromaius.tokenizers import load_tokenizer
from dromaius.training.checkpoint import unique_parameters

MAX_FILE = 14_900_000
"""Bytes of weights in a file; a trained model that ships keeps every file under 15 MB."""
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
    config = replace(read_config(base), language_model=model.config, quantization=None)
    _write(folder, config.to_json(), tensors)
    load_tokenizer(base).save(folder)


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """config.json and the tensors, in files of at most MAX_FILE bytes."""
    Emu3Config.from_json(config)  # refuse to write what could not be read
    save_sharded(tensors, folder, MAX_FILE)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
