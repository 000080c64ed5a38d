"""Copies of a model's parts that write nearly the same text in less time.

They stand beside the model's own weights, which stay what they are: nothing that is trained, saved
or returned by a forward pass changes. The copies do not follow the weights: make them anew after
those have changed or moved.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder.decoding.families import read_layers
from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder
from dromaius.nn.packing import KINDS, Form
from dromaius.nn.quantized import Packed

ENCODER_KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Acceleration:
    """What is used instead of the model's own while a text is written."""

    encoder: nn.Module | None = None
    matrices: Mapping[str, Tensor | Packed] = field(default_factory=dict)
    """For `read_layers`."""


def accelerated(
    model: VisionEncoderDecoder, encoder: str | None, decoder: str | None
) -> Acceleration:
    """Copies of the encoder in half the bits, and of the decoder's matrices in few.

    Args:
        encoder: "bfloat16", "float16" or None.
        decoder: "int8", "int4", "fp8" or None; what reads the image's tokens becomes bfloat16.

    Raises InputError for another word, or a decoder that our step cannot compute.
    """
    if encoder is not None and encoder not in ENCODER_KINDS:
        raise InputError(f"encoder must be {' or '.join(ENCODER_KINDS)}, got {encoder!r}")
    if decoder is not None and decoder not in KINDS:
        raise InputError(f"decoder must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {decoder!r}")
    half = None
    if encoder is not None:
        half = copy.deepcopy(model.encoder).to(ENCODER_KINDS[encoder])
    return Acceleration(half, _packed(model.decoder, decoder) if decoder else {})


@torch.no_grad()
def _packed(decoder: nn.Module, kind: str) -> dict[str, Tensor | Packed]:
    layers = read_layers(decoder)
    if layers is None:
        raise InputError(f"a decoder {type(decoder).__name__} as this one has no form in few bits")
    found: dict[str, Tensor | Packed] = {}
    for matrix in layers.matrices():
        assert isinstance(matrix.weight, Tensor)
        found[matrix.name] = Packed.from_matrix(matrix.weight, Form(kind))
    for layer in layers.layers:
        for matrix in layer.answer:  # hundreds of rows once: few bits would gain nothing
            assert isinstance(matrix.weight, Tensor)
            found[matrix.name] = matrix.weight.to(torch.bfloat16)
    return found
