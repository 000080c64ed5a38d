"""Ways to keep a model on a device, and the most that each holds at one time. Sizes are bytes."""

from dataclasses import asdict, dataclass, replace

from torch import nn

from dromaius.models.emu3.language_model import LanguageModel
from dromaius.pipelines.planning.dry_run import Decoding, Peak

BITS = {"int8": 8 + 16 / 128, "int4": 4 + 16 / 128 + 4 / 128}
"""Bits a quantized weight takes: groups of 128 share a 16-bit scale (int4: and a 4-bit zero)."""
TILE, OVERLAP = 32, 8
"""Codes along a side of a tile of tiled decoding, and codes around it that are decoded too."""


@dataclass(frozen=True)
class Weights:
    """A model's weights, part by part."""

    linear: int
    """Matrices of the decoder's layers: what is quantized."""
    linear_parameters: int
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

    def kept(self, mode: "Mode") -> int:
        """The language model's bytes on the device."""
        linear = self.linear
        if mode.quantized:
            linear = round(self.linear_parameters * BITS[mode.quantized] / 8)
        table = 0 if mode.embedding_on_host else self.embedding
        head = self.visual_head if mode.visual_head else self.head or self.embedding
        if not self.head and table:
            head = 0  # it is the table
        return linear + self.norms + table + head

    def to_json(self) -> dict[str, int]:
        parts = {k: v for k, v in asdict(self).items() if isinstance(v, int)}
        del parts["linear_parameters"]
        trimmed = self.kept(Mode(visual_head=True))
        return parts | {"language_model": self.language, "language_model_visual_head": trimmed}


@dataclass(frozen=True)
class Mode:
    """One way to keep a model."""

    staged: bool = False
    """Language model and vision tokenizer are never on the device together."""
    embedding_on_host: bool = False
    visual_head: bool = False
    """Of the head only the rows of the visual ids, where pictures are drawn."""
    tiled: bool = False
    quantized: str = ""

    @property
    def name(self) -> str:
        """What is done, in words."""
        words = {
            self.quantized: bool(self.quantized),
            "staged": self.staged,
            "embedding on host": self.embedding_on_host,
            "visual head": self.visual_head,
            "tiled decode": self.tiled,
        }
        return ", ".join(word for word, done in words.items() if done) or "everything resident"


MODES = (
    Mode(),
    Mode(tiled=True),
    Mode(embedding_on_host=True),
    Mode(staged=True),
    Mode(staged=True, embedding_on_host=True),
    Mode(True, True, True, True),
    Mode(quantized="int8"),
    Mode(True, True, True, True, "int8"),
    Mode(quantized="int4"),
    Mode(True, True, True, True, "int4"),
)


def weigh(language: LanguageModel | None, vision: nn.Module, visual_ids: int) -> Weights:
    """Weights of modules on the meta device."""
    parts = dict.fromkeys(("linear", "norms", "embedding", "head"), 0)
    matrices = columns = size = 0
    for name, weight in language.named_parameters() if language else ():
        kind = _part(name, weight.ndim)
        parts[kind] += weight.nbytes
        matrices += weight.numel() if kind == "linear" else 0
        if kind == "embedding":
            columns, size = weight.shape[1], weight.itemsize
    parameters = {}
    if language is not None:
        parameters["language_model"] = sum(p.numel() for p in language.parameters())
    parameters["vision_tokenizer"] = sum(p.numel() for p in vision.parameters())
    buffers = sum(b.nbytes for b in vision.buffers())
    return Weights(
        **parts,
        linear_parameters=matrices,
        visual_head=visual_ids * columns * size,
        vision=sum(p.nbytes for p in vision.parameters()) + buffers,
        parameters=parameters,
    )


def _part(name: str, dimensions: int) -> str:
    if name.startswith("model.embed_tokens"):
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    return "linear" if dimensions == 2 else "norms"


def totals(
    weights: Weights,
    decoding: Decoding | None,
    encode: Peak | None,
    decode: Peak | None,
    tiled: Peak | None,
    on_host: bool,
) -> dict[str, int]:
    """Name of a mode -> the most it holds at one time; each mode that makes sense here once.

    on_host: the device is the host itself.
    """
    found: dict[str, int] = {}
    for mode in MODES:
        mode = replace(
            mode,
            embedding_on_host=mode.embedding_on_host and decoding is not None and not on_host,
            visual_head=mode.visual_head and decoding is not None and decode is not None,
            tiled=mode.tiled and decode is not None,
            quantized=mode.quantized if decoding is not None else "",
        )
        if mode.name not in found:
            found[mode.name] = _total(mode, weights, decoding, encode, decode, tiled)
    return found


def _total(
    mode: Mode,
    weights: Weights,
    decoding: Decoding | None,
    encode: Peak | None,
    decode: Peak | None,
    tiled: Peak | None,
) -> int:
    language = weights.kept(mode) if weights.linear else 0
    shown = tiled if mode.tiled else decode
    seeing = max(peak.bytes for peak in (encode, shown, Peak(0, "")) if peak)
    writing = decoding.bytes if decoding else 0
    if mode.staged:
        return max(language + writing if decoding else 0, weights.vision + seeing)
    return language + weights.vision + max(writing, seeing)
