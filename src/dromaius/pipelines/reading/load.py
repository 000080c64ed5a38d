"""A checkpoint folder -> an `ImageToText` that is ready to work."""

from __future__ import annotations

from pathlib import Path

import torch

from dromaius.io import shards
from dromaius.models.vision_encoder_decoder import folders
from dromaius.pipelines.reading import checkpoint
from dromaius.pipelines.reading.image_to_text import ImageToText
from dromaius.pipelines.reading.pictures import read_settings
from dromaius.pipelines.reading.tokenizer import load_tokenizer

_OTHERS = ("tf_model*.h5", "flax_model*.msgpack")
"""Weights of other frameworks."""


def load(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> ImageToText:
    """Reads settings first, weights last, so that what is absent is said at once.

    Raises CheckpointError or ConfigError in one line that names the file.
    """
    with checkpoint.quietly():
        _, decoder, _ = checkpoint.read_configs(folder)
        rules = checkpoint.read_rules(folder, decoder)
        pictures = read_settings(folder)
        tokenizer = load_tokenizer(folder)
        model = checkpoint.load(folder, device, dtype)
    checkpoint.check_tokenizer(folder, tokenizer, model)
    return ImageToText(model, tokenizer, pictures, rules, name, (folder,), _hash(folder))


def _hash(folder: Path) -> str:
    if folders.choose(folder) == "pt":
        return shards.file_hash(folder)
    weights = [file for name in _OTHERS for file in sorted(folder.glob(name))]
    return shards.hash_files([*weights, folder / "config.json"])
