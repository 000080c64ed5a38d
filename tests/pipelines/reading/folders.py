"""Tiny VisionEncoderDecoder folders, written by transformers, whose texts name their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = 60
PAD, START, END, UNKNOWN = 0, 1, 2, 3
HEIGHT, WIDTH = 16, 64

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_IDS = {"vocab_size": WORDS, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
_WIDE = {"initializer_range": 0.3}  # so that pictures count
DECODERS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=48, n_layer=2, n_head=2, n_positions=40, **_IDS, **_WIDE
    ),
    "bert": lambda: transformers.BertConfig(max_position_embeddings=40, **_SIZES, **_IDS, **_WIDE),
    "trocr": lambda: transformers.TrOCRConfig(
        d_model=48,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_position_embeddings=40,
        cross_attention_hidden_size=32,
        init_std=0.3,
        **_IDS,
    ),  # fmt: skip
    "prophetnet": lambda: transformers.ProphetNetConfig(  # one that is called as a module
        hidden_size=32,
        encoder_ffn_dim=64,
        num_encoder_layers=2,
        num_encoder_attention_heads=2,
        decoder_ffn_dim=64,
        num_decoder_layers=2,
        num_decoder_attention_heads=2,
        max_position_embeddings=40,
        init_std=0.3,
        **_IDS,
    ),  # fmt: skip
}


def encoder(kind: str = "vit", channels: int = 3) -> Any:
    """The configuration of an encoder of pictures of HEIGHT x WIDTH."""
    make = {"vit": transformers.ViTConfig, "deit": transformers.DeiTConfig}[kind]
    size = {"image_size": (HEIGHT, WIDTH), "patch_size": 8, "num_channels": channels}
    return make(**_SIZES, **size, **_WIDE)


def tokenizer(folder: Path, words: int = WORDS) -> None:
    """tokenizer.json of the words w4, w5 ... and four special tokens."""
    import tokenizers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special)}
    vocabulary |= {f"w{i}": i for i in range(len(special), words)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    whole.save_pretrained(folder)


def write(
    folder: Path,
    decoder: str = "gpt2",
    encoder_kind: str = "vit",
    channels: int = 3,
    **generation: Any,
) -> Path:
    """A whole checkpoint folder."""
    torch.manual_seed(7)
    parts = encoder(encoder_kind, channels), DECODERS[decoder]()
    make = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs
    config = make(*parts, decoder_start_token_id=START, pad_token_id=PAD, eos_token_id=END)
    model = transformers.VisionEncoderDecoderModel(config=config)
    model.generation_config.update(max_new_tokens=12, **generation)
    model.save_pretrained(folder)
    size = {"height": HEIGHT, "width": WIDTH}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)
    tokenizer(folder)
    return folder
