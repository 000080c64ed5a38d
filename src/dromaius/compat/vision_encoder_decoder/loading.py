"""Checkpoint folders -> models: every tensor comes from the files, or loading fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dromaius.compat.vision_encoder_decoder.configuration import TOKEN_IDS
from dromaius.compat.vision_encoder_decoder.sources import (
    find,
    find_part,
    part_config,
    read_config,
    read_generation_config,
)
from dromaius.errors import warn_once
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.files import check_loaded, read_state
from dromaius.models.vision_encoder_decoder.folders import few
from dromaius.models.vision_encoder_decoder.foreign import Part


def load_model(cls: Any, load: Callable[..., Any], source: Any, *args: Any, **kwargs: Any) -> Any:
    """Does what `VisionEncoderDecoderModel.from_pretrained` documents.

    load: transformers' own `from_pretrained`, which gives tensors their places in the parts.
    """
    if kwargs.get("state_dict") is not None:
        return load(source, *args, **kwargs)
    folder, framework = find(source, kwargs)
    config, given = read_config(folder, kwargs)
    generation = read_generation_config(folder, kwargs, given)
    want_info = kwargs.pop("output_loading_info", False)
    state = read_state(folder, None, framework)
    kwargs |= {"config": config, "state_dict": state, "output_loading_info": True}
    model, info = load(None, *args, ignore_mismatched_sizes=True, **kwargs)
    check_loaded(folder, model, info)
    parts.mend_position_tables(model.decoder)
    model.name_or_path = model.config.name_or_path = str(source)
    if generation is not None:
        model.generation_config = generation
    for name in set(TOKEN_IDS) & set(given):
        setattr(model.generation_config, name, given[name])
    return (model, info) if want_info else model


def load_encoder(source: Any, *args: Any, **options: Any) -> Any:
    """A pretrained image encoder without its head; options as `encoder_...` of the model's."""
    if (model := options.pop("model", None)) is not None:
        return model
    folder, framework = find_part(source, "encoder", options)
    config, options = part_config(folder, options)
    config = parts.encoder_config(config)
    cls = parts.encoder_class(config)
    options = parts.without_pooler(cls) | options
    model, info = _load_part(cls, folder, "encoder", framework, config, *args, **options)
    check_loaded(folder, model, info, allowed=[n for n in info["missing_keys"] if "pooler" in n])
    return model


def load_decoder(source: Any, **options: Any) -> Any:
    """A pretrained decoder; cross-attention that its files lack is new."""
    if (model := options.pop("model", None)) is not None:
        return model
    folder, framework = find_part(source, "decoder", options)
    config, options = part_config(folder, options)
    config = parts.decoder_config(config)
    cls = parts.decoder_class(config)
    model, info = _load_part(cls, folder, "decoder", framework, config, **options)
    body = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    new = [name for name in missing if any(word in name for word in parts.CROSS_ATTENTION)]
    head = [name for name in missing if not name.startswith(body)]
    check_loaded(folder, model, info, allowed=new + head)
    if head:
        warn_once(f"{source}: the head of the decoder is new and must be trained: {few(head)}")
    parts.mend_position_tables(model)
    return model


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
