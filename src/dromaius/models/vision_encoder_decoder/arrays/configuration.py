"""The parts' configurations: which families there are, and the values a file may leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dromaius.errors import ConfigError

_VIT: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_BEIT = _VIT | {
    "use_mask_token": False,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "layer_scale_init_value": 0.1,
    "use_mean_pooling": True,
}
_SWIN: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
}
_GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "tie_word_embeddings": True,
}
_BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
_TEXT_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_ROBERTA = _BERT | _TEXT_IDS | {"vocab_size": 50265}
_BART: dict[str, Any] = _TEXT_IDS | {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "d_model": 1024,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "scale_embedding": False,
    "init_std": 0.02,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "tie_word_embeddings": True,
}
_TROCR = _BART | {
    "max_position_embeddings": 512,
    "use_learned_position_embeddings": True,
    "layernorm_embedding": True,
    "cross_attention_hidden_size": None,
    "forced_eos_token_id": None,
}
ENCODERS = {"vit": _VIT, "deit": _VIT, "beit": _BEIT, "swin": _SWIN, "donut-swin": _SWIN}
DECODERS = {
    "gpt2": _GPT2,
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "trocr": _TROCR,
    "bart": _BART,
    "mbart": _BART | {"decoder_start_token_id": None},
}
_OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "d_model": "hidden_size",
}
"""Names of families, and those that transformers takes for them too."""


def encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete configuration of the encoder. Raises ConfigError for one that is not here."""
    return _complete(config, "encoder", ENCODERS)


def decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete configuration of the decoder. Raises ConfigError for one that is not here."""
    return _complete(config, "decoder", DECODERS)


def _complete(
    config: Mapping[str, Any], part: str, families: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    given = config.get(part)
    if not isinstance(given, Mapping):
        raise ConfigError(f"the configuration holds no {part}: it is no VisionEncoderDecoder's")
    family = given.get("model_type")
    if family not in families:
        raise ConfigError(
            f"a {family} {part} runs in PyTorch only; without it there are {', '.join(families)}"
        )
    complete = families[family] | dict(given)
    for own, other in _OTHER_NAMES.items():
        if own in families[family] and own not in given and other in given:
            complete[own] = given[other]
    return complete


def encoder_width(config: Mapping[str, Any]) -> int:
    """Channels of the encoder's last hidden state."""
    whole = encoder(config)
    if "depths" in whole:
        return int(whole["embed_dim"] * 2 ** (len(whole["depths"]) - 1))
    return int(whole["hidden_size"])


def decoder_width(config: Mapping[str, Any]) -> int:
    """Channels of the decoder's text."""
    whole = decoder(config)
    return int(next(whole[name] for name in ("n_embd", "d_model", "hidden_size") if name in whole))


def memory_width(config: Mapping[str, Any]) -> int:
    """Channels that the decoder's cross-attention reads; others are projected to them."""
    return int(decoder(config).get("cross_attention_hidden_size") or decoder_width(config))


def positions(config: Mapping[str, Any]) -> int | None:
    """How many text tokens the decoder has places for; None where nothing bounds them."""
    whole = decoder(config)
    count = int(whole.get("n_positions") or whole["max_position_embeddings"])
    if "roberta" in whole["model_type"] or whole["model_type"] == "camembert":
        count -= int(whole["pad_token_id"]) + 1  # it begins to count behind the padding id
    return count
