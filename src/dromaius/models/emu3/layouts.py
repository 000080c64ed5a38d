"""The folders an Emu3 checkpoint can lie in, read into one `Emu3Config`.

| layout      | config.json                     | tensors                                       |
|-------------|---------------------------------|-----------------------------------------------|
| dromaius    | "format": "dromaius"            | language_model.*, vision_tokenizer.*          |
| baai        | "model_type": "Emu3"            | the language model alone, LLaMA names         |
| baai-vision | "model_type": "Emu3VisionVQ"    | the vision tokenizer alone, MoVQ names        |
| hf          | "model_type": "emu3"            | text_model.*, vqmodel.*                       |
| hf-text     | "model_type": "emu3_text_model" | the language model alone, LLaMA names         |
| hf-vision   | "model_type": "emu3_vqgan"      | the vision tokenizer alone, -hf names         |
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dromaius.errors import CheckpointError, ConfigError
from dromaius.files import read_bytes
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import (
    Emu3Config,
    GenerationSettings,
    ImageSettings,
    VocabularyConfig,
)

Layout = Literal["dromaius", "baai", "baai-vision", "hf", "hf-text", "hf-vision"]

_BY_MODEL_TYPE: dict[str, Layout] = {
    "Emu3": "baai",
    "Emu3VisionVQ": "baai-vision",
    "emu3": "hf",
    "emu3_text_model": "hf-text",
    "emu3_vqgan": "hf-vision",
}
_MAX_JSON = 64 * 2**20
"""Bound on a JSON file; the -hf config.json with its vocabulary is 6.6 MB."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing")
    content = read_bytes(path, _MAX_JSON, CheckpointError)
    try:
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return data


def detect(folder: Path) -> Layout:
    """Which layout a folder has. Raises CheckpointError for another family or none."""
    return _layout_of(folder, read_json(folder / "config.json"))


def _layout_of(folder: Path, data: dict[str, Any]) -> Layout:
    if "format" in data:
        return "dromaius"
    family = data.get("model_type")
    if isinstance(family, str) and family in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[family]
    if family == "vision-encoder-decoder":
        raise CheckpointError(
            f"{folder} holds a VisionEncoderDecoder, not an Emu3 model: describe and read pictures "
            "with it (dromaius caption, read, info), or dromaius convert --to hf or onnx"
        )
    asks = "auto_map" in data or "trust_remote_code" in data
    hint = " (it asks for remote code, which is never run)" if asks else ""
    raise CheckpointError(f"{folder}: model_type {family!r} is not supported{hint}")


def read_config(folder: Path) -> Emu3Config:
    """The configuration of any layout; a half that the folder lacks is None.

    Raises CheckpointError or ConfigError naming the file or key.
    """
    folder = Path(folder)
    data = read_json(folder / "config.json")
    layout = _layout_of(folder, data)
    try:
        match layout:
            case "dromaius":
                return Emu3Config.from_json(data)
            case "baai":
                return _read_baai(folder, data)
            case "hf":
                return _read_hf(folder, data)
            case "hf-text":
                text = dialects.language_model_config(data, dialects.HF_LANGUAGE_MODEL)
                return Emu3Config(text, None, _published_ids(data, text.vocab_size))
        dialect = (
            dialects.BAAI_VISION_TOKENIZER
            if layout == "baai-vision"
            else dialects.HF_VISION_TOKENIZER
        )
        vision = dialects.vision_tokenizer_config(data, dialect)
        return Emu3Config(None, vision, image=_image_settings(folder))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{folder}/config.json: {error}") from None


def join(language: Emu3Config, vision: Emu3Config) -> Emu3Config:
    """One model of a language model's folder and a vision tokenizer's folder.

    Raises ConfigError if the vocabulary has fewer visual ids than the tokenizer has codes.
    """
    if vision.vision_tokenizer is None:
        raise ConfigError("the folder given as vision tokenizer holds none")
    codes, ids = vision.vision_tokenizer.codebook_size, language.vocabulary
    if ids.codebook_size < codes:
        raise ConfigError(
            f"the vision tokenizer has {codes} codes, the language model "
            f"{ids.codebook_size} visual ids"
        )
    image = replace(vision.image, image_area=language.image.image_area)
    return replace(
        language,
        vision_tokenizer=vision.vision_tokenizer,
        vocabulary=replace(ids, codebook_size=codes),
        image=image,
    )


def _read_baai(folder: Path, data: dict[str, Any]) -> Emu3Config:
    language = dialects.language_model_config(data, dialects.BAAI_LANGUAGE_MODEL)
    area = data.get("image_area", ImageSettings.image_area)
    return Emu3Config(
        language,
        None,
        _published_ids(data, language.vocab_size),
        ImageSettings.from_dict({"image_area": area}, "config.json"),
        _generation_settings(folder),
    )


def _read_hf(folder: Path, data: dict[str, Any]) -> Emu3Config:
    text = dict(data.get("text_config") or {})
    if "tie_word_embeddings" in data:  # transformers' whole model goes by the outer one
        text["tie_word_embeddings"] = data["tie_word_embeddings"]
    language = dialects.language_model_config(text, dialects.HF_LANGUAGE_MODEL)
    vision = dialects.vision_tokenizer_config(
        data.get("vq_config") or {}, dialects.HF_VISION_TOKENIZER
    )
    names = data.get("vocabulary_map")
    ids = (
        dialects.vocabulary_from_map(names, text, vision.codebook_size)
        if names
        else replace(_published_ids(text, language.vocab_size), codebook_size=vision.codebook_size)
    )
    image, generation = _image_settings(folder), _generation_settings(folder)
    return Emu3Config(language, vision, ids, image, generation)


def _published_ids(data: dict[str, Any], vocab_size: int) -> VocabularyConfig:
    """Ids of a BAAI configuration; the visual ones follow the end of image."""
    names = {
        "pad": "pad_token_id",
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "image_token": "img_token_id",
        "image_start": "boi_token_id",
        "image_end": "eoi_token_id",
        "end_of_line": "eol_token_id",
        "end_of_frame": "eof_token_id",
    }
    given = {role: dialects.first_id(data.get(name)) for role, name in names.items()}
    ids = VocabularyConfig(**{role: i for role, i in given.items() if i is not None})
    start = min(ids.image_end + 1, vocab_size)  # a small vocabulary may hold text alone
    return replace(ids, visual_start=start, codebook_size=vocab_size - start)


def _image_settings(folder: Path) -> ImageSettings:
    """From preprocessor_config.json, or the image part of processor_config.json."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            data = read_json(folder / name)
            data = data.get("image_processor", data) if name.startswith("processor") else data
            if "image_processor_type" in data or "min_pixels" in data:
                return dialects.image_settings(data)
    return ImageSettings()


def _generation_settings(folder: Path) -> GenerationSettings:
    path = folder / "generation_config.json"
    data = read_json(path) if path.exists() else {}
    guidance = data.get("guidance_scale")
    values = {
        "guidance": GenerationSettings.guidance if guidance is None else guidance,
        "top_k": data.get("top_k", GenerationSettings.top_k) or None,
        "top_p": data.get("top_p"),
        "min_p": data.get("min_p"),
    }
    return GenerationSettings.from_dict(values, path.name)
