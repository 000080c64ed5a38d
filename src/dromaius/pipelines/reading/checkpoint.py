"""A checkpoint folder -> the model, and what it says of starting and ending a text.

transformers' parts get their tensors through transformers' own loader, which knows each family's
old names; it is imported when a folder is loaded, not before.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dromaius.errors import CheckpointError, ConfigError, warn_once
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.files import check_loaded, read_state
from dromaius.models.vision_encoder_decoder.folders import few
from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder
from dromaius.pipelines.reading.tokenizer import read_json

MODEL_TYPE = "vision-encoder-decoder"
_PROJECTION = "enc_to_dec_proj."
_UNUSED = re.compile(r"(^|\.)pooler\.|\.position_ids$|\.attn\.(masked_)?bias$")
"""Tensors that nothing uses: poolers, numbers 0, 1, 2 ..., GPT2's old masks."""


@dataclass(frozen=True)
class TextRules:
    """How a text begins and ends, from generation_config.json, config.json, the decoder's own."""

    start: int
    end: tuple[int, ...]
    """Ids that close a text; none: it goes on to its longest."""
    pad: int
    max_new_tokens: int | None = None
    """Beyond the start; None where no file says it."""
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_length: int = 0
    """Tokens, the start included, before which no text ends."""
    bad_words: tuple[tuple[int, ...], ...] = ()


