"""Tiny configurations of every encoder and decoder that is supported (spec sections 1.8, 1.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from dromaius.compat.vision_encoder_decoder import (
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

VOCABULARY = 60
POSITIONS = 24
PAD, START, END = 0, 1, 2
SIDE = 16
"""Pixels; more for encoders that halve the picture many times."""

_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
}
_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
_CONV = {"hidden_sizes": [8, 32], "depths": [1, 1]}

ENCODERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: transformers.ViTConfig(**_VIT),
    "deit": lambda: transformers.DeiTConfig(**_VIT),
    "beit": lambda: transformers.BeitConfig(**_VIT),
    "swin": lambda: transformers.SwinConfig(**_SWIN),
    "swinv2": lambda: transformers.Swinv2Config(**_SWIN),
    "donut-swin": lambda: transformers.DonutSwinConfig(**_SWIN),
    "dinov2": lambda: transformers.Dinov2Config(**_VIT),
    "dinov3-vit": lambda: transformers.DINOv3ViTConfig(**_VIT),
    "dinov2-with-registers": lambda: transformers.Dinov2WithRegistersConfig(**_VIT),
    "data2vec-vision": lambda: transformers.Data2VecVisionConfig(**_VIT),
    "vit-msn": lambda: transformers.ViTMSNConfig(**_VIT),
    "ijepa": lambda: transformers.IJepaConfig(**_VIT),
    "yolos": lambda: transformers.YolosConfig(
        **(_VIT | {"image_size": [SIDE, SIDE]}), num_detection_tokens=2
    ),
    "clip": lambda: transformers.CLIPVisionConfig(**_VIT),
    "siglip": lambda: transformers.SiglipVisionConfig(**_VIT),
    "convnext": lambda: transformers.ConvNextConfig(**_CONV, num_stages=2, image_size=32),
    "resnet": lambda: transformers.ResNetConfig(**_CONV, embedding_size=8, layer_type="basic"),
    "levit": lambda: transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "focalnet": lambda: transformers.FocalNetConfig(
        image_size=32, embed_dim=16, depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3]
    ),
    "pvt": lambda: transformers.PvtConfig(
        image_size=32,
        num_encoder_blocks=2,
        depths=[1, 1],
        sequence_reduction_ratios=[2, 1],
        hidden_sizes=[8, 32],
        patch_sizes=[4, 2],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
    ),
}

_IDS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
_BERT = {
    **_IDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
_BART = {
    **_IDS,
    "d_model": 32,
    "encoder_layers": 1,  # fewer than the decoder's: transformers' cache fails there
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": POSITIONS,
    "decoder_start_token_id": START,
}
_TROCR = {
    **_IDS,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": POSITIONS,
    "decoder_start_token_id": END,
}

DECODERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        **_IDS, n_embd=32, n_layer=2, n_head=2, n_positions=POSITIONS
    ),
    "bert": lambda: transformers.BertConfig(**_BERT),
    "roberta": lambda: transformers.RobertaConfig(**_BERT),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**_BERT),
    "camembert": lambda: transformers.CamembertConfig(**_BERT),
    "electra": lambda: transformers.ElectraConfig(**_BERT, embedding_size=32),
    "roberta-prelayernorm": lambda: transformers.RobertaPreLayerNormConfig(**_BERT),
    "ernie": lambda: transformers.ErnieConfig(**_BERT),
    "rembert": lambda: transformers.RemBertConfig(**_BERT, input_embedding_size=32),
    "xlm-roberta-xl": lambda: transformers.XLMRobertaXLConfig(**_BERT),
    "data2vec-text": lambda: transformers.Data2VecTextConfig(**_BERT),
    "roformer": lambda: transformers.RoFormerConfig(**_BERT, embedding_size=32),
    "prophetnet": lambda: transformers.ProphetNetConfig(
        **_IDS,
        hidden_size=32,
        encoder_ffn_dim=64,
        num_encoder_layers=1,
        num_encoder_attention_heads=2,
        decoder_ffn_dim=64,
        num_decoder_layers=2,
        num_decoder_attention_heads=2,
        max_position_embeddings=POSITIONS,
    ),
    "bert-generation": lambda: transformers.BertGenerationConfig(**_BERT),
    "trocr": lambda: transformers.TrOCRConfig(**_TROCR),
    "trocr-sinusoidal": lambda: transformers.TrOCRConfig(
        **_TROCR,
        use_learned_position_embeddings=False,
        layernorm_embedding=False,
        scale_embedding=True,
        tie_word_embeddings=False,
    ),
    "bart": lambda: transformers.BartConfig(**_BART),
    "mbart": lambda: transformers.MBartConfig(**_BART),
    "marian": lambda: transformers.MarianConfig(**_BART),
    "pegasus": lambda: transformers.PegasusConfig(**_BART),
    "blenderbot-small": lambda: transformers.BlenderbotSmallConfig(**_BART),
    "blenderbot": lambda: transformers.BlenderbotConfig(**_BART),
    "bigbird-pegasus": lambda: transformers.BigBirdPegasusConfig(**_BART),
    "plbart": lambda: transformers.PLBartConfig(**_BART),
    "xglm": lambda: transformers.XGLMConfig(
        **_IDS,
        d_model=32,
        num_layers=2,
        attention_heads=2,
        ffn_dim=64,
        max_position_embeddings=POSITIONS,
    ),
}


def configuration(
    encoder: str, decoder: str, dropout: bool = True, **kwargs: Any
) -> VisionEncoderDecoderConfig:
    """Ids are set on the whole; a wide init makes the images of random models count."""
    encoder_config, decoder_config = ENCODERS[encoder](), DECODERS[decoder]()
    for config in (encoder_config, decoder_config):
        for name, value in vars(config).items():
            if name in ("initializer_range", "init_std"):
                setattr(config, name, 0.3)
            elif "drop" in name and isinstance(value, float) and not dropout:
                setattr(config, name, 0.0)
    ids = {"decoder_start_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
    return VisionEncoderDecoderConfig(
        encoder=encoder_config, decoder=decoder_config, **(ids | kwargs)
    )


def model(encoder: str, decoder: str, seed: int = 0, **kwargs: Any) -> VisionEncoderDecoderModel:
    """In evaluation mode, with random weights."""
    torch.manual_seed(seed)
    return VisionEncoderDecoderModel(config=configuration(encoder, decoder, **kwargs)).eval()


def pixels(encoder: str, count: int = 2, seed: int = 1) -> Tensor:
    """Noise [count, 3, side, side]."""
    size = ENCODERS[encoder]().to_dict().get("image_size", 2 * SIDE)
    side = size if isinstance(size, int) else size[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator)


def labels(count: int = 2, length: int = 6, seed: int = 2) -> Tensor:
    """Random tokens [count, length]; of the first row only the first three are targets."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(3, VOCABULARY, (count, length), generator=generator)
    drawn[0, 3:] = -100
    return drawn
