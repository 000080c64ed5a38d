"""The model to be trained: built as the recipe says, or taken from a folder."""

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dromaius.data.order import number_for
from dromaius.errors import ConfigError
from dromaius.files import write_text
from dromaius.models.vision_encoder_decoder import parts
from dromaius.training.vision_encoder_decoder import tokens
from dromaius.training.vision_encoder_decoder.settings import ModelSettings

_FOLLOWING = (
    "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "is_decoder", "add_cross_attention", "is_encoder_decoder",
)  # fmt: skip
"""Keys of a part that follow from the tokens or the pair."""
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Reader:
    """A model with what turns pictures and texts into its numbers."""

    model: Any
    """A `VisionEncoderDecoderModel`."""
    tokenizer: Any
    height: int
    width: int
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    @property
    def longest(self) -> int:
        """Tokens that the decoder has positions for, start and end among them."""
        return parts.max_positions(self.model.decoder) or 512


def build(s: ModelSettings, texts: Sequence[str], seed: int) -> Reader:
    """A new model whose tokens are those of the texts, or the one in `s.start`.

    Raises ConfigError naming a key of a part that its configuration does not have.
    """
    if s.start:
        return _started(s)
    from dromaius.compat.vision_encoder_decoder import (
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
    )

    encoder = part_config(s.encoder, "encoder")
    decoder = part_config(s.decoder, "decoder")
    longest = int(getattr(decoder, "max_position_embeddings", None) or 512)
    if s.vocabulary:
        tokenizer = tokens.piece_tokenizer(texts, s.vocabulary, longest)
    else:
        tokenizer = tokens.character_tokenizer(texts, longest)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    decoder.vocab_size = len(tokenizer)
    for name, value in ids.items():
        setattr(decoder, name, value)
    make: Any = VisionEncoderDecoderConfig  # any attribute is allowed, which its types do not say
    config = make(
        encoder=encoder,
        decoder=decoder,
        **ids,
        decoder_start_token_id=tokenizer.bos_token_id,
        max_length=longest,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(number_for(seed, "init"))
        model = VisionEncoderDecoderModel(config=config)
    return Reader(model, tokenizer, *_size(s, encoder))


def part_config(table: dict[str, Any], name: str) -> Any:
    """A part's configuration of transformers. Raises ConfigError naming what is wrong."""
    from transformers import CONFIG_MAPPING

    kind = table["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ConfigError(f"model.{name}: transformers knows no model_type {kind!r}")
    cls = CONFIG_MAPPING[kind]
    known = set(cls().to_dict()) | set(cls.attribute_map)
    for key in table:
        if key not in known or key in _FOLLOWING:
            reason = "follows from the tokens" if key in _FOLLOWING else f"of {kind} is unknown"
            raise ConfigError(f"unknown key model.{name}.{key}: it {reason}")
    try:
        return cls(**copy.deepcopy({k: v for k, v in table.items() if k != "model_type"}))
    except Exception as error:  # a value of the wrong kind: transformers raises many
        said = " ".join(str(error).split())
        raise ConfigError(f"model.{name}: {said}") from error


def _started(s: ModelSettings) -> Reader:
    """A model of a folder or hub id, with its tokenizer and its picture's size and scale."""
    from dromaius.compat.vision_encoder_decoder import (
        VisionEncoderDecoderModel,
        load_processor,
    )

    model = VisionEncoderDecoderModel.from_pretrained(s.start, dtype=torch.float32)
    processor = load_processor(s.start)
    if model.config.decoder_start_token_id is None:
        model.use_tokenizer(processor.tokenizer)
    images = processor.image_processor
    mean, std = (tuple(getattr(images, name, None) or HALF) for name in ("image_mean", "image_std"))
    return Reader(model, processor.tokenizer, *_size(s, model.config.encoder), mean, std)


def _size(s: ModelSettings, encoder: Any) -> tuple[int, int]:
    """Height and width of the pictures."""
    stated = getattr(encoder, "image_size", None)
    pair = (stated, stated) if isinstance(stated, int) else tuple(stated or (0, 0))
    height, width = s.height or int(pair[0]), s.width or int(pair[1])
    if not height or not width:
        raise ConfigError(f"{encoder.model_type} states no image_size: give model.height and width")
    return height, width


def export(folder: Path, reader: Reader, dtype: str) -> None:
    """A folder that transformers and we load: weights, configurations, tokenizer, processor.

    The weights are stored as `dtype`; config.json says float32, so that they are computed with in
    that unless a caller asks for something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(reader.model).to(device="cpu", dtype=getattr(torch, dtype))
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as name:
        model.save_pretrained(name)
        reader.tokenizer.save_pretrained(name)
        for path in sorted(Path(name).iterdir()):
            if path.name == "config.json":
                single = {"dtype": "float32"}
                config = _changed(path, single)
                config |= {part: config[part] | single for part in ("encoder", "decoder")}
                _write_json(folder / path.name, config)
            elif path.name == "tokenizer_config.json":
                # transformers 5 has two names for one class; 4 knows only this one
                kind = type(reader.tokenizer).__name__
                known = {"TokenizersBackend": "PreTrainedTokenizerFast"}.get(kind, kind)
                content = _changed(path, {"tokenizer_class": known})
                for where in ("is_local", "local_files_only"):  # of the folder it was loaded from
                    content.pop(where, None)
                _write_json(folder / path.name, content)
            else:
                os.replace(path, folder / path.name)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": reader.height, "width": reader.width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(reader.mean),
        "image_std": list(reader.std),
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _changed(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) | values


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
