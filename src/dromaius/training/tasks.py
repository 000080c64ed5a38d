"""From a recipe to a running task: the table of what can be trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dromaius.data.pictures import PictureSettings
from dromaius.errors import ConfigError
from dromaius.models.emu3.config import VisionTokenizerConfig
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
    task = VisionTokenizerTask(
        p["model"], p["objective"], p["data"], p["heldout"], p["loop"].seed
    )
    return Plan(task, p["loop"], p["optimizer"])


TASKS: dict[str, Callable[[dict[str, Any]], Plan]] = {"vision_tokenizer": vision_tokenizer}


def make_plan(recipe: dict[str, Any]) -> Plan:
    """Raises ConfigError for an unknown task, key or value."""
    name = recipe.get("task")
    if name not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name](recipe)
