"""The configurations of the seed's examples, small: `ViTConfig()` and `BertConfig()` are base size.

And small stand-ins for the checkpoints that the examples name, in the published layouts.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
import transformers

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ViTConfig = functools.partial(transformers.ViTConfig, **_SIZES, image_size=32, patch_size=16)
BertConfig = functools.partial(transformers.BertConfig, **_SIZES, vocab_size=40)

_WORDS = "an image of two cats chilling on a couch linda davis hello world".split()


def bert(folder: Path) -> None:
    """A masked language model with its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    transformers.BertForMaskedLM(BertConfig()).save_pretrained(folder)


def image_processor(folder: Path) -> None:
    """preprocessor_config.json for pictures of 32 x 32."""
    folder.mkdir(parents=True, exist_ok=True)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)


def vit(folder: Path) -> None:
    """An encoder with pooler and image processor."""
    image_processor(folder)
    transformers.ViTModel(ViTConfig()).save_pretrained(folder)


def swin(folder: Path) -> None:
    """An encoder in stages."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    transformers.SwinModel(config).save_pretrained(folder)


def byte_level_tokenizer(folder: Path, specials: list[str], kind: str) -> int:
    """vocab.json and merges.txt of all bytes and some special tokens; returns their number."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*specials, *sorted(ByteLevel.alphabet())]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return len(tokens)


def vit_gpt2(folder: Path) -> None:
    """A captioner: transformers' own file of it, tokenizer and image processor."""
    image_processor(folder)
    size = byte_level_tokenizer(folder, ["<|endoftext|>"], "GPT2Tokenizer")
    decoder = transformers.GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    _save(folder, decoder, decoder_start_token_id=0, pad_token_id=0)


def gpt2(folder: Path) -> None:
    """A language model that has never seen a picture, with its tokenizer."""
    size = byte_level_tokenizer(folder, ["<|endoftext|>"], "GPT2Tokenizer")
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=48, n_layer=2, n_head=2, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def trocr(folder: Path) -> None:
    """A reader with its processor."""
    image_processor(folder)
    size = byte_level_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>"], "RobertaTokenizer")
    decoder = transformers.TrOCRConfig(
        vocab_size=size, d_model=48, decoder_layers=2, decoder_attention_heads=2,
        decoder_ffn_dim=64, max_position_embeddings=64, cross_attention_hidden_size=32,
    )  # fmt: skip
    _save(folder, decoder)
    settings = folder / "preprocessor_config.json"
    content = json.loads(settings.read_text()) | {"processor_class": "TrOCRProcessor"}
    settings.write_text(json.dumps(content))


def _save(folder: Path, decoder: transformers.PreTrainedConfig, **ids: int) -> None:
    make = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs
    model = transformers.VisionEncoderDecoderModel(config=make(ViTConfig(), decoder, **ids))
    model.save_pretrained(folder)


CHECKPOINTS = {
    "google-bert/bert-base-uncased": bert,
    "google/vit-base-patch16-224-in21k": vit,
    "microsoft/swin-base-patch4-window7-224-in22k": swin,
    "nlpconnect/vit-gpt2-image-captioning": vit_gpt2,
    "openai-community/gpt2": gpt2,
    "microsoft/trocr-base-handwritten": trocr,
}


def write_all(root: Path) -> dict[str, Path]:
    """Hub id -> folder of its stand-in."""
    torch.manual_seed(0)
    folders = {}
    for name, write in CHECKPOINTS.items():
        folders[name] = root / name
        write(folders[name])
    return folders
