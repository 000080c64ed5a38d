"""What a loaded model says of itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dromaius.nn.quantized import count_numbers
from dromaius.pipelines.memory import whole_half

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3


def describe(model: Emu3) -> dict[str, Any]:
    """Family, sizes, settings, hash: what `dromaius info` prints."""
    halves = {"language_model": model.language_model, "vision_tokenizer": model.vision_tokenizer}
    stored = model.config.quantization
    return {
        "name": model.name,
        "family": "emu3",
        "layout": model.layout,
        "hash": model.hash,
        "parameters": {
            name: count_numbers(whole_half(half))
            for name, half in halves.items()
            if half is not None
        },
        **({"quantization": asdict(stored)} if stored else {}),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "vocabulary_size": model.config.language_model.vocab_size
        if model.config.language_model
        else None,
        "codebook_size": model.vocabulary.codebook_size,
        "context": model.config.language_model.max_position_embeddings
        if model.config.language_model
        else None,
        "image": asdict(model.config.image),
        "generation": asdict(model.config.generation),
        "bytes": sum(f.stat().st_size for d in model.folders for f in d.iterdir() if f.is_file()),
    }
