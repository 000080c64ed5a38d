"""The three computations that become graphs, with flat tensors in and out.

Names of files, inputs and outputs are those of optimum's exporter, so that its runtime and
transformers.js find what they look for. The projection, where there is one, is part of the encoder:
it is computed once for each image.

Legend: B images, S image tokens, M channels that the decoder reads, T text tokens, P those before
them, N layers, H heads, D head dim, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder

Axes = dict[str, dict[int, str]]


class EncoderGraph(nn.Module):
    """pixel_values [B,C,H,W] -> last_hidden_state [B,S,M]."""

    def __init__(self, model: VisionEncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        return self.model.encode(pixel_values).memory


class DecoderGraph(nn.Module):
    """input_ids [B,T], encoder_hidden_states [B,S,M] -> logits [B,T,V] and 4N keys and values.

    Of each layer: the text's keys and values [B,H,T,D], the image's [B,H,S,D].
    """

    def __init__(self, model: VisionEncoderDecoder) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        logits = _logits(self.decoder, input_ids, encoder_hidden_states, cache)
        own, image = _held(cache.self_attention_cache), _held(cache.cross_attention_cache)
        return logits, *(t for pair in zip(own, image, strict=True) for held in pair for t in held)


class DecoderWithPastGraph(nn.Module):
    """input_ids [B,1] and 4N keys and values -> logits [B,1,V], 2N keys and values [B,H,P+1,D].

    The image's keys and values are read and not given back: they never change.
    """

    def __init__(self, model: VisionEncoderDecoder, width: int) -> None:
        """width: M."""
        super().__init__()
        self.decoder, self.width = model.decoder, width

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        own, image = DynamicCache(), DynamicCache()
        for i in range(len(past) // 4):
            own.update(past[4 * i], past[4 * i + 1], i)
            image.update(past[4 * i + 2], past[4 * i + 3], i)
        cache = EncoderDecoderCache(own, image)
        for i in range(len(past) // 4):
            cache.is_updated[i] = True
        # Only its length is looked at: keys and values of the image are there.
        batch, _, tokens, _ = past[2].shape
        memory = past[2].new_zeros(batch, tokens, self.width)
        logits = _logits(self.decoder, input_ids, memory, cache)
        return logits, *(tensor for held in _held(own) for tensor in held)


def _held(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def _logits(decoder: nn.Module, ids: Tensor, memory: Tensor, cache: EncoderDecoderCache) -> Tensor:
    out = decoder(
        input_ids=ids,
        encoder_hidden_states=memory,
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
    )
    return out.logits


@dataclass(frozen=True)
class Graph:
    """One file: what is computed, and what goes in and out under which names."""

    file: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Axes
    """Name -> which of its axes may have any length."""


ENCODER, DECODER, DECODER_WITH_PAST = (
    "encoder_model.onnx",
    "decoder_model.onnx",
    "decoder_with_past_model.onnx",
)


def graphs(model: VisionEncoderDecoder, layers: int, width: int) -> tuple[Graph, Graph, Graph]:
    """The three graphs of a model whose decoder has so many layers and reads so many channels."""
    past = names("past_key_values", layers)
    present = names("present", layers)
    text, image = {0: "batch", 2: "past_length"}, {0: "batch", 2: "image_tokens"}
    return (
        Graph(
            ENCODER,
            EncoderGraph(model).eval(),
            ("pixel_values",),
            ("last_hidden_state",),
            {"pixel_values": {0: "batch"}, "last_hidden_state": {0: "batch"}},
        ),
        Graph(
            DECODER,
            DecoderGraph(model).eval(),
            ("input_ids", "encoder_hidden_states"),
            ("logits", *present),
            {
                "input_ids": {0: "batch", 1: "length"},
                "encoder_hidden_states": {0: "batch", 1: "image_tokens"},
                "logits": {0: "batch", 1: "length"},
                **{n: {0: "batch", 2: "length"} if ".decoder." in n else image for n in present},
            },
        ),
        Graph(
            DECODER_WITH_PAST,
            DecoderWithPastGraph(model, width).eval(),
            ("input_ids", *past),
            ("logits", *(name for name in present if ".decoder." in name)),
            {
                "input_ids": {0: "batch"},
                "logits": {0: "batch"},
                **{name: text if ".decoder." in name else image for name in past},
                **{n: {0: "batch", 2: "length"} for n in present if ".decoder." in n},
            },
        ),
    )


def names(prefix: str, layers: int) -> tuple[str, ...]:
    """prefix.0.decoder.key, prefix.0.decoder.value, prefix.0.encoder.key ... of all layers."""
    return tuple(
        f"{prefix}.{i}.{side}.{kind}"
        for i in range(layers)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    )


def examples(
    graph: Graph, model: VisionEncoderDecoder, pixels: Tensor, ids: Tensor
) -> tuple[Tensor, ...]:
    """Inputs of a graph that come of pixels [B,C,H,W] and ids [B,T]."""
    with torch.no_grad():
        if graph.file == ENCODER:
            return (pixels,)
        memory = model.encode(pixels).memory
        if graph.file == DECODER:
            return ids, memory
        _, *state = DecoderGraph(model).eval()(ids[:, :-1], memory)
        return ids[:, -1:], *state


def layer_count(model: VisionEncoderDecoder, pixels: Tensor) -> tuple[int, int]:
    """(layers of the decoder, channels that it reads), found by computing a token."""
    with torch.no_grad():
        memory = model.encode(pixels).memory
        ids = torch.zeros(len(pixels), 1, dtype=torch.long, device=pixels.device)
        outputs: Sequence[Tensor] = DecoderGraph(model).eval()(ids, memory)
    return (len(outputs) - 1) // 4, memory.shape[-1]
