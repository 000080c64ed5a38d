"""Configuration keys of the published checkpoints, and how ours are written in their words.

A foreign key is one of four: renamed to ours, bookkeeping (a written list, ignored), fixed (it
changes the computation and only one value is supported: another is an error), or unknown (one
warning). Nothing in a configuration is ever executed; `auto_map` is bookkeeping.
"""

from dataclasses import dataclass, field
from typing import Any

from dromaius.errors import ConfigError, warn_once
from dromaius.models.emu3.config import (
    ImageSettings,
    LanguageModelConfig,
    VisionTokenizerConfig,
    VocabularyConfig,
)

_SAVED_BY_TRANSFORMERS = frozenset(
    "architectures auto_map dtype torch_dtype transformers_version model_type _name_or_path "
    "_attn_implementation_autoset attn_implementation use_cache return_dict output_attentions "
    "output_hidden_states torchscript is_encoder_decoder is_decoder add_cross_attention "
    "cross_attention_hidden_size chunk_size_feed_forward finetuning_task id2label label2id "
    "prefix problem_type pruned_heads task_specific_params tf_legacy_loss tokenizer_class "
    "use_bfloat16 tie_encoder_decoder initializer_factor sep_token_id decoder_start_token_id "
    "forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens "
    "bad_words_ids exponential_decay_length_penalty remove_invalid_values max_length min_length "
    "do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k "
    "top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate "
    "is_composition base_model_prefix _commit_hash bos_token_id eos_token_id pad_token_id".split()
)

_LANGUAGE_MODEL_KEYS = {
    name: name
    for name in LanguageModelConfig.__dataclass_fields__
    if name not in ("embedding_dropout",)
}


