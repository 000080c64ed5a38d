"""From a recipe to a running task: the table of what can be trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dromaius.data.pictures import PictureSettings
from dromaius.errors import ConfigError
from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig
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
from dromaius.training.vision_tokenizer import ObjectiveSettings, VisionTokenizerTask


@dataclass(frozen=True)
class Plan:
    """A task with what the loop needs besides it."""

    task: Task
    loop: LoopSettings
    optimizer: OptimizerSettings


def vision_tokenizer(recipe: dict[str, Any]) -> Plan:
    """Tables: loop, optimizer, model, objective, data, heldout."""
    kinds = {
        "loop": LoopSettings,
        "optimizer": OptimizerSettings,
        "model": VisionTokenizerConfig,
        "objective": ObjectiveSettings,
        "data": PictureSettings,
        "heldout": PictureSettings,
    }
    p = read_sections(recipe, kinds)
    task = VisionTokenizerTask(p["model"], p["objective"], p["data"], p["heldout"], p["loop"].seed)
    return Plan(task, p["loop"], p["optimizer"])


def language_model(recipe: dict[str, Any]) -> Plan:
    """Tables: loop, optimizer, model, export; start, samples (optional); arrays: data, heldout.

    The model's vocabulary size is that of the base folder's ids and need not be given.
    """
    kinds = {
        "loop": LoopSettings,
        "optimizer": OptimizerSettings,
        "model": LanguageModelConfig,
        "data": SampleSettings,
        "heldout": HeldoutSettings,
        "export": ExportSettings,
    }
    optional = {"start": StartSettings, "samples": PromptList}
    kinds |= {name: kind for name, kind in optional.items() if name in recipe}
    if "export" not in recipe or "base" not in recipe["export"]:
        raise ConfigError("the recipe has no export.base")
    ids = read_config(Path(recipe["export"]["base"])).vocabulary
    model = {"vocab_size": ids.visual_start + ids.codebook_size} | recipe.get("model", {})
    p = read_sections(recipe | {"model": model}, kinds, lists=("data", "heldout"))
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


TASKS: dict[str, Callable[[dict[str, Any]], Plan]] = {
    "vision_tokenizer": vision_tokenizer,
    "language_model": language_model,
}


def make_plan(recipe: dict[str, Any]) -> Plan:
    """Raises ConfigError for an unknown task, key or value."""
    name = recipe.get("task")
    if name not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name](recipe)
