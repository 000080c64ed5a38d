"""The JSON files of the published layouts, written from an `Emu3Config`.

What a layout has no word for is an error, never a silent loss.
"""

from typing import Any

from dromaius.errors import ConfigError
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import (
    Emu3Config,
    ImageSettings,
    LanguageModelConfig,
    VisionTokenizerConfig,
    VocabularyConfig,
)

Files = dict[str, dict[str, Any]]
"""File name -> its JSON content."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- set role = message['role'] -%}
  {%- if role != 'system' -%}{{- role | upper ~ ': ' -}}{%- endif -%}
  {%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}
  {%- for part in message['content'] if part['type'] == 'text' -%}
    {{- part['text'] ~ ' ' -}}
  {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
"""Renders what the published -hf checkpoints' template renders: pictures before text."""

_ROLE_NAMES = {
    "image_token": "<|image token|>",
    "image_start": "<|image start|>",
    "image_end": "<|image end|>",
    "end_of_line": "<|extra_200|>",
    "end_of_frame": "<|extra_201|>",
    "pad": "<|endoftext|>",
    "bos": "<|extra_203|>",
    "eos": "<|extra_204|>",
}


def baai_language_files(config: Emu3Config, dtype: str) -> Files:
    """config.json and generation_config.json of a BAAI language model."""
    language, ids = _language(config), config.vocabulary
    if ids.visual_start != ids.image_end + 1:
        raise ConfigError("the BAAI layout needs visual ids right behind the end of image")
    if language.embedding_dropout not in (0.0, language.attention_dropout):
        raise ConfigError("the BAAI layout has one dropout for attention and embeddings")
    roles = {
        "pad_token_id": ids.pad,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
    }
    values = dialects.to_foreign(language, dialects.BAAI_LANGUAGE_MODEL)
    config_json = {
        "architectures": ["Emu3ForCausalLM"],
        "model_type": "Emu3",
        **_without_none(values, "rope_scaling"),
        "num_key_value_heads": language.key_value_heads,
        **roles,
        "img_token_id": ids.image_token,
        "boi_token_id": ids.image_start,
        "eoi_token_id": ids.image_end,
        "eol_token_id": ids.end_of_line,
        "eof_token_id": ids.end_of_frame,
        "image_area": config.image.image_area,
        "pretraining_tp": 1,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    return {"config.json": config_json, "generation_config.json": roles}


def baai_vision_files(config: Emu3Config) -> Files:
    """config.json and preprocessor_config.json of a BAAI vision tokenizer."""
    vision = _vision(config)
    if vision.num_attention_heads != 1:
        raise ConfigError("the BAAI layout has one attention head in the vision tokenizer")
    values = dialects.to_foreign(vision, dialects.BAAI_VISION_TOKENIZER)
    config_json = {
        "architectures": ["Emu3VisionVQModel"],
        "model_type": "Emu3VisionVQ",
        **values,
        "double_z": False,
        "dropout": 0.0,
        "torch_dtype": "float32",
    }
    image = _image_processor(config.image, "Emu3VisionVQImageProcessor")
    return {"config.json": config_json, "preprocessor_config.json": image}


def hf_files(config: Emu3Config, names: dict[str, int], dtype: str) -> Files:
    """The JSON files of an -hf checkpoint; `names` is the tokenizer's name -> id."""
    language, vision, ids = _language(config), _vision(config), config.vocabulary
    vision_json = dialects.to_foreign(vision, dialects.HF_VISION_TOKENIZER)
    text_json = {
        "model_type": "emu3_text_model",
        **_without_none(dialects.to_foreign(language, dialects.HF_LANGUAGE_MODEL), "rope_scaling"),
        "num_key_value_heads": language.key_value_heads,
        "pad_token_id": ids.pad,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
    }
    config_json = {
        "architectures": ["Emu3ForConditionalGeneration"],
        "model_type": "emu3",
        "text_config": text_json,
        "vq_config": {
            "model_type": "emu3_vqgan",
            **vision_json,
            "hidden_size": vision.ch * vision.ch_mult[-1],
        },
        "vocabulary_map": _vocabulary_map(ids, names),
        "tie_word_embeddings": language.tie_word_embeddings,
        "torch_dtype": dtype,
    }
    generation = {
        "do_sample": True,
        "top_k": config.generation.top_k or 0,
        "max_new_tokens": 50000,
        "pad_token_id": ids.pad,
        "eos_token_id": ids.eos,
    }
    processor = {"processor_class": "Emu3Processor"}
    image = _image_processor(config.image, "Emu3ImageProcessor") | processor
    return {
        "config.json": config_json,
        "generation_config.json": generation,
        "preprocessor_config.json": image,
        "processor_config.json": processor,
    }


def _vocabulary_map(ids: VocabularyConfig, names: dict[str, int]) -> dict[str, int]:
    """Every name of the tokenizer, and the published names of all ids with a role."""
    roles = {name: getattr(ids, role) for role, name in _ROLE_NAMES.items()}
    visual = {f"<|visual token {n:06d}|>": ids.visual_start + n for n in range(ids.codebook_size)}
    taken = {token_id for group in (roles, visual) for token_id in group.values()}
    plain = {name: i for name, i in names.items() if i not in taken}
    return {"<image>": 151646 if ids.pad == 151643 else ids.pad, **plain, **roles, **visual}


def _image_processor(image: ImageSettings, kind: str) -> dict[str, Any]:
    return {
        "image_processor_type": kind,
        **dialects.to_foreign(image, dialects.IMAGE_PROCESSOR),
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "spatial_factor": 8,
    }


def _language(config: Emu3Config) -> LanguageModelConfig:
    if config.language_model is None:
        raise ConfigError("there is no language model to write")
    return config.language_model


def _vision(config: Emu3Config) -> VisionTokenizerConfig:
    vision = config.vision_tokenizer
    if vision is None:
        raise ConfigError("there is no vision tokenizer to write")
    if vision.norm_num_groups != VisionTokenizerConfig.norm_num_groups:
        raise ConfigError(
            f"only our own layout can hold norm_num_groups = {vision.norm_num_groups}; "
            f"the published code has {VisionTokenizerConfig.norm_num_groups}"
        )
    return vision


def _without_none(values: dict[str, Any], keep: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None or k == keep}


def own_files(config: Emu3Config) -> Files:
    """config.json of our own layout."""
    return {"config.json": config.to_json()}
