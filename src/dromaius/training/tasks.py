"""From a recipe to a running task: the table of what can be trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dromaius.data.pictures import PictureSettings
from dromaius.errors import ConfigError
from dromaius.models.emu3.config import LanguageModelConfig, Section, VisionTokenizerConfig
from dromaius.models.emu3.layouts import read_config
from dromaius.training.language_model import (
    ExportSettings,
    HeldoutSettings,
    LanguageModelTask,
    PromptList,
    SampleSettings,
    StartSettings,
)
from dromaius.training.loop import LoopSettings, Task
from dromaius.training.optimizer import OptimizerSettings
from dromaius.training.recipe import read_sections
from dromaius.training.vision_encoder_decoder.settings import (
    AugmentationSettings,
    FolderSettings,
    ModelSettings,
    TextDataSettings,
    TextObjectiveSettings,
)
from dromaius.training.vision_tokenizer import ObjectiveSettings, VisionTokenizerTask


@dataclass(frozen=True)
class Plan:
    """A task with what the loop needs besides it."""

    task: Task
    loop: LoopSettings
    optimizer: OptimizerSettings


TABLES: dict[str, dict[str, type[Section]]] = {
    "vision_tokenizer": {
        "loop": LoopSettings,
        "optimizer": OptimizerSettings,
        "model": VisionTokenizerConfig,
        "objective": ObjectiveSettings,
        "data": PictureSettings,
        "heldout": PictureSettings,
    },
    "language_model": {
        "loop": LoopSettings,
        "optimizer": OptimizerSettings,
        "model": LanguageModelConfig,
        "data": SampleSettings,
        "heldout": HeldoutSettings,
        "export": ExportSettings,
        "start": StartSettings,
        "samples": PromptList,
    },
    "vision_encoder_decoder": {
        "loop": LoopSettings,
        "optimizer": OptimizerSettings,
        "model": ModelSettings,
        "objective": TextObjectiveSettings,
        "data": TextDataSettings,
        "heldout": TextDataSettings,
        "augmentation": AugmentationSettings,
        "export": FolderSettings,
    },
}
"""The tables of each task's recipe."""
LISTS = ("data", "heldout")
"""Of a language model: arrays of tables, [[data]] and [[heldout]]."""
OPTIONAL = ("start", "samples")
"""Of a language model: tables that may be absent."""


def vision_tokenizer(recipe: dict[str, Any]) -> Plan:
    """Pictures in, the same pictures out."""
    p = read_sections(recipe, TABLES["vision_tokenizer"])
    task = VisionTokenizerTask(p["model"], p["objective"], p["data"], p["heldout"], p["loop"].seed)
    return Plan(task, p["loop"], p["optimizer"])


def language_model(recipe: dict[str, Any]) -> Plan:
    """The model's vocabulary size is that of the base folder's ids and need not be given."""
    if "export" not in recipe:
        raise ConfigError("the recipe has no table [export]")
    base = ExportSettings.from_dict(recipe["export"], "export").base
    ids = read_config(Path(base)).vocabulary
    model = recipe.get("model", {})
    if isinstance(model, dict):  # if it is none, `read_sections` says so
        model = {"vocab_size": ids.visual_start + ids.codebook_size} | model
    recipe = recipe | {"model": model}
    p = read_sections(recipe, TABLES["language_model"], lists=LISTS, optional=OPTIONAL)
    task = LanguageModelTask(
        p["model"],
        p["data"],
        p["heldout"],
        p["export"],
        p.get("start"),
        ids,
        p["loop"].seed,
        p.get("samples"),
    )
    return Plan(task, p["loop"], p["optimizer"])


def vision_encoder_decoder(recipe: dict[str, Any]) -> Plan:
    """Pictures in, their texts out."""
    from dromaius.training.vision_encoder_decoder.task import VisionEncoderDecoderTask

    tables = TABLES["vision_encoder_decoder"]
    p = read_sections(recipe, tables, optional=("augmentation", "export"))
    loop = p["loop"]
    task = VisionEncoderDecoderTask(
        p["model"],
        p["objective"],
        p["data"],
        p["heldout"],
        p.get("augmentation", AugmentationSettings()),
        p.get("export", FolderSettings()),
        loop.seed,
        loop.accumulate,
    )
    return Plan(task, loop, p["optimizer"])


TASKS: dict[str, Callable[[dict[str, Any]], Plan]] = {
    "vision_tokenizer": vision_tokenizer,
    "language_model": language_model,
    "vision_encoder_decoder": vision_encoder_decoder,
}


def make_plan(recipe: dict[str, Any]) -> Plan:
    """Raises ConfigError for an unknown task, key or value."""
    name = recipe.get("task")
    if name not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name](recipe)
