"""Encoders and decoders of transformers: which can be joined, their flags, widths and lengths.

Configurations are copied, never changed in place: a caller's object stays as it was given.
transformers is imported when a part is built, not before.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from dromaius.errors import ConfigError

CROSS_ATTENTION = ("crossattention", "cross_attn", "encoder_attn")
"""What the names of a decoder's cross-attention modules contain, in every family."""

REFUSED_ENCODERS = {
    "vit_mae": "it drops three quarters of the patches at random; use its weights in a ViT",
    "pixtral": "it packs the pictures of a batch into one sequence, so they would mix",
}
REFUSED_DECODERS = {
    "big_bird": "transformers' cache for it has no place for cross-attention; use RoBERTa",
    "bloom": "it has no cross-attention",
    "distilbert": "it has neither a causal language model nor cross-attention; use BERT",
    "gpt_bigcode": "its cross-attention does not work with multi-query attention; use GPT2",
    "megatron-bert": "its cross-attention fails in transformers; use BERT",
}
_OTHER_KEY_WIDTH = ("trocr",)
"""Decoders that read keys of the width `cross_attention_hidden_size`."""


def encoder_config(config: Any) -> Any:
    """A copy of an image encoder's configuration, made fit to be an encoder.

    Of a two-tower configuration (CLIP, SigLIP) it is the vision tower's.
    Raises ConfigError for an encoder that cannot be used, with the reason.
    """
    config = copy.deepcopy(getattr(config, "vision_config", None) or config)
    if reason := REFUSED_ENCODERS.get(config.model_type):
        raise ConfigError(f"{config.model_type} cannot be the encoder: {reason}")
    for flag in ("is_decoder", "add_cross_attention"):
        if getattr(config, flag, False):
            setattr(config, flag, False)
    encoder_width(config)
    return config


def decoder_config(config: Any) -> Any:
    """A copy of a text decoder's configuration with causal and cross-attention switched on.

    Raises ConfigError for a model that cannot read an image, with the reason.
    """
    config = copy.deepcopy(config)
    if reason := REFUSED_DECODERS.get(config.model_type):
        raise ConfigError(f"{config.model_type} cannot be the decoder: {reason}")
    _check_reads_memory(decoder_class(config), config.model_type)
    config.is_decoder = config.add_cross_attention = True
    for count in ("{}_layers", "num_{}_layers"):  # the latter is ProphetNet's
        # transformers sizes caches by num_hidden_layers, which here means the encoder's: with fewer
        # of them than decoder layers a cached step fails. This decoder has no encoder.
        layers = getattr(config, count.format("decoder"), 0)
        if 0 < getattr(config, count.format("encoder"), 0) < layers:
            setattr(config, count.format("encoder"), layers)
    return config


def encoder_width(config: Any) -> int:
    """Channels of the encoder's last hidden state. Raises ConfigError if they are not stated."""
    if config.model_type == "focalnet":
        return config.embed_dim * 2 ** (len(config.depths) - 1)
    width = getattr(config, "hidden_size", None) or getattr(config, "hidden_sizes", None)
    if isinstance(width, (list, tuple)):
        width = width[-1]
    if not isinstance(width, int):
        raise ConfigError(
            f"{config.model_type} cannot be the encoder: its configuration states neither "
            "hidden_size nor hidden_sizes"
        )
    return width


def memory_width(encoder: Any, decoder: Any) -> int:
    """Channels that the decoder's cross-attention reads, for two configurations.

    Raises ConfigError when `cross_attention_hidden_size` fits neither the encoder nor the decoder.
    """
    stated = getattr(decoder, "cross_attention_hidden_size", None)
    if stated is None:
        return decoder.hidden_size
    if stated != encoder_width(encoder):
        raise ConfigError(
            f"the decoder's cross_attention_hidden_size is {stated}, the encoder's hidden size is "
            f"{encoder_width(encoder)}: they must be equal; unset it to have a projection"
        )
    if stated != decoder.hidden_size and decoder.model_type not in _OTHER_KEY_WIDTH:
        raise ConfigError(
            f"cross_attention_hidden_size={stated}: a {decoder.model_type} decoder reads only its "
            f"own width {decoder.hidden_size}; unset it to have a projection"
        )
    return stated


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


def encoder_class(config: Any) -> Any:
    """transformers' class for an encoder. Raises ConfigError if there is none."""
    from transformers import MODEL_MAPPING

    found: Any = MODEL_MAPPING.get(type(config), None)
    if found is None:
        raise ConfigError(f"{config.model_type} cannot be the encoder: it is no image encoder")
    cls = found[0] if isinstance(found, tuple) else found
    if "pixel_values" not in arguments(cls.forward):
        raise ConfigError(f"{config.model_type} cannot be the encoder: it takes no pixel_values")
    return cls


def decoder_class(config: Any) -> Any:
    """transformers' class for a decoder. Raises ConfigError if there is none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if found is None:
        raise ConfigError(
            f"{config.model_type} cannot be the decoder: transformers has no causal language model "
            "of it; use a BERT, RoBERTa, GPT2, TrOCR, BART, mBART, Marian, Pegasus or XGLM"
        )
    return found


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
    _check_reads_memory(type(decoder), name)
    if not any(word in path for path, _ in decoder.named_modules() for word in CROSS_ATTENTION):
        raise ConfigError(
            f"the decoder {name} was built without cross-attention and would ignore the image; "
            "build it from a configuration with is_decoder=True and add_cross_attention=True"
        )


def _check_reads_memory(cls: Any, name: str) -> None:
    if "encoder_hidden_states" not in arguments(cls.forward):
        raise ConfigError(
            f"{name} cannot be the decoder: it has no cross-attention and cannot see an image; "
            "use a BERT, RoBERTa, GPT2, TrOCR, BART, mBART, Marian, Pegasus or XGLM"
        )


@cache
def arguments(function: Any) -> frozenset[str]:
    """Names of the arguments of a function; "**" stands for any other keyword."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset("**" if p.kind == p.VAR_KEYWORD else p.name for p in parameters)


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
