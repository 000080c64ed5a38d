"""Where a model's files are and what its configuration says, for every framework."""

import copy
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from dromaius.compat.vision_encoder_decoder.configuration import (
    TOKEN_IDS,
    VisionEncoderDecoderConfig,
)
from dromaius.errors import CheckpointError
from dromaius.files import read_bytes
from dromaius.io import hub

_MAX_CONFIG_BYTES = 16 * 2**20


def check_kind(folder: Path) -> None:
    """Raises CheckpointError unless config.json is that of a vision-encoder-decoder."""
    content = read_bytes(folder / "config.json", _MAX_CONFIG_BYTES, CheckpointError)
    try:
        kind = json.loads(content)["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder}/config.json is not a model's configuration") from error
    if kind != VisionEncoderDecoderConfig.model_type:
        raise CheckpointError(
            f"{folder} holds a {kind} model, not a vision-encoder-decoder; join an encoder and a "
            "decoder by from_encoder_decoder_pretrained"
        )


NO_SETTINGS = frozenset({"dtype", "torch_dtype", "attn_implementation"})
"""Arguments of loading that are attributes of the configuration too; the loader acts on them."""


def read_config(
    folder: Path, kwargs: dict[str, Any]
) -> tuple[VisionEncoderDecoderConfig, dict[str, Any]]:
    """The configuration of a folder, or of `config` in kwargs, and its attributes set by kwargs.

    What it uses is taken out of kwargs.
    """
    config = kwargs.pop("config", None)
    if not isinstance(config, VisionEncoderDecoderConfig):
        if config is None:
            check_kind(folder)
        config = VisionEncoderDecoderConfig.from_pretrained(folder if config is None else config)
    given = {name: kwargs.pop(name) for name in set(kwargs) - NO_SETTINGS if hasattr(config, name)}
    return changed(config, given), given


def read_generation_config(folder: Path, kwargs: dict[str, Any], given: dict[str, Any]) -> Any:
    """A GenerationConfig of kwargs or of the folder, with the ids of `given`; None without both."""
    generation = kwargs.pop("generation_config", None)
    if generation is None and (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder)
    if generation is not None:
        for name in set(TOKEN_IDS) & set(given):  # asked for here: before what the files say
            setattr(generation, name, given[name])
    return generation


def changed(config: Any, given: dict[str, Any]) -> Any:
    """A copy of the configuration with other values; those of a part may come as a dict."""
    config = copy.deepcopy(config)
    for name, value in given.items():
        if name in ("encoder", "decoder") and isinstance(value, dict):
            getattr(config, name).update(value)
        else:
            setattr(config, name, value)
    return config


def find(source: Any, kwargs: dict[str, Any]) -> tuple[Path, str | None]:
    """The local folder, and the framework that is asked for; takes such arguments out of kwargs."""
    if str(source).endswith(".index"):
        raise CheckpointError(
            f"{source} is a TensorFlow 1 checkpoint, which is not read; write it once as "
            "tf_model.h5 with transformers 4, and give that folder"
        )
    asked = [name for name in ("tf", "flax", "pt") if kwargs.pop(f"from_{name}", False)]
    revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", "")
    folder = hub.resolve(source, None if revision == "main" else revision) / (subfolder or "")
    read_bytes(folder / "config.json", _MAX_CONFIG_BYTES, CheckpointError)
    return folder, asked[0] if asked else None


def find_part(source: Any, role: str, options: dict[str, Any]) -> tuple[Path, str | None]:
    """As `find`, for "encoder" or "decoder". Raises ValueError without a source."""
    if source is None:
        raise ValueError(f"give {role}_pretrained_model_name_or_path or {role}_model")
    return find(source, options)


def part_config(folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The part's configuration, with the options that are its attributes, and the other options."""
    config = options.pop("config", None)
    if config is not None:
        return config, options
    return AutoConfig.from_pretrained(folder, return_unused_kwargs=True, **options)