@dataclass(frozen=True)
class Dialect:
    """The keys of one kind of foreign configuration file."""

    name: str
    renamed: dict[str, str]
    """Foreign key -> field of ours."""
    bookkeeping: frozenset[str] = _SAVED_BY_TRANSFORMERS
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key -> the values that mean what we compute."""

    def translate(self, values: dict[str, Any]) -> dict[str, Any]:
        """Foreign settings -> ours. Raises ConfigError for an unsupported setting."""
        out = {}
        for key, value in values.items():
            if key in self.renamed:
                out[self.renamed[key]] = value
            elif key in self.fixed:
                if value not in self.fixed[key]:
                    raise ConfigError(f"{self.name}: {key} = {value!r} is not supported")
            elif key not in self.bookkeeping:
                warn_once(f"{self.name}: unknown key {key!r} is ignored")
        return out


_OFF = (None, False, 0, 1)
_LANGUAGE_MODEL_FIXED: dict[str, tuple[Any, ...]] = {
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "attention_multiplier": (None,),
    "logit_scale": _OFF,
    "embedding_multiplier": _OFF,
    "residual_multiplier": _OFF,
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "qk_norm": _OFF,
    "use_qk_norm": _OFF,
    "num_local_experts": _OFF,
    "num_experts": _OFF,
}

BAAI_LANGUAGE_MODEL = Dialect(
    "config.json of a BAAI language model",
    {**_LANGUAGE_MODEL_KEYS},
    _SAVED_BY_TRANSFORMERS
    | {"image_area", "img_token_id", "boi_token_id", "eoi_token_id", "eol_token_id"}
    | {"eof_token_id", "padding_idx"},
    _LANGUAGE_MODEL_FIXED,
)
HF_LANGUAGE_MODEL = Dialect(
    "text_config of a -hf checkpoint",
    _LANGUAGE_MODEL_KEYS,
    fixed=_LANGUAGE_MODEL_FIXED,
)
BAAI_VISION_TOKENIZER = Dialect(
    "config.json of a BAAI vision tokenizer",
    {
        name: name
        for name in VisionTokenizerConfig.__dataclass_fields__
        if name not in ("norm_num_groups", "num_attention_heads")
    },
    fixed={"double_z": (False, None), "dropout": (0, 0.0, None)},
)
HF_VISION_TOKENIZER = Dialect(
    "vq_config of a -hf checkpoint",
    {
        "codebook_size": "codebook_size",
        "embed_dim": "embed_dim",
        "latent_channels": "z_channels",
        "in_channels": "in_channels",
        "out_channels": "out_channels",
        "temporal_downsample_factor": "temporal_downsample_factor",
        "base_channels": "ch",
        "channel_multiplier": "ch_mult",
        "num_res_blocks": "num_res_blocks",
        "attn_resolutions": "attn_resolutions",
        "num_attention_heads": "num_attention_heads",
    },
    _SAVED_BY_TRANSFORMERS | {"hidden_size"},  # checked against the width it must equal
    {"double_latent": (False, None), "attention_dropout": (0, 0.0, None)},
)
IMAGE_PROCESSOR = Dialect(
    "image settings (preprocessor_config.json)",
    {
        "min_pixels": "min_pixels",
        "max_pixels": "max_pixels",
        "image_mean": "mean",
        "image_std": "std",
        "rescale_factor": "rescale_factor",
        "resample": "resample",
    },
    _SAVED_BY_TRANSFORMERS
    | {
        "image_processor_type",
        "processor_class",
        "size",
        "spatial_factor",
        "feature_extractor_type",
    }
    | {"do_pad", "_processor_class", "data_format", "input_data_format", "device", "backend"}
    | {"default_to_square", "crop_size", "do_center_crop", "pad_size", "disable_grouping"}
    | {"return_tensors", "image_seq_length"},
    {name: (True, None) for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")},
)

# --- foreign -> ours -----------------------------------------------------------------------------


def language_model_config(values: dict[str, Any], dialect: Dialect) -> LanguageModelConfig:
    """`config.json` of BAAI's language model, or `text_config` of an -hf one."""
    ours = dialect.translate({k: v for k, v in values.items() if k != "rope_parameters"})
    if rope := dict(values.get("rope_parameters") or {}):  # transformers 5 folds theta into it
        ours["rope_theta"] = rope.pop("rope_theta", ours.get("rope_theta", 1_000_000.0))
        ours["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    if (ours.get("rope_scaling") or {}).get("rope_type") == "default":
        ours["rope_scaling"] = None
    if dialect is BAAI_LANGUAGE_MODEL:
        ours["embedding_dropout"] = ours.get("attention_dropout", 0.1)
    return LanguageModelConfig.from_dict(
        _without_none(ours, keep="num_key_value_heads"), dialect.name
    )


def vision_tokenizer_config(values: dict[str, Any], dialect: Dialect) -> VisionTokenizerConfig:
    """`config.json` of BAAI's vision tokenizer, or `vq_config` of an -hf one."""
    config = VisionTokenizerConfig.from_dict(_without_none(dialect.translate(values)), dialect.name)
    width = config.ch * config.ch_mult[-1]
    if values.get("hidden_size", width) != width:
        raise ConfigError(
            f"{dialect.name}: hidden_size {values['hidden_size']} must equal the width of the last "
            f"stage, {width}"
        )
    return config


def image_settings(values: dict[str, Any], **more: Any) -> ImageSettings:
    """The image part of `preprocessor_config.json` or `processor_config.json`."""
    ours = _without_none(IMAGE_PROCESSOR.translate(values))
    if values.get("spatial_factor", 8) != 8:
        raise ConfigError(
            f"image settings: spatial_factor = {values['spatial_factor']!r} is not supported"
        )
    return ImageSettings.from_dict({**ours, **more}, IMAGE_PROCESSOR.name)


def vocabulary_from_map(
    names: dict[str, int], ids: dict[str, Any], codebook_size: int
) -> VocabularyConfig:
    """Roles of ids from an -hf `vocabulary_map` and the text configuration's pad, bos and eos.

    Raises ConfigError if a structural token is missing or visual ids are not consecutive.
    """
    visual = {int(n[-8:-2]): i for n, i in names.items() if n.startswith("<|visual token")}
    if not visual:
        raise ConfigError("vocabulary_map holds no visual tokens")
    start = visual.get(0, min(visual.values()))
    if any(visual.get(code) != start + code for code in range(len(visual))):
        raise ConfigError("vocabulary_map: visual ids must be consecutive, in the order of codes")
    roles = {
        "image_token": "<|image token|>",
        "image_start": "<|image start|>",
        "image_end": "<|image end|>",
        "end_of_line": "<|extra_200|>",
        "end_of_frame": "<|extra_201|>",
    }
    if missing := [name for name in roles.values() if name not in names]:
        raise ConfigError(f"vocabulary_map lacks {missing[0]}")
    given = {role: first_id(ids.get(f"{role}_token_id")) for role in ("pad", "bos", "eos")}
    return VocabularyConfig(
        **{role: token_id for role, token_id in given.items() if token_id is not None},
        **{role: names[name] for role, name in roles.items()},
        visual_start=start,
        codebook_size=min(len(visual), codebook_size),
    )


def first_id(value: Any) -> int | None:
    """An id of a configuration; where a list stands (several ends), the first."""
    return value[0] if isinstance(value, list) else value


def _without_none(values: dict[str, Any], keep: str = "") -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None or k == keep}


# --- ours -> foreign -----------------------------------------------------------------------------


def to_foreign(config: object, dialect: Dialect) -> dict[str, Any]:
    """The fields of ours that the dialect has a word for; tuples become lists."""
    words = {ours: foreign for foreign, ours in dialect.renamed.items()}
    out = {}
    for name, word in words.items():
        value = getattr(config, name)
        out[word] = list(value) if isinstance(value, tuple) else value
    return out
