"""VisionEncoderDecoder with the classes, arguments and results of seed 004.

Encoders and decoders are transformers' own; how they are joined, the projection, masks, loss, ids
and files are ours. Values equal transformers 5.23's where that works. Where it does not:

| call | transformers 5.23 | here |
|---|---|---|
| from_encoder_decoder_pretrained(vit, gpt2) | AttributeError, but for BERTs | works |
| Config(encoder=vit, decoder=bert) | a model that ignores the image | flags are set |
| from_encoder_decoder_configs(a, b) | changes b | changes copies |
| from_encoder_decoder_pretrained | returned in training mode | in evaluation mode |
| settings of decoding given to Config | lost | in generation_config |
| ids assigned to model.config | ignored by generate | honoured |
| config.pad_token_id before it is set | AttributeError | None |
| a text longer than the decoder's positions | IndexError | cut to them |
| gradient accumulation under the Trainer | N times too large | right |
| loss of a bfloat16 model | in bfloat16 | in float32 |
| output_attentions with SDPA | empty tuples | eager for that call |
| projection of the image | at every step | once |
| encoder_attention_mask | TypeError | used |
| resize_token_embeddings | fails halfway | works |
| TrOCR with sinusoidal positions, loaded | NotImplementedError | works |
| ConvNeXt, ResNet, PVT, FocalNet, LeViT | AttributeError | work |
| ViT-MAE, Pixtral | wrong in silence | ConfigError |
| decoder object without cross-attention | an error in forward | ConfigError |
| BART with fewer encoder layers, cached | IndexError | works |
| TensorFlow or Flax weights | random weights or an error | read |
| TFVisionEncoderDecoderModel, FlaxVisionEncoderDecoderModel | gone | work, without PyTorch too |
| Flax with a BERT decoder, generate (4.48) | an error of shapes | works |
| return_tensors="tf" | ValueError | AutoImageProcessor, AutoTokenizer |
| TrOCR's tokenizer without a class named | an error | load_processor, load_tokenizer |
| tensors missing in the files | random weights, a log | CheckpointError |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dromaius.compat.vision_encoder_decoder.arrays.flax import FlaxVisionEncoderDecoderModel
    from dromaius.compat.vision_encoder_decoder.arrays.tensorflow import TFVisionEncoderDecoderModel
    from dromaius.compat.vision_encoder_decoder.auto import AutoImageProcessor, AutoTokenizer
    from dromaius.compat.vision_encoder_decoder.configuration import VisionEncoderDecoderConfig
    from dromaius.compat.vision_encoder_decoder.modeling import VisionEncoderDecoderModel
    from dromaius.compat.vision_encoder_decoder.processing import load_processor, load_tokenizer

__all__ = [
    "AutoImageProcessor",
    "AutoTokenizer",
    "FlaxVisionEncoderDecoderModel",
    "TFVisionEncoderDecoderModel",
    "VisionEncoderDecoderConfig",
    "VisionEncoderDecoderModel",
    "load_processor",
    "load_tokenizer",
]

_HOMES = {
    "AutoImageProcessor": "auto",
    "AutoTokenizer": "auto",
    "FlaxVisionEncoderDecoderModel": "arrays.flax",
    "TFVisionEncoderDecoderModel": "arrays.tensorflow",
    "VisionEncoderDecoderConfig": "configuration",
    "VisionEncoderDecoderModel": "modeling",
    "load_processor": "processing",
    "load_tokenizer": "processing",
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: none needs another's framework."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
