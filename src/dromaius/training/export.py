"""Trained parts written in our own layout (one folder, config.json + model.safetensors)."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dromaius.files import atomic_path, write_text
from dromaius.models.emu3.config import FORMAT, FORMAT_VERSION, Emu3Config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer


def export_vision_tokenizer(folder: Path, model: VisionTokenizer) -> None:
    """A folder that holds the vision tokenizer alone."""
    tensors = {f"vision_tokenizer.{k}": v.contiguous() for k, v in model.state_dict().items()}
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_type": "emu3",
        "vision_tokenizer": model.config.to_dict(),
    }
    _write(folder, config, tensors)


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    Emu3Config.from_json(config)  # refuse to write what could not be read
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
