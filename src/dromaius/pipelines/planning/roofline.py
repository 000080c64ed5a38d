"""How fast drawing and writing can be: each pass reads all weights and all keys and values once.

No machine is faster than its memory; how far a run is from this bound is measured, not planned.
Prefill and the vision tokenizer are not in these figures.
"""

from dataclasses import dataclass

import torch

from dromaius.engine.token_grid import TokenGrid
from dromaius.models.emu3.config import Emu3Config
from dromaius.pipelines.planning.cards import Card
from dromaius.pipelines.planning.modes import BITS, Weights


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
    config: Emu3Config,
    weights: Weights,
    card: Card,
    dtype: torch.dtype,
    task: str,
    grid: TokenGrid,
    batch: int,
    prompt_tokens: int,
) -> list[Speed]:
    """Full precision, int8 and int4; pictures with and without guidance."""
    shape = config.language_model
    assert shape is not None
    drawing = task == "image"
    if drawing:
        passes, visible = grid.drawn, prompt_tokens + grid.length / 2
        head = weights.visual_head
    else:
        passes = config.generation.max_new_tokens
        visible = prompt_tokens + grid.length + passes / 2
        head = weights.head or weights.embedding
        batch = 1
    token = 2 * shape.num_hidden_layers * shape.key_value_heads * shape.head_size * dtype.itemsize
    found = []
    for name in (str(dtype).removeprefix("torch."), *BITS):
        linear = weights.linear
        if name in BITS:
            linear = round(weights.linear_parameters * BITS[name] / 8)
        for guided in (True, False) if drawing else (False,):
            rows = batch * (1 + guided)
            cache = rows * visible * token
            read = round(linear + weights.norms + head + cache)
            seconds = read / card.bandwidth
            rate = batch / seconds
            found.append(Speed(name, guided, read, seconds * 1e3, rate, seconds * passes))
    return found
