"""Configurations of the BAAI repositories, as transformers objects."""

from typing import Any

from transformers import PretrainedConfig

from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig


class Emu3Config(PretrainedConfig):
    """The language model's config.json (BAAI/Emu3-Gen, -Chat, -Stage1)."""

    model_type = "Emu3"
    keys_to_ignore_at_inference = ["past_key_values"]
    default_theta = 1_000_000.0

    vocab_size: int = 184622
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 9216
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = 151643
    bos_token_id: int | None = 151849
    eos_token_id: int | list[int] | None = 151850
    img_token_id: int = 151851
    boi_token_id: int = 151852
    eoi_token_id: int = 151853
    eol_token_id: int = 151846
    eof_token_id: int = 151847
    image_area: int = 720 * 720
    pretraining_tp: int = 1
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    attention_dropout: float = 0.1

    @property
    def rope_theta(self) -> float:
        return (self.rope_parameters or {}).get("rope_theta", self.default_theta)

    def to_dict(self) -> dict[str, Any]:
        """As the repositories write it: `rope_theta` and `rope_scaling`, not `rope_parameters`."""
        values = super().to_dict()
        rope = dict(values.pop("rope_parameters", None) or {})
        values["rope_theta"] = rope.pop("rope_theta", self.default_theta)
        values["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
        return values

    def to_language_model(self) -> LanguageModelConfig:
        """Raises ConfigError for a setting that the model does not support."""
        return dialects.language_model_config(self.to_dict(), dialects.BAAI_LANGUAGE_MODEL)


class Emu3VisionVQConfig(PretrainedConfig):
    """The vision tokenizer's config.json (BAAI/Emu3-VisionTokenizer)."""

    model_type = "Emu3VisionVQ"

    codebook_size: int = 32768
    embed_dim: int = 4
    z_channels: int = 4
    double_z: bool = False
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    ch: int = 256
    ch_mult: list[int] | tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: list[int] | tuple[int, ...] = (3,)
    dropout: float = 0.0

    def to_vision_tokenizer(self) -> VisionTokenizerConfig:
        """Raises ConfigError for a setting that the tokenizer does not support."""
        return dialects.vision_tokenizer_config(self.to_dict(), dialects.BAAI_VISION_TOKENIZER)
