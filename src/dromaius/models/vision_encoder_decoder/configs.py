"""Which encoders and decoders can be joined: their configurations, flags and widths.

Configurations are copied, never changed in place: a caller's object stays as it was given. PyTorch
is not needed; where it is there, a decoder's class is asked whether it reads an image.
transformers is imported when a part's class is looked up, not before.
"""

import copy
import inspect
from functools import cache
from typing import Any

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
    if _has_torch():
        check_reads_memory(decoder_class(config), config.model_type)
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


def _has_torch() -> bool:
    """transformers knows its models' classes, not only their configurations, with it alone."""
    from transformers.utils import is_torch_available

    return is_torch_available()


def check_reads_memory(cls: Any, name: str) -> None:
    """Raises ConfigError for a decoder's class without cross-attention."""
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
