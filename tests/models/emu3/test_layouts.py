"""Configurations of every published layout are understood, and nothing in them is executed."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from dromaius.errors import CheckpointError, ConfigError
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import (
    Emu3Config,
    ImageSettings,
    LanguageModelConfig,
    VisionTokenizerConfig,
    VocabularyConfig,
)
from dromaius.models.emu3.layouts import detect, join, read_config
from dromaius.models.emu3.weights import load_language_model, load_vision_tokenizer
from tests.tiny_checkpoints import (
    CODEBOOK,
    IDS,
    PREPROCESSOR,
    TEXT,
    VISION,
    VISUAL_START,
    change_json,
    make_composite,
    vocabulary_map,
    write_baai,
    write_hf,
    write_json,
)

# config.json of the published checkpoints (spec section 1.1): three differ in two numbers
PUBLISHED = {
    "architectures": ["Emu3ForCausalLM"],
    "attention_dropout": 0.1,
    "auto_map": {
        "AutoConfig": "configuration_emu3.Emu3Config",
        "AutoModelForCausalLM": "modeling_emu3.Emu3ForCausalLM",
    },
    "boi_token_id": 151852,
    "bos_token_id": 151849,
    "eof_token_id": 151847,
    "eoi_token_id": 151853,
    "eol_token_id": 151846,
    "eos_token_id": 151850,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_area": 518400,
    "img_token_id": 151851,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 9216,
    "model_type": "Emu3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pad_token_id": 151643,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.44.0",
    "use_cache": True,
    "vocab_size": 184622,
}
TOKENIZER = {
    "architectures": ["Emu3VisionVQModel"],
    "model_type": "Emu3VisionVQ",
    "auto_map": {"AutoModel": "modeling_emu3visionvq.Emu3VisionVQModel"},
    "codebook_size": 32768,
    "embed_dim": 4,
    "z_channels": 4,
    "double_z": False,
    "in_channels": 3,
    "out_channels": 3,
    "temporal_downsample_factor": 4,
    "ch": 256,
    "ch_mult": [1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [3],
    "dropout": 0.0,
    "torch_dtype": "float32",
    "transformers_version": "4.44.0",
}
HF: dict[str, Any] = {
    "architectures": ["Emu3ForConditionalGeneration"],
    "model_type": "emu3",
    "text_config": {**TEXT, "model_type": "emu3_text_model"}
    | {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    "vq_config": {**VISION, "model_type": "emu3_vqgan"},
    "vocabulary_map": vocabulary_map(),
    "transformers_version": "4.48.0",
    "torch_dtype": "float32",
}
OWN_IDS = VocabularyConfig(
    pad=IDS["pad_token_id"],
    bos=IDS["bos_token_id"],
    eos=IDS["eos_token_id"],
    image_token=IDS["img_token_id"],
    image_start=IDS["boi_token_id"],
    image_end=IDS["eoi_token_id"],
    end_of_line=IDS["eol_token_id"],
    end_of_frame=IDS["eof_token_id"],
    visual_start=VISUAL_START,
    codebook_size=CODEBOOK,
)


def read(folder: Path, data: dict[str, Any], **files: dict[str, Any]) -> Emu3Config:
    """The configuration of a folder with this config.json; no warning is expected."""
    write_json(folder / "config.json", data)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_config(folder)


# ------------------------------------------------------------------------------------- BAAI


@pytest.mark.parametrize(
    ("area", "context"), [(518400, 9216), (262144, 131072), (262144, 5120)], ids=str
)
def test_published_language_models(area: int, context: int, tmp_path: Path) -> None:
    data = {**PUBLISHED, "image_area": area, "max_position_embeddings": context}
    config = read(tmp_path, data)
    assert detect(tmp_path) == "baai"
    # BAAI's code drops out embeddings with the probability of attention (spec section 1.2)
    assert config.language_model == LanguageModelConfig(
        max_position_embeddings=context, embedding_dropout=0.1
    )
    assert config.vision_tokenizer is None
    assert config.vocabulary == VocabularyConfig()
    assert config.image.image_area == area


def test_published_vision_tokenizer(tmp_path: Path) -> None:
    published = PREPROCESSOR | {"min_pixels": 512 * 512, "max_pixels": 1024 * 1024}
    config = read(tmp_path, TOKENIZER, preprocessor_config=published)
    assert detect(tmp_path) == "baai-vision"
    assert config.vision_tokenizer == VisionTokenizerConfig()
    assert config.language_model is None
    assert config.image == ImageSettings()


def test_two_folders_make_one_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    language = read(tmp_path / "a", {**PUBLISHED, "image_area": 262144})
    vision = read(tmp_path / "b", TOKENIZER, preprocessor_config=PREPROCESSOR)
    both = join(language, vision)
    assert both.language_model == language.language_model
    assert both.vision_tokenizer == vision.vision_tokenizer
    assert both.image.image_area == 262144 and both.image.min_pixels == 1024
    small = read(tmp_path / "a", {**PUBLISHED, **TEXT, **IDS})
    with pytest.raises(ConfigError, match="32768 codes.*64 visual ids"):
        join(small, vision)


# --------------------------------------------------------------------------------------- -hf


def test_composite(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        HF,
        processor_config={"image_processor": {**PREPROCESSOR, "image_processor_type": "X"}},
        generation_config={"do_sample": True, "top_k": 50, "max_new_tokens": 50000},
    )
    assert detect(tmp_path) == "hf"
    assert config.language_model == LanguageModelConfig(**TEXT)
    assert config.vision_tokenizer == VisionTokenizerConfig(
        codebook_size=CODEBOOK,
        ch=32,
        ch_mult=(1, 1, 2, 2),
        num_res_blocks=1,
        attn_resolutions=(2, 3),
    )
    assert config.vocabulary == OWN_IDS
    assert (config.image.min_pixels, config.image.max_pixels) == (1024, 16384)
    assert config.generation.top_k == 50 and config.generation.guidance == 3.0


def test_only_differences_from_the_defaults(tmp_path: Path) -> None:
    """How Emu3-Chat-hf was written: nearly nothing in text_config, no vq_config at all."""
    text = {"model_type": "emu3_text_model", "rope_scaling": {"rope_type": "default"}}
    data = {"model_type": "emu3", "text_config": {**text, "max_position_embeddings": 131072}}
    config = read(tmp_path, data)
    assert config.language_model == LanguageModelConfig(max_position_embeddings=131072)
    assert config.vision_tokenizer == VisionTokenizerConfig()
    assert config.vocabulary == VocabularyConfig()


ROPE: list[tuple[dict[str, Any], str, float]] = [
    ({}, "default", 1e6),
    ({"rope_scaling": None, "rope_theta": 5e5}, "default", 5e5),
    ({"rope_scaling": {"rope_type": "default"}}, "default", 1e6),
    ({"rope_scaling": {"type": "default"}, "rope_theta": 1e4}, "default", 1e4),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e4}, "linear", 1e4),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "default", 1e4),
    (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
        "dynamic",
        1e4,
    ),
]


@pytest.mark.parametrize(("keys", "kind", "theta"), ROPE)
def test_old_and_new_words_for_rotations(
    keys: dict[str, Any], kind: str, theta: float, tmp_path: Path
) -> None:
    config = read(tmp_path, {**HF, "text_config": {**HF["text_config"], **keys}})
    assert config.language_model
    rope = config.language_model.rope
    assert (rope.rope_type, rope.rope_theta) == (kind, theta)
    assert rope.factor == (keys.get("rope_scaling") or keys.get("rope_parameters") or {}).get(
        "factor"
    )


@pytest.mark.parametrize("name", ["preprocessor_config", "processor_config"])
def test_image_settings_of_either_file(name: str, tmp_path: Path) -> None:
    settings = {**PREPROCESSOR, "image_processor_type": "Emu3ImageProcessor", "min_pixels": 2048}
    content = {"image_processor": settings} if name == "processor_config" else settings
    config = read(tmp_path, HF, **{name: content})
    assert config.image.min_pixels == 2048 and config.image.mean == (0.5, 0.5, 0.5)


def test_processor_config_without_image_settings(tmp_path: Path) -> None:
    """transformers 4 wrote both files; the image settings stand in one of them."""
    settings = {**PREPROCESSOR, "image_processor_type": "Emu3ImageProcessor"}
    config = read(
        tmp_path,
        HF,
        processor_config={"processor_class": "Emu3Processor"},
        preprocessor_config=settings,
    )
    assert config.image.max_pixels == 16384
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_config(tmp_path).image == ImageSettings()


@pytest.mark.parametrize("missing", ["<|image start|>", "<|extra_200|>", "<|image token|>"])
def test_vocabulary_map_without_a_role(missing: str, tmp_path: Path) -> None:
    names = {name: i for name, i in vocabulary_map().items() if name != missing}
    with pytest.raises(ConfigError, match=r"vocabulary_map lacks .*" + missing.strip("<|>")):
        read(tmp_path, {**HF, "vocabulary_map": names})


def test_vocabulary_map_with_codes_out_of_order(tmp_path: Path) -> None:
    names = vocabulary_map()
    first, second = "<|visual token 000003|>", "<|visual token 000004|>"
    names[first], names[second] = names[second], names[first]
    with pytest.raises(ConfigError, match="consecutive"):
        read(tmp_path, {**HF, "vocabulary_map": names})


def test_more_codes_than_visual_names(tmp_path: Path) -> None:
    names = {n: i for n, i in vocabulary_map().items() if n != "<|visual token 000063|>"}
    with pytest.raises(ConfigError, match="64 codes.*63 visual ids"):
        read(tmp_path, {**HF, "vocabulary_map": names})


# ------------------------------------------------------------------- what is no Emu3 at all


@pytest.mark.parametrize("family", ["llama", "Emu2", None, 3, ["Emu3"]])
def test_another_family(family: object, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": family, "auto_map": {"AutoModel": "m.M"}})
    with pytest.raises(CheckpointError, match=f"model_type {re.escape(repr(family))} .*never run"):
        detect(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "{", "3", "\ufeff{}", '{"a": ' + "[" * 100000])
def test_config_that_is_no_table(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="config.json"):
        read_config(tmp_path)


def test_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json is missing"):
        read_config(tmp_path)


# ------------------------------------------------------------------------- the four kinds of keys


def test_bookkeeping_is_silent(tmp_path: Path) -> None:
    """`read` turns every warning into an error."""
    read(tmp_path, {**PUBLISHED, "_name_or_path": "x", "id2label": {}, "dtype": "float32"})


@pytest.mark.parametrize("half", ["text_config", "vq_config", "baai", "baai-vision"])
def test_unknown_foreign_key_warns_once(half: str, tmp_path: Path) -> None:
    key = f"never_heard_of_{half.replace('-', '_')}"
    data: dict[str, Any] = {"baai": PUBLISHED, "baai-vision": TOKENIZER}.get(half, HF)
    data = {**data, half: {**data[half], key: 3}} if half in data else {**data, key: 3}
    write_json(tmp_path / "config.json", data)
    with pytest.warns(UserWarning, match=key):
        first = read_config(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config(tmp_path) == first


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("baai", {"pretraining_tp": 2}, "pretraining_tp = 2"),
    ("baai", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("baai", {"hidden_act": "quick_gelu"}, "quick_gelu"),
    ("baai", {"rope_scaling": {"type": "su", "factor": 2}}, "'su'"),
    ("baai", {"sliding_window": 128}, "sliding_window = 128"),
    ("baai-vision", {"double_z": True}, "double_z = True"),
    ("baai-vision", {"dropout": 0.1}, "dropout = 0.1"),
    ("text_config", {"rope_parameters": {"rope_type": "mrope"}}, "mrope"),
    ("text_config", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("vq_config", {"double_latent": True}, "double_latent = True"),
    ("vq_config", {"attention_dropout": 0.2}, "attention_dropout = 0.2"),
    ("vq_config", {"hidden_size": 128}, "hidden_size 128"),
    ("preprocessor", {"do_resize": False}, "do_resize = False"),
    ("preprocessor", {"do_normalize": False}, "do_normalize = False"),
    ("preprocessor", {"spatial_factor": 16}, "spatial_factor = 16"),
]


@pytest.mark.parametrize(("part", "change", "named"), UNSUPPORTED)
def test_unsupported_computation(
    part: str, change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """A key that changes the numbers is never passed over."""
    data: dict[str, Any] = {"baai": PUBLISHED, "baai-vision": TOKENIZER}.get(part, HF)
    if part in HF:
        data = {**data, part: {**data[part], **change}}
    elif part == "preprocessor":
        settings = {**PREPROCESSOR, "image_processor_type": "X", **change}
        write_json(tmp_path / "preprocessor_config.json", settings)
    else:
        data = {**data, **change}
    with pytest.raises(ConfigError, match=named) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_our_own_layout_knows_no_strangers(tmp_path: Path) -> None:
    data = Emu3Config().to_json()
    assert read(tmp_path, data) == Emu3Config()
    assert detect(tmp_path) == "dromaius"
    with pytest.raises(ConfigError, match="unknown key auto_map"):
        read(tmp_path, {**data, "auto_map": {}})
    data["language_model"]["_name_or_path"] = "x"
    with pytest.raises(ConfigError, match="unknown key language_model._name_or_path"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("config", "dialect"),
    [
        (LanguageModelConfig(**TEXT), dialects.HF_LANGUAGE_MODEL),
        (LanguageModelConfig(**TEXT, embedding_dropout=0.1), dialects.BAAI_LANGUAGE_MODEL),
        (LanguageModelConfig(num_key_value_heads=None), dialects.HF_LANGUAGE_MODEL),
    ],
)
def test_words_there_and_back(config: LanguageModelConfig, dialect: dialects.Dialect) -> None:
    foreign = dialects.to_foreign(config, dialect)
    assert dialects.language_model_config(foreign, dialect) == config


# ------------------------------------------------------------------------------ remote code

TRAP = "from pathlib import Path\nPath({marker!r}).touch()\nraise RuntimeError('it was run')\n"


def test_auto_map_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module that auto_map names lies in the folder and would leave a mark."""
    marker = tmp_path / "it_was_run"
    model = make_composite(1)
    folders = [*write_baai(tmp_path / "baai", model), write_hf(tmp_path / "hf", model)]
    modules = ["configuration_emu3", "modeling_emu3", "configuration_emu3visionvq"]
    modules += ["modeling_emu3visionvq", "image_processing_emu3visionvq", "tokenization_emu3"]
    targets = {"AutoConfig": f"{modules[0]}.C", "AutoModel": f"{modules[1]}.M"}
    for folder in folders:
        for name in (*modules, "__init__", "sitecustomize", "conftest"):
            (folder / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
        change_json(folder / "config.json", auto_map=targets, trust_remote_code=None)
    monkeypatch.chdir(folders[0])
    language, vision, hf = folders
    with torch.no_grad():
        ids = torch.arange(9)[None]
        logits = load_language_model(language)(ids)
        assert torch.equal(logits, load_language_model(hf)(ids))
        codes = load_vision_tokenizer(vision).encode(torch.zeros(1, 3, 16, 16))
        assert torch.equal(codes, load_vision_tokenizer(hf).encode(torch.zeros(1, 3, 16, 16)))
    assert not marker.exists()
    assert not any(name.split(".")[-1] in modules[2:] for name in sys.modules)
