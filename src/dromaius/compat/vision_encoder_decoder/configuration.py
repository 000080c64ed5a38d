"""`VisionEncoderDecoderConfig`: an encoder's and a decoder's configuration under one roof."""

import copy
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, BertConfig, GenerationConfig, ViTConfig
from transformers.configuration_utils import PreTrainedConfig

from dromaius.errors import ConfigError
from dromaius.models.vision_encoder_decoder import configs

TOKEN_IDS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
_NONE_UNLESS_SET = (*TOKEN_IDS, "vocab_size", "hidden_size")
_DECODING = frozenset(GenerationConfig._get_default_generation_params()) - {"use_cache"}


class VisionEncoderDecoderConfig(PreTrainedConfig):
    """Settings of a `VisionEncoderDecoderModel`.

    Args:
        encoder, decoder: configurations or dicts with "model_type". They are copied; the decoder's
            copy gets `is_decoder` and `add_cross_attention`. Without them: ViT and BERT, base size.
        **kwargs: token ids, or any attribute. Settings of decoding (`max_length`, `num_beams`, ...)
            are kept in `decoding` and become the model's `generation_config`.

    `decoder_start_token_id`, `bos_token_id`, `eos_token_id`, `pad_token_id`, `vocab_size` and
    `hidden_size` are None until set.

    Raises ConfigError for a part that cannot be used, with the reason.
    """

    model_type = "vision-encoder-decoder"
    sub_configs = {"encoder": AutoConfig, "decoder": AutoConfig}

    encoder: Any = None
    decoder: Any = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        encoder = ViTConfig() if self.encoder is None else self.encoder
        decoder = BertConfig() if self.decoder is None else self.decoder
        self.encoder = configs.encoder_config(_part_config(encoder, "encoder"))
        self.decoder = configs.decoder_config(_part_config(decoder, "decoder"))
        configs.memory_width(self.encoder, self.decoder)
        self.tie_word_embeddings = False  # the decoder ties its own; the encoder has no words
        self.decoding = kwargs.pop("decoding", None) or {}
        for name in _DECODING & set(kwargs):
            self.decoding[name] = kwargs.pop(name)
        super().__post_init__(**kwargs)

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: PreTrainedConfig, decoder_config: PreTrainedConfig, **kwargs: Any
    ) -> "VisionEncoderDecoderConfig":
        """Both configurations are copied and stay as they were given."""
        return cls(encoder=encoder_config, decoder=decoder_config, **kwargs)

    def take_decoding(self) -> dict[str, Any]:
        """Removes and returns the settings of decoding, those assigned later included.

        transformers refuses to generate or save while a model's configuration has any.
        """
        settings, self.decoding = self.decoding, {}
        for name in _DECODING & set(self.__dict__):
            settings[name] = self.__dict__.pop(name)
        return {name: value for name, value in settings.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """As a dict for config.json; settings of decoding lie in generation_config.json."""
        return {name: value for name, value in super().to_dict().items() if name != "decoding"}

    def __getattr__(self, name: str) -> Any:
        if name in _NONE_UNLESS_SET:
            return None
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def own_kind(config: Any) -> VisionEncoderDecoderConfig:
    """A copy of the configuration; transformers' class of the same kind is converted."""
    if isinstance(config, VisionEncoderDecoderConfig):
        return copy.deepcopy(config)
    if getattr(config, "model_type", None) != VisionEncoderDecoderConfig.model_type:
        raise ValueError(
            f"config must be a VisionEncoderDecoderConfig, not {type(config).__name__}"
        )
    return VisionEncoderDecoderConfig.from_dict(config.to_dict())


def _part_config(config: Any, role: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict):
        raise ConfigError(f"{role} must be a configuration or a dict, not {type(config).__name__}")
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"{role}: transformers knows no model_type {model_type!r}")
    return CONFIG_MAPPING[model_type](**copy.deepcopy(config))
