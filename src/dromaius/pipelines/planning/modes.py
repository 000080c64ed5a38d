"""Ways to keep a model on a device, and the most that each holds at one time. Sizes are bytes.

A way is a memory mode (`dromaius.pipelines.memory`) with weights as they are or quantized.
"""

import math
from dataclasses import asdict, dataclass, replace
from itertools import chain

import torch
from torch import nn

from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.quantization import settings
from dromaius.nn.quantized import BLOCKS, Packed, count_numbers
from dromaius.pipelines.planning.dry_run import Decoding, Peak

QUANTIZED = ("int8", "int4")
"""Modes of `dromaius quantize`."""
UNPACKING = 10
"""Bytes a number takes while torch unpacks it: twice as float32, once as stored. The CPU's kernel
writes it out at once."""


@dataclass(frozen=True)
class Weights:
    """A model's weights, part by part."""

    linear: int
    """Matrices of the decoder's layers."""
    norms: int
    embedding: int
    head: int
    """0 where it is the embedding's own tensor."""
    visual_head: int
    """The head's rows of the visual ids."""
    vision: int
    """The vision tokenizer, float32."""
    parameters: dict[str, int]

    @property
    def language(self) -> int:
        return self.linear + self.norms + self.embedding + self.head

    @property
    def whole(self) -> int:
        return self.language + self.vision

    def low(self, drawing: bool) -> int:
        """The language model's bytes on the device while embedding and head are on the host."""
        rows = self.visual_head if drawing else self.head or self.embedding
        return self.linear + self.norms + rows

    def to_json(self) -> dict[str, int]:
        parts = {k: v for k, v in asdict(self).items() if isinstance(v, int)}
        return parts | {"language_model": self.language, "language_model_low": self.low(True)}


def precisions(config: Emu3Config) -> dict[str, Emu3Config]:
    """Name of what `dromaius quantize` makes of a model -> its configuration.

    "" is the model as it is; what is quantized already stays so.
    """
    found = {"": config}
    if config.quantization is None and config.language_model is not None:
        found |= {name: replace(config, quantization=settings(name)) for name in QUANTIZED}
    return found


def weigh(language: LanguageModel | None, vision: nn.Module, visual_ids: int) -> Weights:
    """Weights of modules on the meta device."""
    parts = dict.fromkeys(("linear", "norms", "embedding", "head"), 0)
    rows = dict.fromkeys(("embedding", "head"), 0)  # bytes of one id's
    parameters = {}
    if language is not None:
        parameters["language_model"] = count_numbers(language)
        for name, tensor in chain(language.named_parameters(), language.named_buffers()):
            kind = _part(name, tensor.ndim)
            parts[kind] += tensor.nbytes
            if kind in rows:
                rows[kind] += tensor.nbytes // tensor.shape[0]
    parameters["vision_tokenizer"] = count_numbers(vision)
    buffers = sum(b.nbytes for b in vision.buffers())
    return Weights(
        **parts,
        visual_head=visual_ids * (rows["head"] or rows["embedding"]),
        vision=sum(p.nbytes for p in vision.parameters()) + buffers,
        parameters=parameters,
    )


def written_out(language: LanguageModel | None, kind: str, dtype: torch.dtype) -> int:
    """Bytes of the block in which packed matrices are written out; 0 where none is packed."""
    # of the layers: embedding and head are only asked for a few rows at a time
    layers = language.model.layers.modules() if language else ()
    packed = [m for m in layers if isinstance(m, Packed)]
    largest = max((math.prod(matrix.shape) for matrix in packed), default=0)
    each = dtype.itemsize if kind == "cpu" else UNPACKING
    return min(largest, BLOCKS.get(kind, BLOCKS["cpu"])) * each


def _part(name: str, dimensions: int) -> str:
    if name.startswith("model.embed_tokens"):
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    return "linear" if dimensions == 2 else "norms"


def totals(
    precision: str,
    weights: Weights,
    decoding: Decoding | None,
    encode: Peak | None,
    decode: Peak | None,
    beside: int = 0,
) -> dict[str, int]:
    """Name of a mode, such as "int8, staged" -> the most it holds at one time.

    beside: what the language model's work takes above `decoding`.
    """
    writing = decoding.bytes + beside if decoding else 0
    seeing = max(peak.bytes for peak in (encode, decode, Peak(0, "")) if peak)
    language, vision = weights.language, weights.vision + seeing
    found = {"resident": language + weights.vision + max(writing, seeing)}
    if decoding is None:  # the language model is not needed at all
        found["staged"] = vision
    else:
        found["staged"] = max(language + writing, vision)
        found["low"] = max(weights.low(drawing=decode is not None) + writing, vision)
    return {f"{precision}, {name}" if precision else name: n for name, n in found.items()}
