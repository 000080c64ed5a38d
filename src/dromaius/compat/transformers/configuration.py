"""Configuration classes with the names, arguments and defaults of seed 000.

They are transformers configurations (they read and write its config.json) and nothing else: the
numbers a model is built from are `LanguageModelConfig` and `VisionTokenizerConfig`.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import Emu3Config as OurConfig
from dromaius.models.emu3.config import (
    LanguageModelConfig,
    VisionTokenizerConfig,
    VocabularyConfig,
)

PUBLISHED_VOCAB_SIZE = LanguageModelConfig.vocab_size
IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER_ID = "<image>", 151646
VISUAL_NAME = "<|visual token {:06d}|>"


@strict
class Emu3VQVAEConfig(PreTrainedConfig):
    """The vision tokenizer. Arguments and defaults: seed 000, Emu3VQVAEConfig."""

    model_type = "emu3_vqgan"
    base_config_key = "vq_config"

    codebook_size: int = 32768
    embed_dim: int = 4
    latent_channels: int = 4
    double_latent: bool = False
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    base_channels: int = 256
    channel_multiplier: list[int] | tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: list[int] | tuple[int, ...] = (3,)
    hidden_size: int = 1024
    num_attention_heads: int = 1
    attention_dropout: float | int = 0.0
    norm_num_groups: int = 32
    """Ours: groups of the group norms. transformers always uses 32."""

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.norm_num_groups == 32:
            del values["norm_num_groups"]  # a key that transformers does not know
        return values

    def to_ours(self) -> VisionTokenizerConfig:
        """Raises ValueError for a value that cannot be computed (`double_latent`, a dropout)."""
        names = [*dialects.HF_VISION_TOKENIZER.renamed, "hidden_size"]
        names += dialects.HF_VISION_TOKENIZER.fixed
        values = {name: getattr(self, name) for name in names}
        config = dialects.vision_tokenizer_config(values, dialects.HF_VISION_TOKENIZER)
        return VisionTokenizerConfig(
            **{**config.to_dict(), "norm_num_groups": self.norm_num_groups}
        )


@strict
class Emu3TextConfig(PreTrainedConfig):
    """The language model. Arguments and defaults: seed 000, Emu3TextConfig.

    `rope_theta` and `rope_scaling` are accepted beside `rope_parameters`, which holds both.
    """

    model_type = "emu3_text_model"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values"]
    default_theta = 1_000_000.0

    vocab_size: int = PUBLISHED_VOCAB_SIZE
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 9216
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = 151643
    bos_token_id: int | None = 151849
    eos_token_id: int | list[int] | None = 151850
    rope_parameters: dict[str, Any] | None = None
    mlp_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float | int = 0.1
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # The base class writes into the tables it is given: the caller's stay as they are.
        if self.rope_parameters is not None:
            self.rope_parameters = dict(self.rope_parameters)
        if kwargs.get("rope_scaling"):
            kwargs["rope_scaling"] = dict(kwargs["rope_scaling"])
        super().__post_init__(**kwargs)

    @property
    def rope_theta(self) -> float:
        """Base of the rotary embedding's wavelengths."""
        return float((self.rope_parameters or {}).get("rope_theta", self.default_theta))

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {}), "rope_theta": value}

    def to_ours(self) -> LanguageModelConfig:
        """Raises ValueError for a value that cannot be computed."""
        names = [
            name
            for name in LanguageModelConfig.__dataclass_fields__
            if name not in ("head_dim", "rope_theta", "rope_scaling", "embedding_dropout")
        ]
        values = {name: getattr(self, name) for name in names}
        values["head_dim"] = getattr(self, "head_dim", None)
        values["rope_parameters"] = self.rope_parameters
        return dialects.language_model_config(values, dialects.HF_LANGUAGE_MODEL)


