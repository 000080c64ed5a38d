"""The tables of a recipe for pictures and their texts."""

from dataclasses import dataclass, field
from typing import Any

from dromaius.data.text_pictures import FITS
from dromaius.models.emu3.section import Section

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSettings(Section):
    """The two parts, or a folder to go on from; and the tokens."""

    encoder: dict[str, Any] = field(default_factory=dict)
    """Configuration of a transformers image encoder: model_type, image_size, hidden_size, ..."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """Of a transformers text decoder with cross-attention; ids and vocab_size follow from the
    tokens."""
    vocabulary: int = 0
    """Pieces of words that are learnt from the training texts; 0: each character is a token."""
    start: str = ""
    """Instead of all that: folder or hub id of a VisionEncoderDecoder, with its tokenizer."""
    height: int = 0
    """Of the pictures, in pixels; 0: as `image_size` of the encoder says."""
    width: int = 0
    """Likewise."""

    def __post_init__(self) -> None:
        if self.start and (self.encoder or self.decoder or self.vocabulary):
            raise ValueError("start brings encoder, decoder and tokens: give the one or the others")
        if not self.start:
            for name in ("encoder", "decoder"):
                if "model_type" not in getattr(self, name):
                    raise ValueError(f'{name} needs a model_type, such as "vit" or "gpt2"')
        if min(self.vocabulary, self.height, self.width) < 0:
            raise ValueError("vocabulary, height and width must not be negative")


@dataclass(frozen=True)
class TextDataSettings(Section):
    """Pictures with texts."""

    file: str
    """A stored file (`write_text_pictures`) or a .jsonl list with "image" and "text"."""
    fit: str = "pad"
    """How a listed picture of another shape is fitted: pad (keeps its shape) or stretch."""
    limit: int = 0
    """Only the first so many; 0: all."""

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


@dataclass(frozen=True)
class TextObjectiveSettings(Section):
    """The loss."""

    batch: int = 32
    """Pictures in a batch, over all processes."""
    ctc: float = 0.0
    """Weight of a second loss, on the encoder alone, while training: its tokens, left to right,
    should spell the text (CTC; arXiv 1609.06773). For lines of text in columns of patches, where it
    shortens the long beginning in which nothing seems to be learnt."""
    smoothing: float = 0.0
    """Share of each target's probability that is spread over all tokens."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not 0 <= self.smoothing < 1 or self.ctc < 0:
            raise ValueError("smoothing must be in 0..1 and ctc not negative")


@dataclass(frozen=True)
class AugmentationSettings(Section):
    """How pictures are varied in training; nothing of it where they are measured. Strengths are
    drawn evenly up to the given one, for each picture anew."""

    plain: float = 0.0
    """Share of pictures that stay as they are."""
    shift: float = 0.0
    """Pixels, either way, across and down."""
    scale: float = 0.0
    """Share by which a picture grows or shrinks."""
    turn: float = 0.0
    """Degrees, either way."""
    slant: float = 0.0
    """Pixels across for each pixel of height, either way."""
    blur: float = 0.0
    """Standard deviation in pixels."""
    noise: float = 0.0
    """Standard deviation as a share of the way from black to white."""
    contrast: float = 0.0
    """Share of the contrast that may be lost; where it lies between black and white is chance."""
    light: float = 0.0
    """Difference of light from one side to the other, as a share."""
    inverted: float = 0.0
    """Share of pictures shown as negatives."""
    backgrounds: tuple[tuple[int, int, int], ...] = ((255, 255, 255),)
    """RGB behind transparent pictures; the first is the usual one."""
    coloured: float = 0.0
    """Share of pictures on one of the other backgrounds."""

    def __post_init__(self) -> None:
        names = ("plain", "blur", "noise", "contrast", "light", "inverted", "coloured")
        if wrong := [name for name in names if getattr(self, name) < 0]:
            raise ValueError(f"{wrong[0]} must not be negative, got {getattr(self, wrong[0])}")
        if not self.backgrounds:
            raise ValueError("backgrounds must list at least one colour")


@dataclass(frozen=True)
class FolderSettings(Section):
    """The exported folder."""

    dtype: str = "float32"
    """Of the weights in the file: float32, bfloat16 or float16; whoever loads them computes in
    float32 unless asked otherwise."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
