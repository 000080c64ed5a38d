"""Configurations: what is wrong is named, what is right survives a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dromaius.errors import ConfigError
from dromaius.models.emu3.config import (
    Emu3Config,
    GenerationSettings,
    ImageSettings,
    LanguageModelConfig,
    PromptSettings,
    VisionTokenizerConfig,
    VocabularyConfig,
)

TINY = Emu3Config(
    LanguageModelConfig(
        vocab_size=300,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=None,
        head_dim=16,
        hidden_act="gelu",
        max_position_embeddings=64,
        rope_theta=1e4,
        rope_scaling={
            "rope_type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 32,
        },
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    VisionTokenizerConfig(
        codebook_size=20, ch=16, ch_mult=(1, 2), attn_resolutions=(0, 1), norm_num_groups=8
    ),
    VocabularyConfig(
        pad=200,
        bos=201,
        eos=202,
        image_token=203,
        image_start=204,
        image_end=205,
        end_of_line=206,
        end_of_frame=207,
        visual_start=208,
        codebook_size=20,
    ),
    ImageSettings(min_pixels=64, max_pixels=4096, image_area=1024, mean=(0.1, 0.2, 0.3)),
    GenerationSettings(guidance=2.5, top_k=None, min_p=0.1, negative_prompt="blurry"),
    PromptSettings(template="stage1", system="Hé."),
)


@pytest.mark.parametrize(
    "config",
    [
        Emu3Config(),
        TINY,
        Emu3Config(vision_tokenizer=None),
        Emu3Config(language_model=None),
    ],
    ids=["published", "tiny", "language model alone", "vision tokenizer alone"],
)
def test_round_trip_through_a_file(config: Emu3Config) -> None:
    """Tuples become JSON lists on the way and come back as tuples."""
    data = json.loads(json.dumps(config.to_json()))
    again = Emu3Config.from_json(data)
    assert again == config
    assert again.to_json() == config.to_json()
    if config.language_model and again.language_model:
        assert again.language_model.rope == config.language_model.rope


def test_file_begins_with_what_it_is() -> None:
    data = Emu3Config().to_json()
    assert list(data)[:3] == ["format", "format_version", "model_type"]
    assert (data["format"], data["format_version"], data["model_type"]) == ("dromaius", 1, "emu3")


def test_published_sizes() -> None:
    """Spec sections 1.1, 2.1 and 3.2."""
    language, vision = LanguageModelConfig(), VisionTokenizerConfig()
    assert (language.head_size, language.key_value_heads) == (128, 8)
    assert language.rope.rope_type == "default" and language.rope.rope_theta == 1e6
    assert vision.spatial_factor == 8
    ids = VocabularyConfig()
    assert ids.visual_start + ids.codebook_size == language.vocab_size == 184622


def test_absent_key_value_heads_are_one_a_head() -> None:
    config = LanguageModelConfig(num_attention_heads=4, hidden_size=64, num_key_value_heads=None)
    assert config.key_value_heads == 4 and config.head_size == 16


# ----------------------------------------------------------------------------- what is refused

SECTIONS = ["language_model", "vision_tokenizer", "vocabulary", "image", "generation", "prompt"]


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_in_any_section_is_named(section: str) -> None:
    data = TINY.to_json()
    data[section]["hiden_size"] = 3
    with pytest.raises(ConfigError, match=rf"unknown key {section}\.hiden_size") as caught:
        Emu3Config.from_json(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [3, "text", [1]])
def test_section_that_is_no_table(section: str, value: object) -> None:
    with pytest.raises(ConfigError, match=section):
        Emu3Config.from_json({**TINY.to_json(), section: value})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("format", "other", "format is 'other'"),
        ("format_version", 2, "format_version is 2"),
        ("model_type", "emu2", "'emu2'"),
        ("vison_tokenizer", {}, "unknown key vison_tokenizer"),
        ("auto_map", {}, "unknown key auto_map"),
    ],
)
def test_top_level(key: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Emu3Config.from_json({**TINY.to_json(), key: value})


@pytest.mark.parametrize("key", ["format", "format_version", "model_type"])
def test_missing_at_top_level(key: str) -> None:
    data = TINY.to_json()
    del data[key]
    with pytest.raises(ConfigError, match=key):
        Emu3Config.from_json(data)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("language_model", {"vocab_size": 0}, "vocab_size .* 0"),
    ("language_model", {"hidden_size": "64"}, "hidden_size .* '64'"),
    ("language_model", {"intermediate_size": 1.5}, "intermediate_size .* 1.5"),
    ("language_model", {"num_hidden_layers": True}, "num_hidden_layers .* True"),
    ("language_model", {"num_key_value_heads": 2}, "num_key_value_heads 2"),
    ("language_model", {"head_dim": None, "hidden_size": 25}, "hidden_size 25"),
    ("language_model", {"head_dim": 15, "rope_scaling": None}, "15"),
    ("language_model", {"hidden_act": "tanh"}, "hidden_act 'tanh'"),
    ("language_model", {"rope_scaling": {"rope_type": "mrope"}}, "mrope"),
    ("language_model", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ("language_model", {"rope_scaling": {"rope_type": "default", "fact": 2}}, "fact"),
    ("language_model", {"rope_scaling": "linear"}, "rope_scaling .* 'linear'"),
    ("language_model", {"rope_scaling": {"rope_type": "yarn", "factor": 0}}, "factor .* 0"),
    ("language_model", {"attention_dropout": "x"}, "attention_dropout .* 'x'"),
    ("language_model", {"embedding_dropout": 1.0}, "embedding_dropout .* 1.0"),
    ("vision_tokenizer", {"ch_mult": []}, "ch_mult"),
    ("vision_tokenizer", {"ch_mult": [1, "2"]}, "ch_mult .* '2'"),
    ("vocabulary", {"pad": -3}, "pad .* -3"),
    ("language_model", {"vocab_size": 220}, "visual ids end at 228"),
    ("vision_tokenizer", {"codebook_size": 21}, "21 codes"),
    ("vision_tokenizer", {"embed_dim": 8}, "embed_dim 8"),
    ("vision_tokenizer", {"temporal_downsample_factor": 3}, "power of two, got 3"),
    ("vision_tokenizer", {"ch": 12}, "12 channels"),
    ("vision_tokenizer", {"ch": -16}, "ch .* -16"),
    ("image", {"min_pixels": 5000}, "min_pixels 5000 exceeds max_pixels 4096"),
    ("image", {"image_area": 0}, "image_area .* 0"),
    ("prompt", {"template": "base"}, "'base'"),
    ("prompt", {"system": 3}, "system must be a text, got 3"),
    ("vocabulary", {"pad": "0"}, "pad must be a whole number, got '0'"),
    ("generation", {"guidance": "high"}, "guidance must be a finite number, got 'high'"),
    ("generation", {"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
    ("language_model", {"tie_word_embeddings": "no"}, "must be true or false, got 'no'"),
    ("language_model", {"rope_theta": float("nan")}, "rope_theta must be a finite number"),
    ("language_model", {"vocab_size": 10**12}, "vocab_size must be at most 16777216"),
    ("language_model", {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 4096"),
    ("vision_tokenizer", {"ch_mult": 2}, "ch_mult must be a list, got 2"),
    ("vision_tokenizer", {"ch_mult": [1] * 64}, "at most 8 stages, got 64"),
    ("vision_tokenizer", {"temporal_downsample_factor": 2**40}, "must be at most 4096"),
    ("image", {"max_pixels": 10**12}, "max_pixels must be at most 67108864"),
    ("image", {"mean": [0.5]}, r"mean must be three numbers, got \(0.5,\)"),
]


@pytest.mark.parametrize(("section", "change", "named"), WRONG)
def test_wrong_value_is_named(section: str, change: dict[str, Any], named: str) -> None:
    data = TINY.to_json()
    data[section].update(change)
    with pytest.raises(ConfigError, match=named) as caught:
        Emu3Config.from_json(data)
    assert "\n" not in str(caught.value)


def test_configurations_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        TINY.image.min_pixels = 3  # type: ignore[misc]  # that is the point