@strict
class Emu3Config(PreTrainedConfig):
    """Both halves and the names of all ids. Arguments and defaults: seed 000, Emu3Config."""

    model_type = "emu3"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {
        "vq_config": SubConfigSpec(Emu3VQVAEConfig),
        "text_config": SubConfigSpec(Emu3TextConfig),
    }

    vq_config: dict[str, Any] | Emu3VQVAEConfig | None = None
    text_config: dict[str, Any] | Emu3TextConfig | None = None
    vocabulary_map: dict[str, int] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_token_id = (self.vocabulary_map or {}).get(IMAGE_PLACEHOLDER)
        super().__post_init__(**kwargs)
        if self.image_token_id is None and self.vocabulary_map is None:
            if self.text.vocab_size == PUBLISHED_VOCAB_SIZE:
                self.image_token_id = IMAGE_PLACEHOLDER_ID

    @property
    def text(self) -> Emu3TextConfig:
        """`text_config` as what it always is after construction."""
        assert isinstance(self.text_config, Emu3TextConfig)
        return self.text_config

    @property
    def vision(self) -> Emu3VQVAEConfig:
        """`vq_config` as what it always is after construction."""
        assert isinstance(self.vq_config, Emu3VQVAEConfig)
        return self.vq_config

    @classmethod
    def from_ours(cls, config: OurConfig) -> "Emu3Config":
        """The same model in transformers' words; an absent half gets the defaults."""
        return cls(
            text_config=text_config(config) if config.language_model else None,
            vq_config=vision_config(config.vision_tokenizer) if config.vision_tokenizer else None,
            vocabulary_map=vocabulary_map(config.vocabulary),
            tie_word_embeddings=bool(
                config.language_model and config.language_model.tie_word_embeddings
            ),
        )


def own_config(config: Any, wanted: Any) -> Any:
    """`config` as our class `wanted`: a part of a whole, or transformers' own configuration."""
    if isinstance(config, Emu3Config) and wanted is not Emu3Config:
        return config.text if wanted is Emu3TextConfig else config.vision
    if isinstance(config, wanted) or getattr(config, "model_type", None) != wanted.model_type:
        return config
    own = wanted.from_dict(config.to_dict())
    own._attn_implementation = config._attn_implementation
    return own


def text_config(config: OurConfig) -> Emu3TextConfig:
    """The language half of our configuration in transformers' words."""
    assert config.language_model is not None
    values = dialects.to_foreign(config.language_model, dialects.HF_LANGUAGE_MODEL)
    values = {k: v for k, v in values.items() if v is not None or k == "num_key_value_heads"}
    ids = config.vocabulary
    return Emu3TextConfig(
        **values, pad_token_id=ids.pad, bos_token_id=ids.bos, eos_token_id=ids.eos
    )


def vision_config(config: VisionTokenizerConfig) -> Emu3VQVAEConfig:
    """The vision half of our configuration in transformers' words."""
    return Emu3VQVAEConfig(
        **dialects.to_foreign(config, dialects.HF_VISION_TOKENIZER),
        hidden_size=config.ch * config.ch_mult[-1],
        norm_num_groups=config.norm_num_groups,
    )


def vocabulary_map(ids: VocabularyConfig) -> dict[str, int]:
    """Names of the ids with a role, as an -hf config.json holds them."""
    roles = {
        "<|endoftext|>": ids.pad,
        "<|extra_203|>": ids.bos,
        "<|extra_204|>": ids.eos,
        "<|image token|>": ids.image_token,
        "<|image start|>": ids.image_start,
        "<|image end|>": ids.image_end,
        "<|extra_200|>": ids.end_of_line,
        "<|extra_201|>": ids.end_of_frame,
        # <|extra_0|>, the third id after <|endoftext|>, becomes the placeholder (spec section 3.2)
        IMAGE_PLACEHOLDER: ids.pad + 3,
    }
    visual = {VISUAL_NAME.format(n): ids.visual_start + n for n in range(ids.codebook_size)}
    return roles | visual
