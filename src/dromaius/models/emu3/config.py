"""Every number an Emu3 model is made of, one dataclass a part.

In our own layout (`config.json`) an unknown key is an error that names it; foreign dialects are
translated in `layouts.py`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from dromaius.errors import ConfigError
from dromaius.models.emu3.quantization import QuantizationSettings
from dromaius.models.emu3.section import (
    MAX_DEPTH,
    MAX_PIXELS,
    Section,
    is_whole,
    require_positive,
    require_shares,
)
from dromaius.nn.mlp import ACTIVATIONS
from dromaius.nn.rope import RopeParameters

FORMAT = "dromaius"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LanguageModelConfig(Section):
    """The decoder; names of the published config.json (Emu3 paper table 2: 8B is the default)."""

    vocab_size: int = 184622
    """Text ids, special ids and visual ids together."""
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    """Shared key/value heads; None: one per query head."""
    head_dim: int | None = None
    """Size of a head; None: hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    max_position_embeddings: int = 9216
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.1
    """In training: on attention probabilities, attention output and MLP output."""
    embedding_dropout: float = 0.0
    """In training, on embeddings: BAAI's code has it (0.1), transformers' does not."""
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "hidden_size", "intermediate_size")
        require_positive(self, "num_attention_heads", "key_value_heads", "max_position_embeddings")
        require_positive(self, "num_hidden_layers", most=MAX_DEPTH)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.head_size % 2:
            raise ValueError(f"head size {self.head_size} is odd; rotary embedding needs pairs")
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.key_value_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"unsupported hidden_act {self.hidden_act!r}")
        require_shares(self, "attention_dropout", "embedding_dropout")
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, dict):
            raise ValueError(f"rope_scaling must be a table, got {self.rope_scaling!r}")
        _ = self.rope  # an unsupported scaling is named here, not at the first forward

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope(self) -> RopeParameters:
        return RopeParameters.from_config(
            self.rope_scaling,
            dim=self.head_size,
            max_positions=self.max_position_embeddings,
            theta=self.rope_theta,
        )


@dataclass(frozen=True)
class VisionTokenizerConfig(Section):
    """The VQ autoencoder; names of BAAI/Emu3-VisionTokenizer (SBER-MoVQGAN's dialect)."""

    codebook_size: int = 32768
    embed_dim: int = 4
    """Size of a codebook vector."""
    z_channels: int = 4
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    """Frames that share one grid of codes."""
    ch: int = 256
    ch_mult: tuple[int, ...] = (1, 2, 2, 4)
    """Channels per stage; every stage but the last halves the picture."""
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (3,)
    """Stages (by index, not by pixels) with attention."""
    num_attention_heads: int = 1
    norm_num_groups: int = 32
    """Groups of the group norms; upstream's is 32, narrow models need fewer."""

    def __post_init__(self) -> None:
        require_positive(self, "codebook_size", "embed_dim", "z_channels", "ch", "in_channels")
        require_positive(self, "norm_num_groups", "out_channels")
        require_positive(self, "num_res_blocks", "temporal_downsample_factor", most=MAX_DEPTH)
        if not self.ch_mult or not all(is_whole(m) and 0 < m < MAX_DEPTH for m in self.ch_mult):
            raise ValueError(f"ch_mult must list positive whole numbers, got {self.ch_mult!r}")
        if len(self.ch_mult) > 8:
            raise ValueError(f"ch_mult must list at most 8 stages, got {len(self.ch_mult)}")
        if self.embed_dim != self.z_channels:
            raise ValueError(f"embed_dim {self.embed_dim} must equal z_channels {self.z_channels}")
        factor = self.temporal_downsample_factor
        if factor & (factor - 1):
            raise ValueError(f"temporal_downsample_factor must be a power of two, got {factor}")
        for width in {self.ch * m for m in (1, *self.ch_mult)}:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"{width} channels do not divide into {self.norm_num_groups} groups"
                )

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class VocabularyConfig(Section):
    """The ids with a role; defaults are Emu3's (spec section 3.2)."""

    pad: int = 151643
    bos: int = 151849
    eos: int = 151850
    image_token: int = 151851
    """Stands between the size text and the first visual id."""
    image_start: int = 151852
    image_end: int = 151853
    end_of_line: int = 151846
    end_of_frame: int = 151847
    visual_start: int = 151854
    """Id of codebook entry 0; entry n has the id visual_start + n."""
    codebook_size: int = 32768
    """How many visual ids there are; 0 for a language model of text alone."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not is_whole(value) or value < 0:
                raise ValueError(f"{name} must be a whole number from 0, got {value!r}")


@dataclass(frozen=True)
class ImageSettings(Section):
    """How a picture becomes pixels, and how large generated ones are."""

    min_pixels: int = 512 * 512
    """A smaller picture is enlarged to this area before it is encoded."""
    max_pixels: int = 1024 * 1024
    """A larger picture is shrunk to this area before it is encoded."""
    max_aspect: float = 5.0
    """Longest side over shortest; beyond it a picture is refused."""
    image_area: int = 720 * 720
    """Area of a generated picture in pixels, unless asked otherwise."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    resample: int = 3
    """Pillow's number of the resize filter (3 is bicubic)."""

    def __post_init__(self) -> None:
        require_positive(self, "min_pixels", "max_pixels", "image_area", most=MAX_PIXELS)
        for name in ("mean", "std"):
            if len(value := getattr(self, name)) != 3:
                raise ValueError(f"{name} must be three numbers, got {value!r}")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} exceeds max_pixels {self.max_pixels}")


