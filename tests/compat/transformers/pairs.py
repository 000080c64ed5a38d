"""Pairs of models and processors with the same numbers: transformers' own, and ours.

The vocabulary is small: 256 bytes, the special tokens of Emu3 under their names, a few visual ids.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.emu3.configuration_emu3 import Emu3Config, Emu3TextConfig, Emu3VQVAEConfig
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor
from transformers.models.emu3.modeling_emu3 import Emu3ForConditionalGeneration
from transformers.models.emu3.processing_emu3 import Emu3Processor

from dromaius.compat import transformers as ours
from dromaius.tokenizers.convert import hf_form
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names
from tests import tiny
from tests.compat.conftest import CHAT_TEMPLATE

BYTES = [bytes([value]) for value in range(256)]
PIXELS = {"min_pixels": 32 * 32, "max_pixels": 64 * 64}
HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class Pair:
    """transformers' Emu3ForConditionalGeneration, its folder, and ours read from it."""

    theirs: Any
    ours: Any
    folder: Path
    codebook: int

    @property
    def names(self) -> dict[str, int]:
        return self.theirs.config.vocabulary_map


def vocabulary(codebook: int) -> dict[str, int]:
    """Names of all special ids of the small vocabulary."""
    names = [*FIXED_NAMES, *vision_names(codebook)]
    names[names.index("<|extra_0|>")] = "<image>"
    return {name: 256 + index for index, name in enumerate(names)}


def tokenizer(codebook: int) -> PreTrainedTokenizerFast:
    """Text is bytes; special names are read inside text, as the published -hf tokenizer does."""
    form = hf_form(
        TiktokenTokenizer.from_pieces(BYTES, [*FIXED_NAMES, *vision_names(codebook)]), "published"
    )
    settings = {k: v for k, v in (form.config or {}).items() if k != "tokenizer_class"}
    text = Tokenizer.from_str(json.dumps(form.definition))
    return PreTrainedTokenizerFast(tokenizer_object=text, **settings)


def processors(codebook: int, **settings: Any) -> tuple[Emu3Processor, Any]:
    """transformers' processor (told to pad left) and ours."""
    settings = {**PIXELS, "image_mean": HALF, "image_std": HALF, **settings}
    left = tokenizer(codebook)
    left.padding_side = "left"
    theirs = Emu3Processor(Emu3ImageProcessor(**settings), left, chat_template=CHAT_TEMPLATE)
    return theirs, ours.Emu3Processor(ours.Emu3ImageProcessor(**settings), tokenizer(codebook))


def text_settings(rng: random.Random, codebook: int, rope_type: str = "default") -> Emu3TextConfig:
    """A random decoder over the small vocabulary."""
    config = tiny.random_text_config(rng, rope_type)
    names = vocabulary(codebook)
    config.vocab_size = 256 + len(names)
    config.pad_token_id = names["<|endoftext|>"]
    config.bos_token_id, config.eos_token_id = names["<|extra_203|>"], names["<|extra_204|>"]
    config.tie_word_embeddings = False  # of the whole model: the outer configuration counts
    return config


def vision_settings(codebook: int) -> Emu3VQVAEConfig:
    """Eight pixels a code, as the processors expect; otherwise as small as it can be."""
    return Emu3VQVAEConfig(
        codebook_size=codebook,
        base_channels=32,
        channel_multiplier=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_resolutions=[3],
        hidden_size=32,
    )


def make_pair(folder: Path, seed: int, attention: str = "eager", **shape: Any) -> Pair:
    """Random shapes and weights; ours is read from the folder that transformers wrote."""
    rng = random.Random(seed)
    codebook = rng.choice([64, 100])
    text = text_settings(rng, codebook, shape.get("rope_type", "default"))
    config = Emu3Config(
        text_config=text.to_dict(),
        vq_config=vision_settings(codebook).to_dict(),
        vocabulary_map=vocabulary(codebook),
        tie_word_embeddings=rng.random() < 0.3,
    )
    config._attn_implementation = attention
    theirs = tiny.fill(Emu3ForConditionalGeneration(config), seed)
    tiny.fill(theirs.model.vqmodel, seed, 2.0)
    theirs.tie_weights()
    theirs.save_pretrained(folder)
    model = ours.Emu3ForConditionalGeneration
    return Pair(
        theirs, model.from_pretrained(folder, attn_implementation=attention), folder, codebook
    )


def prompts(pair: Pair, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random text ids [B,T], padded left, and their attention mask."""
    generator = torch.Generator().manual_seed(seed)
    size = max(lengths)
    mask = torch.tensor([[0] * (size - n) + [1] * n for n in lengths])
    ids = torch.randint(0, 256, mask.shape, generator=generator)
    return ids.where(mask.bool(), torch.tensor(pair.theirs.config.text_config.pad_token_id)), mask


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return (
        Image.fromarray(noise, "RGBA").convert(mode) if mode != "RGBA" else Image.fromarray(noise)
    )


def picture_prompt(
    pair: Pair, sizes: list[tuple[int, int]], texts: list[str], seed: int = 0
) -> dict[str, Any]:
    """Model inputs of one picture (sizes in pixels) before each text."""
    _, processor = processors(pair.codebook)
    images = [picture(*size, seed=seed + index) for index, size in enumerate(sizes)]
    inputs = processor(
        images=images,
        text=[f"<image>{text}" for text in texts],
        padding=True,
        return_tensors="pt",
    )
    return dict(inputs)


def largest_difference(left: Any, right: Any) -> float:
    """Maximum absolute difference over tensors in nested tuples; inf for another structure."""
    if isinstance(left, Tensor):
        if not isinstance(right, Tensor) or left.shape != right.shape:
            return float("inf")
        return float((left.float() - right.float()).abs().max()) if left.numel() else 0.0
    if left is None or right is None:
        return 0.0 if left is right else float("inf")
    if len(left) != len(right):
        return float("inf")
    return max(map(largest_difference, left, right), default=0.0)
