"""From a name or folder to a model that is ready to work."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from dromaius.errors import CheckpointError, InputError
from dromaius.files import read_bytes
from dromaius.io import hub, shards
from dromaius.io.pages import use_large_pages
from dromaius.models.emu3 import convert, layouts, weights
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.nn.kernels import multiplies_bfloat16
from dromaius.pipelines.emu3 import Emu3
from dromaius.pipelines.memory import MODES, Stage, StagedLanguageModel, StagedVisionTokenizer
from dromaius.tokenizers import find_tokenizer

if TYPE_CHECKING:
    from dromaius.pipelines.reading.image_to_text import ImageToText

PUBLISHED_VISION_TOKENIZER = "BAAI/Emu3-VisionTokenizer"
_MAX_CONFIG_BYTES = 16 * 2**20


def load(
    source: str | Path,
    vision_tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory: str = "resident",
) -> Emu3 | ImageToText:
    """See `dromaius.load`."""
    if memory not in (*MODES, "auto"):
        raise InputError(f"memory must be one of {', '.join(MODES)}, auto, got {memory!r}")
    folder = hub.resolve(source)
    if not is_vision_encoder_decoder(folder):
        return load_emu3(source, vision_tokenizer, device, dtype, memory)
    if vision_tokenizer is not None or memory not in ("resident", "auto"):
        raise InputError(f"{source}: a vision tokenizer and memory modes are for Emu3 models")
    from dromaius.pipelines.reading.load import load as load_image_to_text  # needs transformers

    place = _device(device)
    return load_image_to_text(folder, _name(source), place, number_type(dtype, place))


def is_vision_encoder_decoder(folder: Path) -> bool:
    """Whether config.json says that a folder is one; what is wrong with it others say."""
    try:
        data = json.loads(read_bytes(folder / "config.json", _MAX_CONFIG_BYTES))
    except (ValueError, RecursionError):  # our own errors are ValueErrors too
        return False
    return isinstance(data, dict) and data.get("model_type") == "vision-encoder-decoder"


def load_emu3(
    source: str | Path,
    vision_tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory: str = "resident",
) -> Emu3:
    """As `load`, for a model of the Emu3 family."""
    folder = hub.resolve(source)
    config = layouts.read_config(folder)
    vision_folder = _vision_folder(
        source, folder, config.vision_tokenizer is None, vision_tokenizer
    )
    if vision_folder is not None and vision_folder != folder:
        vision = layouts.read_config(vision_folder)
        config = layouts.join(config, vision)
    tokenizer = find_tokenizer(folder)
    if config.language_model is not None and tokenizer is not None:
        ids, known = tokenizer.vocab_size, config.language_model.vocab_size
        if ids > known:
            raise CheckpointError(
                f"{folder}: the tokenizer has {ids} ids, the language model only {known}"
            )
    place = _device(device)
    number = number_type(dtype, place)
    if memory == "auto":
        memory = _fitting(config, place, number)
    language, vision_model = _halves(config, folder, vision_folder, place, number, memory)
    folders = [folder] if vision_folder in (None, folder) else [folder, vision_folder]
    return Emu3(
        config=config,
        language_model=language,
        vision_tokenizer=vision_model,
        memory=memory,
        tokenizer=tokenizer,
        name=_name(source),
        folders=tuple(f for f in folders if f is not None),
        hash=shards.file_hash(*(f for f in folders if f is not None)),
        layout=layouts.detect(folder),
    )


def _name(source: str | Path) -> str:
    return str(source) if not Path(source).exists() else Path(source).resolve().name


def _fitting(config: Emu3Config, device: torch.device, dtype: torch.dtype) -> str:
    """The first memory mode in which a picture of the checkpoint's usual size fits the device."""
    from dromaius.pipelines.image import picture_grid
    from dromaius.pipelines.planning import cards, estimate, plan

    grid = picture_grid(Emu3(config, None, None, None), None, None, None, None)
    room = cards.free_memory(device) * (1 - plan.MARGIN)
    return estimate.choose(config, dtype, grid, device.type, room)


def _halves(
    config: Emu3Config,
    folder: Path,
    vision_folder: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    memory: str,
) -> tuple[LanguageModel | None, VisionTokenizer | None]:
    """Both halves, or what stands in for them; None for one that is not there."""
    language = vision = None
    if memory == "resident":
        if config.language_model is not None:
            language = weights.load_language_model(folder, config, device, dtype)
            use_large_pages(language)
        if vision_folder is not None:
            vision = weights.load_vision_tokenizer(vision_folder, config, device)
        return language, vision
    # what is missing or misshapen is said now, not when its turn comes
    given = [folder] if vision_folder in (None, folder) else [folder, vision_folder]
    convert.check_tensors([each for each in given if each is not None], config)
    stage = Stage(device)
    if (shape := config.language_model) is not None:
        fill = partial(weights.load_language_model, folder, config, device, dtype, memory == "low")
        # it does all that pipelines ask of a language model
        language = cast(LanguageModel, StagedLanguageModel(stage, dtype, fill, shape))
    if vision_folder is not None:
        assert config.vision_tokenizer is not None
        read = partial(weights.load_vision_tokenizer, vision_folder, config, device)
        vision = cast(VisionTokenizer, StagedVisionTokenizer(stage, read, config.vision_tokenizer))
    return language, vision


def _vision_folder(
    source: str | Path, folder: Path, absent: bool, given: str | Path | None
) -> Path | None:
    """Where the vision tokenizer lies: as given, in the folder itself, or beside a BAAI model."""
    if given is not None:
        return hub.resolve(given)
    if not absent:
        return folder
    if isinstance(source, str) and source.startswith("BAAI/"):
        return hub.resolve(PUBLISHED_VISION_TOKENIZER)  # its language models come without one
    return None


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {_first_line(error)}") from None
    return place


def number_type(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """float32 on a CPU and bfloat16 on a GPU unless asked otherwise.

    "auto" is bfloat16 on a CPU too, where the processor multiplies it.
    """
    if dtype == "auto" and device.type == "cpu" and multiplies_bfloat16():
        return torch.bfloat16
    if dtype in (None, "auto"):
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    number = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(number, torch.dtype) or not number.is_floating_point:
        raise InputError(f"dtype {dtype!r} is not a floating-point type such as 'bfloat16'")
    return number


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
