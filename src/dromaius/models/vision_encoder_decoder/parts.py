"""Encoders and decoders of transformers: built, checked, given their lengths and positions.

Which can be joined is in `configs`. transformers is imported when a part is built, not before.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dromaius.errors import ConfigError
from dromaius.models.vision_encoder_decoder.configs import CROSS_ATTENTION as CROSS_ATTENTION
from dromaius.models.vision_encoder_decoder.configs import arguments as arguments
from dromaius.models.vision_encoder_decoder.configs import check_reads_memory
from dromaius.models.vision_encoder_decoder.configs import decoder_class as decoder_class
from dromaius.models.vision_encoder_decoder.configs import decoder_config as decoder_config
from dromaius.models.vision_encoder_decoder.configs import encoder_class as encoder_class
from dromaius.models.vision_encoder_decoder.configs import encoder_config as encoder_config
from dromaius.models.vision_encoder_decoder.configs import encoder_width as encoder_width
from dromaius.models.vision_encoder_decoder.configs import memory_width as memory_width


def build_encoder(config: Any) -> nn.Module:
    """A new encoder with random weights, without the pooler that nothing would use or train."""
    from transformers import AutoModel

    config = copy.deepcopy(config)
    return AutoModel.from_config(config, **without_pooler(encoder_class(config)))


def build_decoder(config: Any) -> nn.Module:
    """A new decoder with random weights."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    cls = decoder_class(config)
    if config._attn_implementation == "sdpa" and not getattr(cls, "_supports_sdpa", False):
        config._attn_implementation = "eager"  # TrOCR: asked for by the whole model's setting
    return AutoModelForCausalLM.from_config(config)


def without_pooler(cls: Any) -> dict[str, bool]:
    """Arguments that build `cls` without a pooler, if it has that choice."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in arguments(cls.__init__) else {}


def check_encoder(encoder: Any) -> None:
    """Raises ConfigError for an encoder with a language model's head."""
    head = encoder.get_output_embeddings() if hasattr(encoder, "get_output_embeddings") else None
    if head is not None:
        raise ConfigError(
            f"the encoder {type(encoder).__name__} has a language model's head; use its base model"
        )


def check_decoder(decoder: nn.Module) -> None:
    """Raises ConfigError for a decoder that would ignore the image."""
    name = type(decoder).__name__
    check_reads_memory(type(decoder), name)
    if not any(word in path for path, _ in decoder.named_modules() for word in CROSS_ATTENTION):
        raise ConfigError(
            f"the decoder {name} was built without cross-attention and would ignore the image; "
            "build it from a configuration with is_decoder=True and add_cross_attention=True"
        )


def own_config(part: nn.Module, config: Any) -> None:
    """Makes `config` the configuration of a part and of all its modules that shared the old one."""
    old = part.config
    for module in part.modules():
        if getattr(module, "config", None) is old:
            module.config = config


def max_positions(decoder: Any) -> int | None:
    """How many tokens the decoder has positions for; None if nothing bounds them.

    RoBERTa and its kin begin to count after the padding id, so that many fewer are usable.
    """
    count = getattr(decoder.config, "max_position_embeddings", None)
    for path, module in decoder.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return count


def mend_position_tables(decoder: Any) -> None:
    """Gives sinusoidal positions that are kept as a plain attribute (TrOCR) their real values.

    As an attribute the table stays on the meta device after loading and does not follow the model
    to a GPU; as a buffer outside of the state it does. Values: transformers' own formula.
    """
    place = next(decoder.parameters())
    for module in decoder.modules():
        table = getattr(module, "weights", None)
        if not isinstance(table, torch.Tensor) or not hasattr(module, "get_embedding"):
            continue
        if "weights" in module.__dict__:
            del module.weights
            module.register_buffer("weights", table, persistent=False)
        if not place.is_meta:  # after loading, a buffer holds whatever was in memory
            rows, width = table.shape
            with torch.device("cpu"):
                values = module.get_embedding(rows, width, module.padding_idx)
            module.weights = values.to(place.device, place.dtype)


@contextmanager
def eager_attention(*parts: Any) -> Iterator[None]:
    """Inside, the parts compute attention step by step: only so do they return its weights."""
    configs = {id(m.config): m.config for part in parts for m in part.modules() if _settable(m)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _settable(module: nn.Module) -> bool:
    return hasattr(getattr(module, "config", None), "_attn_implementation")