def read_configs(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The encoder's and the decoder's configuration, and the whole config.json.

    Raises CheckpointError or ConfigError for a file that cannot be used.
    """
    from transformers import CONFIG_MAPPING

    data = read_json(folder / "config.json")
    if data.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{folder} holds no {MODEL_TYPE} model but {data.get('model_type')}")
    configs = []
    for role in ("encoder", "decoder"):
        part = data.get(role)
        if not isinstance(part, dict):
            raise ConfigError(f"{folder}/config.json has no {role}")
        kind = str(part.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ConfigError(f"{folder}: transformers knows no model_type {kind!r} ({role})")
        try:
            configs.append(CONFIG_MAPPING[kind](**part))
        except Exception as error:  # a value of the wrong kind: transformers raises many
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{folder}/config.json, {role}: {reason}") from error
    return parts.encoder_config(configs[0]), parts.decoder_config(configs[1]), data


def load(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> VisionEncoderDecoder:
    """The model in evaluation mode; on the meta device without reading its weights.

    Raises CheckpointError when a tensor is missing or has another shape, ConfigError for parts that
    cannot work together.
    """
    encoder_config, decoder_config, _ = read_configs(folder)
    parts.memory_width(encoder_config, decoder_config)
    if device.type == "meta":
        with torch.device(device):
            encoder = parts.build_encoder(encoder_config)
            decoder = parts.build_decoder(decoder_config)
            return VisionEncoderDecoder(encoder, decoder).eval()
    state = read_state(folder)
    encoder_class = parts.encoder_class(encoder_config)
    encoder = _part(
        folder, encoder_class, encoder_config, _below(state, "encoder."), dtype,
        **parts.without_pooler(encoder_class),
    )  # fmt: skip
    decoder_class = parts.decoder_class(decoder_config)
    decoder = _part(folder, decoder_class, decoder_config, _below(state, "decoder."), dtype)
    model = VisionEncoderDecoder(encoder, decoder).to(dtype).eval()
    projection = {name: t.to(dtype) for name, t in state.items() if name.startswith(_PROJECTION)}
    _load_projection(folder, model, projection)
    return model.requires_grad_(False).to(device)


def read_rules(folder: Path, decoder: Any) -> TextRules:
    """How the model's texts begin and end. `decoder`: its configuration.

    Raises CheckpointError if no file says how they begin, or a setting is of the wrong kind.
    """
    try:
        return _rules(folder, decoder)
    except CheckpointError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{folder}: settings of generation: {error}") from error


def _rules(folder: Path, decoder: Any) -> TextRules:
    whole = read_json(folder / "config.json")
    path = folder / "generation_config.json"
    sources: list[Any] = [read_json(path) if path.is_file() else {}, whole, decoder.to_dict()]

    def said(*names: str, where: list[Any] = sources[:2]) -> Any:
        found = (s[name] for name in names for s in where if s.get(name) is not None)
        return next(found, None)

    def said_of_ids(*names: str) -> Any:
        # Of a decoder's own settings only the ids count: transformers 4 wrote its defaults of
        # decoding there, such as texts of 20 tokens.
        return said(*names, where=sources)

    start = said_of_ids("decoder_start_token_id", "bos_token_id")
    end = _ids(said_of_ids("eos_token_id"))
    start = start[0] if isinstance(start, list) and start else start
    if not isinstance(start, int):
        raise CheckpointError(
            f"{folder} does not say with which token a text starts: set decoder_start_token_id in "
            "generation_config.json"
        )
    pad, stop = said_of_ids("pad_token_id"), said("early_stopping")
    longest, new = said("max_length"), said("max_new_tokens")
    if new is None and isinstance(longest, int):
        new = longest - 1  # transformers counts the start
    words = said("bad_words_ids") or []
    return TextRules(
        start=start,
        end=end,
        pad=pad if isinstance(pad, int) else end[0] if end else start,
        max_new_tokens=new if isinstance(new, int) and new > 0 else None,
        beams=max(1, int(said("num_beams") or 1)),
        length_penalty=float(1.0 if (p := said("length_penalty")) is None else p),
        early_stopping="never" if stop == "never" else bool(stop),
        repetition_penalty=float(said("repetition_penalty") or 1.0),
        no_repeat_ngram=int(said("no_repeat_ngram_size") or 0),
        min_length=int(said("min_length") or 0),
        bad_words=tuple(tuple(word) for word in words),
    )


def check_tokenizer(folder: Path, tokenizer: Any, model: VisionEncoderDecoder) -> None:
    """Raises CheckpointError if the tokenizer has more tokens than the decoder."""
    size = model.decoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the decoder {size}: they do not "
            "belong together; take the tokenizer that the decoder was trained with"
        )


def _part(
    folder: Path, cls: Any, config: Any, state: dict[str, Tensor], dtype: torch.dtype, **more: Any
) -> Any:
    if not state:
        role = "encoder" if "pixel_values" in parts.arguments(cls.forward) else "decoder"
        raise CheckpointError(f"{folder} holds no tensors of the {role}")
    with quietly():
        model, info = cls.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True, **more,
        )  # fmt: skip
    check_loaded(folder, model, info)
    unused = sorted(name for name in info["unexpected_keys"] if not _UNUSED.search(name))
    if unused:
        warn_once(f"{folder}: {len(unused)} tensors have no place in the model: {few(unused)}")
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, transformers shows no bars and no tables: what they say is said by us.

    Nor do the libraries that it imports along the way (torchao tells of each of its parts that this
    machine has no use for).
    """
    from transformers.utils import logging as shown

    bars, disabled = shown.is_progress_bar_enabled(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    shown.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(disabled)
        if bars:
            shown.enable_progress_bar()


def _load_projection(
    folder: Path, model: VisionEncoderDecoder, state: Mapping[str, Tensor]
) -> None:
    wanted = {n: t.shape for n, t in model.state_dict().items() if n.startswith(_PROJECTION)}
    for name, shape in wanted.items():
        if name not in state:
            raise CheckpointError(f"{folder}: 1 tensor is missing and would be random: {name}")
        if state[name].shape != shape:
            raise CheckpointError(
                f"{folder}: {name} is {tuple(state[name].shape)} and should be {tuple(shape)}: "
                "config.json does not fit the weights"
            )
    model.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def _ids(value: Any) -> tuple[int, ...]:
    given = value if isinstance(value, list) else [value]
    return tuple(i for i in given if isinstance(i, int))