@dataclass(frozen=True)
class GenerationSettings(Section):
    """Sampling defaults of `generate_image` and of text answers."""

    guidance: float = 3.0
    """Weight of the prompt against the negative prompt; 1 turns guidance off."""
    top_k: int | None = 2048
    top_p: float | None = None
    min_p: float | None = None
    """Before guidance: drop ids below this share of the likeliest id's probability."""
    negative_prompt: str = ""
    max_new_tokens: int = 1024
    """Longest answer, in tokens."""


@dataclass(frozen=True)
class PromptSettings(Section):
    """Words around pictures and questions."""

    template: str = "chat"
    """"chat": the template of Emu3-Chat; "stage1": picture and text alone (Emu3-Stage1)."""
    system: str = "You are a helpful assistant."

    def __post_init__(self) -> None:
        if self.template not in ("chat", "stage1"):
            raise ValueError(f"template must be 'chat' or 'stage1', got {self.template!r}")


@dataclass(frozen=True)
class Emu3Config(Section):
    """A whole model; either half may be absent in a folder that holds only the other."""

    language_model: LanguageModelConfig | None = field(default_factory=LanguageModelConfig)
    vision_tokenizer: VisionTokenizerConfig | None = field(default_factory=VisionTokenizerConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    image: ImageSettings = field(default_factory=ImageSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    quantization: QuantizationSettings | None = None
    """How the language model's matrices are stored in few bits; None: they are not."""

    def __post_init__(self) -> None:
        lm, vq, ids = self.language_model, self.vision_tokenizer, self.vocabulary
        if lm and ids.visual_start + ids.codebook_size > lm.vocab_size:
            raise ValueError(
                f"visual ids end at {ids.visual_start + ids.codebook_size}, "
                f"beyond vocab_size {lm.vocab_size}"
            )
        if lm and vq and vq.codebook_size != ids.codebook_size:
            raise ValueError(
                f"the vision tokenizer has {vq.codebook_size} codes, "
                f"the vocabulary {ids.codebook_size} visual ids"
            )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Emu3Config":
        """Read our own layout's config.json. Raises ConfigError naming what is wrong."""
        data = dict(data)
        for key, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
            if (found := data.pop(key, None)) != expected:
                raise ConfigError(f"config.json: {key} is {found!r}, expected {expected!r}")
        if (family := data.pop("model_type", None)) != "emu3":
            raise ConfigError(f"config.json: model_type {family!r} is not 'emu3'")
        sections: dict[str, type[Section]] = {
            "language_model": LanguageModelConfig,
            "vision_tokenizer": VisionTokenizerConfig,
            "vocabulary": VocabularyConfig,
            "image": ImageSettings,
            "generation": GenerationSettings,
            "prompt": PromptSettings,
            "quantization": QuantizationSettings,
        }
        if unknown := sorted(set(data) - set(sections)):
            raise ConfigError(f"unknown key {unknown[0]} (known: {', '.join(sections)})")
        parts: dict[str, Any] = {"language_model": None, "vision_tokenizer": None}
        for name, section in sections.items():
            if data.get(name) is not None:
                parts[name] = section.from_dict(data[name], name)
        try:
            return cls(**parts)
        except ValueError as error:
            raise ConfigError(f"config.json: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """The content of our own layout's config.json."""
        sections = {k: v for k, v in asdict(self).items() if v is not None}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model_type": "emu3",
            **sections,
        }
