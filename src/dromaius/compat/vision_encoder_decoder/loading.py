"""Checkpoint folders -> models: every tensor comes from the files, or loading fails."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from dromaius.compat.vision_encoder_decoder.configuration import (
    TOKEN_IDS,
    VisionEncoderDecoderConfig,
)
from dromaius.errors import CheckpointError, warn_once
from dromaius.files import read_bytes
from dromaius.io import hub
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.files import read_state
from dromaius.models.vision_encoder_decoder.foreign import Part

_MAX_CONFIG_BYTES = 16 * 2**20
_NO_SETTINGS = frozenset({"dtype", "torch_dtype", "attn_implementation"})
"""Arguments of loading that are attributes of the configuration too; the loader acts on them."""


def load_model(cls: Any, load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """Does what `VisionEncoderDecoderModel.from_pretrained` documents.

    load: transformers' own `from_pretrained`, which gives tensors their places in the parts.
    """
    if kwargs.get("state_dict") is not None:
        return load(source, *args, **kwargs)
    folder, framework = _folder(source, kwargs)
    config = kwargs.pop("config", None)
    if not isinstance(config, VisionEncoderDecoderConfig):
        if config is None:
            _check_kind(folder)
        config = VisionEncoderDecoderConfig.from_pretrained(folder if config is None else config)
    given = {name: kwargs.pop(name) for name in set(kwargs) - _NO_SETTINGS if hasattr(config, name)}
    config = _changed(config, given)
    generation = kwargs.pop("generation_config", None)
    want_info = kwargs.pop("output_loading_info", False)
    state = read_state(folder, None, framework)
    kwargs |= {"config": config, "state_dict": state, "output_loading_info": True}
    model, info = load(None, *args, ignore_mismatched_sizes=True, **kwargs)
    _complain(folder, model, info)
    parts.mend_position_tables(model.decoder)
    model.name_or_path = model.config.name_or_path = str(source)
    if generation is None and (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder)
    if generation is not None:
        model.generation_config = generation
    for name in set(TOKEN_IDS) & set(given):  # asked for here: before what the files say
        setattr(model.generation_config, name, given[name])
    return (model, info) if want_info else model


def load_encoder(source: Any, *args: Any, **options: Any) -> Any:
    """A pretrained image encoder without its head; options as `encoder_...` of the model's."""
    if (model := options.pop("model", None)) is not None:
        return model
    folder, framework = _part_folder(source, "encoder", options)
    config, options = _part_config(folder, options)
    config = parts.encoder_config(config)
    cls = parts.encoder_class(config)
    options = parts.without_pooler(cls) | options
    model, info = _load_part(cls, folder, "encoder", framework, config, *args, **options)
    _complain(folder, model, info, allowed=[n for n in info["missing_keys"] if "pooler" in n])
    return model


def load_decoder(source: Any, **options: Any) -> Any:
    """A pretrained decoder; cross-attention that its files lack is new."""
    if (model := options.pop("model", None)) is not None:
        return model
    folder, framework = _part_folder(source, "decoder", options)
    config, options = _part_config(folder, options)
    config = parts.decoder_config(config)
    cls = parts.decoder_class(config)
    model, info = _load_part(cls, folder, "decoder", framework, config, **options)
    body = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    new = [name for name in missing if any(word in name for word in parts.CROSS_ATTENTION)]
    head = [name for name in missing if not name.startswith(body)]
    _complain(folder, model, info, allowed=new + head)
    if head:
        warn_once(f"{source}: the head of the decoder is new and must be trained: {_few(head)}")
    parts.mend_position_tables(model)
    return model


def _check_kind(folder: Path) -> None:
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


def _changed(config: Any, given: dict[str, Any]) -> Any:
    """A copy of the configuration with other values; those of a part may come as a dict."""
    config = copy.deepcopy(config)
    for name, value in given.items():
        if name in ("encoder", "decoder") and isinstance(value, dict):
            getattr(config, name).update(value)
        else:
            setattr(config, name, value)
    return config


def _folder(source: Any, kwargs: dict[str, Any]) -> tuple[Path, str | None]:
    """The local folder, and the framework that is asked for."""
    tf, flax = kwargs.pop("from_tf", False), kwargs.pop("from_flax", False)
    kwargs.pop("from_pt", None)
    revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", "")
    folder = hub.resolve(source, None if revision == "main" else revision) / (subfolder or "")
    read_bytes(folder / "config.json", _MAX_CONFIG_BYTES, CheckpointError)
    return folder, "tf" if tf else "flax" if flax else None


def _part_folder(source: Any, role: str, options: dict[str, Any]) -> tuple[Path, str | None]:
    if source is None:
        raise ValueError(f"give {role}_pretrained_model_name_or_path or {role}_model")
    return _folder(source, options)


def _part_config(folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The part's configuration, with the options that are its attributes, and the other options."""
    config = options.pop("config", None)
    if config is not None:
        return config, options
    return AutoConfig.from_pretrained(folder, return_unused_kwargs=True, **options)


def _load_part(
    cls: Any,
    folder: Path,
    part: Part,
    framework: str | None,
    config: Any,
    *args: Any,
    **options: Any,
) -> Any:
    state = read_state(folder, part, framework)
    options |= {"config": config, "state_dict": state, "output_loading_info": True}
    model, info = cls.from_pretrained(None, *args, ignore_mismatched_sizes=True, **options)
    model.name_or_path = model.config.name_or_path = str(folder)
    return model, info


def _complain(folder: Path, model: Any, info: dict[str, Any], allowed: Iterable[str] = ()) -> None:
    """Raises CheckpointError for tensors that would be random."""
    if wrong := sorted(info["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors have another shape, {name} is {tuple(stored)} and "
            f"should be {tuple(wanted)}: config.json does not fit the weights"
        )
    missing = sorted(
        name for name in set(info["missing_keys"]) - set(allowed) if not _is_computed(model, name)
    )
    if missing:
        held = sorted(info["unexpected_keys"])
        instead = f"; it holds {_few(held)} instead" if held else ""
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing and would be random: "
            f"{_few(missing)}{instead}"
        )


def _is_computed(model: Any, name: str) -> bool:
    """Whether a tensor is sines and cosines, which some files leave out (Marian, Pegasus)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return "Sinusoidal" in type(owner).__name__


def _few(names: list[str], shown: int = 3) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
