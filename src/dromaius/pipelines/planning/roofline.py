"""How fast drawing and writing can be: each pass reads all weights and all keys and values once.

No machine is faster than its memory; how far a run is from this bound is measured, not planned.
Prefill and the vision tokenizer are not in these figures.
"""

from dataclasses import dataclass

import torch

from dromaius.models.emu3.config import Emu3Config
from dromaius.pipelines.planning.cards import Card
from dromaius.pipelines.planning.estimate import Job
from dromaius.pipelines.planning.modes import Weights


@dataclass(frozen=True)
class Speed:
    """The bound of one precision."""

    weights: str
    guidance: bool
    bytes: int
    """Read by one pass."""
    milliseconds: float
    """Of one pass."""
    tokens_per_second: float
    """Of all pictures together."""
    seconds: float
    """Until the pictures of a batch (or an answer of full length) are there."""


def speeds(
    config: Emu3Config, weights: dict[str, Weights], card: Card, dtype: torch.dtype, job: Job
) -> list[Speed]:
    """Every precision of `weights`; pictures with and without guidance."""
    shape, grid = config.language_model, job.grid
    assert shape is not None
    drawing, batch = job.task == "image", job.batch
    if drawing:
        passes, visible = grid.drawn, job.prompt_tokens + grid.length / 2
    else:
        passes, batch = config.generation.max_new_tokens, 1
        visible = job.prompt_tokens + grid.length + passes / 2
    token = 2 * shape.num_hidden_layers * shape.key_value_heads * shape.head_size * dtype.itemsize
    found = []
    for name, one in weights.items():
        read = one.low(drawing)
        for guided in (True, False) if drawing else (False,):
            total = round(read + batch * (1 + guided) * visible * token)
            seconds = total / card.bandwidth
            label = name or str(dtype).removeprefix("torch.")
            rate = batch / seconds
            found.append(Speed(label, guided, total, seconds * 1e3, rate, seconds * passes))
    return found
