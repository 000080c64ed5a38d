"""A VisionEncoderDecoder of TensorFlow, Flax or old PyTorch files -> transformers' safetensors."""

from __future__ import annotations

from pathlib import Path

import torch

from dromaius.io.shards import MAX_SHARD_BYTES, save_sharded
from dromaius.models.emu3.convert import whole_folder
from dromaius.models.vision_encoder_decoder.files import read_state
from dromaius.pipelines.reading import checkpoint
from dromaius.pipelines.reading.export_onnx import copy_settings


def convert(
    source: Path,
    destination: Path,
    dtype: torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_BYTES,
) -> int:
    """Writes model.safetensors under the lasting names, and the settings as they are.

    source: a folder with the weights of any framework; the model is built once, so that a tensor
    that is missing or misshapen is said, not copied.
    destination: a folder that does not exist yet; it appears when it is complete.
    dtype: None keeps the numbers bit for bit.
    Returns the bytes of the weights. Raises CheckpointError, ConfigError or InputError.
    """
    with whole_folder(destination) as folder:
        checkpoint.load(source, torch.device("cpu"))
        state = read_state(source)
        if dtype is not None:
            state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
        copy_settings(source, folder)
        files = save_sharded(state, folder, max_shard_size)
        return sum(file.stat().st_size for file in files)
