"""Tiny random models of transformers, and what the folders that they save hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from dromaius.models.vision_encoder_decoder import arrays

WORDS = 60
PAD, START, END = 0, 1, 2
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": [16, 24],
    "patch_size": [8, 4],
}
_BEIT = _VIT | {"image_size": 16, "patch_size": 4}
# a grid of 8 x 8 in windows of 4: the second block of the first stage is shifted
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_IDS = {"vocab_size": WORDS, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
_BERT = _IDS | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
_BART = _IDS | {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 24,
}
_FULL_BART = _BART | {"encoder_layers": 2, "encoder_attention_heads": 2}

ENCODERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: transformers.ViTConfig(**_VIT),
    "vit-without-bias": lambda: transformers.ViTConfig(**_VIT, qkv_bias=False),
    "deit": lambda: transformers.DeiTConfig(**_VIT),
    "beit": lambda: transformers.BeitConfig(**_BEIT),
    "beit-relative": lambda: transformers.BeitConfig(
        **_BEIT,
        use_relative_position_bias=True,
        use_absolute_position_embeddings=True,
        use_mean_pooling=False,
    ),
    "beit-shared": lambda: transformers.BeitConfig(**_BEIT, use_shared_relative_position_bias=True),
    "swin": lambda: transformers.SwinConfig(**_SWIN),
    "swin-absolute": lambda: transformers.SwinConfig(**_SWIN, use_absolute_embeddings=True),
    "donut-swin": lambda: transformers.DonutSwinConfig(**_SWIN),
}
DECODERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(**_IDS, n_embd=32, n_layer=2, n_head=2, n_positions=24),
    "gpt2-wide": lambda: transformers.GPT2Config(
        **_IDS,
        n_embd=48,
        n_layer=2,
        n_head=2,
        n_positions=24,
        n_inner=40,
        scale_attn_by_inverse_layer_idx=True,
        tie_word_embeddings=False,
    ),
    "bert": lambda: transformers.BertConfig(**_BERT),
    "bert-untied": lambda: transformers.BertConfig(**_BERT, tie_word_embeddings=False),
    "roberta": lambda: transformers.RobertaConfig(**_BERT),
    "roberta-untied": lambda: transformers.RobertaConfig(**_BERT, tie_word_embeddings=False),
    "trocr": lambda: transformers.TrOCRConfig(**_BART),
    "trocr-narrow": lambda: transformers.TrOCRConfig(
        **(_BART | {"d_model": 24}), cross_attention_hidden_size=32
    ),
    "trocr-sinusoidal": lambda: transformers.TrOCRConfig(
        **_BART,
        use_learned_position_embeddings=False,
        layernorm_embedding=False,
        scale_embedding=True,
        activation_function="relu",
        tie_word_embeddings=False,
    ),
    "bart": lambda: transformers.BartConfig(**_FULL_BART),
    "mbart": lambda: transformers.MBartConfig(**_FULL_BART, scale_embedding=True),
}

FAMILIES = {
    "vit-gpt2": ("vit", "gpt2"),
    "swin-trocr": ("swin", "trocr"),
    "deit-bert": ("deit", "bert"),
    "beit-roberta": ("beit", "roberta"),
    "vit-bart": ("vit", "bart"),
    "swin-mbart": ("swin", "mbart"),
}
"""Every family once."""
VARIANTS = {
    "projected-untied-gpt2": ("vit-without-bias", "gpt2-wide"),
    "relative-beit-untied-bert": ("beit-relative", "bert-untied"),
    "shared-beit-untied-roberta": ("beit-shared", "roberta-untied"),
    "narrow-trocr": ("vit", "trocr-narrow"),
    "sinusoidal-trocr": ("swin-absolute", "trocr-sinusoidal"),
    "donut": ("donut-swin", "mbart"),
}
"""What configurations change in a family."""


@dataclass(frozen=True)
class Pair:
    """A model of transformers, its folder, and what our core reads in that."""

    model: Any
    folder: Path
    config: dict[str, Any]
    params: dict[str, np.ndarray]
    pixels: np.ndarray

    def logits(self, ids: np.ndarray, **kwargs: Any) -> np.ndarray:
        """Of transformers."""
        with torch.no_grad():
            out = self.model(
                pixel_values=torch.from_numpy(self.pixels),
                decoder_input_ids=torch.from_numpy(ids),
                **kwargs,
            )
        return out.logits.numpy()


Make = Callable[[str], Pair]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Name in FAMILIES or VARIANTS -> Pair, each made once."""
    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            made[name] = _pair(*(FAMILIES | VARIANTS)[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


def _pair(encoder: str, decoder: str, folder: Path) -> Pair:
    torch.manual_seed(0)
    parts = ENCODERS[encoder](), DECODERS[decoder]()
    ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
    joined = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts, **ids)
    model = transformers.VisionEncoderDecoderModel(config=joined).eval()
    with torch.no_grad():  # every tensor counts: norms and biases too are random
        for value in model.parameters():
            value.add_(torch.randn(value.shape) * 0.1)
    model.save_pretrained(folder)
    config, params = arrays.load(folder)
    size = parts[0].image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Pair(model, folder, config, params, pixels.numpy())


@pytest.fixture
def ids() -> np.ndarray:
    """[2, 7] text."""
    return np.random.default_rng(2).integers(3, WORDS, (2, 7))
