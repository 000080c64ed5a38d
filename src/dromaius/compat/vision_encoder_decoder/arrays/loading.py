"""Checkpoint folders -> NumPy arrays of a model or a part, complete or an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.compat.vision_encoder_decoder.sources import find_part, part_config
from dromaius.errors import CheckpointError, ConfigError, warn_once
from dromaius.models.vision_encoder_decoder import arrays, folders
from dromaius.models.vision_encoder_decoder.array_files import read_arrays
from dromaius.models.vision_encoder_decoder.configs import (
    CROSS_ATTENTION,
    decoder_config,
    encoder_config,
)
from dromaius.models.vision_encoder_decoder.folders import few

Params = dict[str, np.ndarray]


def structure(config: Any) -> dict[str, Any]:
    """The configuration as the content of config.json, every value stated."""
    return config.to_dict()


def read_model(
    folder: Path, config: dict[str, Any], framework: str | None, preferred: str
) -> Params:
    """All tensors of a model.

    framework: whose files to read; None takes those of the `preferred` one if they are there.
    Raises CheckpointError for a tensor that is missing or of another shape.
    """
    found = read_arrays(folder, None, _which(folder, framework, preferred))
    wanted = arrays.tensors(config)
    params = {name: value for name, value in found.items() if name in wanted}
    if missing := sorted(set(wanted) - set(params)):
        instead = sorted(set(found) - set(params))
        held = f"; it holds {few(instead)} instead" if instead else ""
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing and would be random: "
            f"{few(missing)}{held}"
        )
    try:
        arrays.check(config, params)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return params


def read_part(
    source: Any, role: str, options: dict[str, Any], preferred: str
) -> tuple[Any, Params]:
    """The configuration of a pretrained "encoder" or "decoder", and its tensors.

    options: arguments `encoder_...` or `decoder_...` of `from_encoder_decoder_pretrained`.
    Names are those in its own files, brought under the model's prefixes where a head's differ.
    """
    if options.pop("model", None) is not None:
        raise ConfigError(
            f"{role}_model: another framework's object is not taken; save it and give its folder"
        )
    folder, framework = find_part(source, role, options)
    config, unused = part_config(folder, options)
    if unused:
        raise TypeError(f"the {role} takes no {', '.join(sorted(unused))}")
    config = encoder_config(config) if role == "encoder" else decoder_config(config)
    return config, read_arrays(folder, role, _which(folder, framework, preferred))


def join(config: dict[str, Any], encoder: Params, decoder: Params, seed: int) -> Params:
    """Both parts' tensors under the model's names; cross-attention and projection may be new.

    Raises CheckpointError if any other tensor is missing or has another shape.
    """
    params = arrays.new(config, seed)
    for role, found in (("encoder", encoder), ("decoder", decoder)):
        wanted = [name.partition(".")[2] for name in params if name.startswith(f"{role}.")]
        fitted = _fitted(found, wanted)
        missing = [name for name in wanted if name not in fitted]
        if role == "decoder":
            missing = _without_new(config, missing)
        if missing:
            raise CheckpointError(
                f"the {role}'s files lack {len(missing)} tensors that would be random: "
                f"{few(missing)}"
            )
        params |= {f"{role}.{name}": fitted[name] for name in wanted if name in fitted}
    arrays.check(config, params)
    return params


def _without_new(config: dict[str, Any], missing: list[str]) -> list[str]:
    """Missing tensors of a decoder but those that a pretrained one may lack."""
    missing = [name for name in missing if not any(word in name for word in CROSS_ATTENTION)]
    heads = ("cls.", "lm_head.", "output_projection.")
    new = [name for name in missing if name.startswith(heads)]
    if new:
        kind = config["decoder"]["model_type"]
        warn_once(f"the head of the {kind} decoder is new and must be trained: {few(new)}")
    return [name for name in missing if name not in new]


def _fitted(found: Mapping[str, np.ndarray], wanted: Iterable[str]) -> Params:
    """The tensors under the wanted names: a level in front of all may be too many or absent.

    A bare BERT lacks `bert.`, a ViT with a classifier has `vit.`.
    """
    names = set(wanted)
    extra = {f"{name.partition('.')[0]}." for name in found}
    absent = {f"{name.partition('.')[0]}." for name in names}
    options: list[Params] = [dict(found)]
    options += [{p + name: value for name, value in found.items()} for p in sorted(absent)]
    options += [{name.removeprefix(p): v for name, v in found.items()} for p in sorted(extra)]
    return max(options, key=lambda option: len(names & set(option)))


def _which(folder: Path, framework: str | None, preferred: str) -> str | None:
    return framework or (preferred if preferred in folders.held(folder) else None)
