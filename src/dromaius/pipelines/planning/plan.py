"""What a model will take on a device, before anything is loaded: memory, and time by the roofline.

Weights are counted from the configuration, what is held beside them by a dry run of the model's own
code (`dry_run`). Memory is in bytes; a "24 GB" card is taken to hold 24 * 10^9: what it has beyond
(24 GiB are 25.8 GB) is left to the driver, to libraries' workspaces and to what an allocator cannot
use.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dromaius.errors import CheckpointError, InputError
from dromaius.io import checkpoint, hub
from dromaius.models.emu3 import layouts
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.prompt import smart_resize
from dromaius.pipelines.emu3 import Emu3
from dromaius.pipelines.image import picture_grid
from dromaius.pipelines.load import PUBLISHED_VISION_TOKENIZER, number_type
from dromaius.pipelines.planning.cards import Card, find_card
from dromaius.pipelines.planning.dry_run import Decoding, Peak
from dromaius.pipelines.planning.estimate import Job, Task, estimate
from dromaius.pipelines.planning.modes import Weights
from dromaius.pipelines.planning.roofline import Speed, speeds

TASKS: tuple[Task, ...] = ("image", "ask", "reconstruct", "video")
PROMPT_TOKENS = 64
"""Tokens that a prompt or a question is taken to have, its frame included."""
SIZES = (8, 12, 16, 24, 80)
"""Gigabytes of the cards that people have."""
MARGIN = 0.1
"""How far a plan may be off (docs/performance.md): what comes closer to a card's size is tight."""


@dataclass(frozen=True)
class Plan:
    """All that is known beforehand; what a task does not need is None."""

    model: str
    task: Task
    card: Card
    dtype: torch.dtype
    height: int
    """Pixels, of the picture that is drawn or read."""
    width: int
    batch: int
    guidance: bool
    weights: Weights
    decoding: Decoding | None
    encode: Peak | None
    decode: Peak | None
    loading: int
    """Peak while the weights are loaded where they are to stay."""
    totals: dict[str, int]
    """Mode -> the most that is held on the device at one time."""
    speeds: list[Speed]

    def fits(self, mode: str, memory: float) -> str:
        """ "yes"; "tight" where less than MARGIN would be left of that many bytes; "no"."""
        total = self.totals[mode]
        if total > memory:
            return "no"
        return "yes" if total <= memory * (1 - MARGIN) else "tight"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        work = self.decoding
        return {
            "model": self.model,
            "task": self.task,
            "device": self.card.name,
            "memory": self.card.memory,
            "bandwidth": round(self.card.bandwidth),
            "bandwidth_source": self.card.source,
            "dtype": str(self.dtype).removeprefix("torch."),
            "height": self.height,
            "width": self.width,
            "batch": self.batch,
            "guidance": self.guidance,
            "parameters": self.weights.parameters,
            "weights": self.weights.to_json(),
            "cache": work and work.cache,
            "prefill": work and vars(work.prefill),
            "step": work and vars(work.step),
            "encode": self.encode and vars(self.encode),
            "decode": self.decode and vars(self.decode),
            "loading": self.loading,
            "modes": [
                {
                    "mode": mode,
                    "bytes": total,
                    "fits": {str(size): self.fits(mode, size * 10**9) for size in SIZES},
                    "fits_device": self.fits(mode, self.card.memory),
                }
                for mode, total in self.totals.items()
            ],
            "speeds": [vars(speed) for speed in self.speeds],
        }


def plan(
    source: str | Path,
    device: str | None = None,
    task: Task = "image",
    height: int | None = None,
    width: int | None = None,
    ratio: str | None = None,
    area: int | None = None,
    batch: int = 1,
    guidance: bool | None = None,
    dtype: str | torch.dtype | None = None,
    vision_tokenizer: str | Path | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Plan:
    """Memory and time of a task. Reads configurations and the heads of weight files, no weights.

    Args:
        source: "nano", a folder (its config.json is enough), or a hub id.
        device: "cpu", "cuda", or a card by name ("RTX 4090"); None is what is here.
        task: "image" draws, "ask" reads a picture and answers, "reconstruct" encodes and decodes,
            "video" does so with a clip, as many frames at once as `encode_video` takes.
        height, width, ratio, area: of the picture, as in `Emu3.generate_image`.
        batch: pictures drawn together.
        guidance: whether an unwanted prompt runs along; None is what the checkpoint says.
        dtype: of the language model, as in `dromaius.load`.
        vision_tokenizer: as in `dromaius.load`.
        prompt_tokens: length of each prompt.

    Raises:
        InputError, CheckpointError, ConfigError: in one line.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r} (known: {', '.join(TASKS)})")
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    config, folders = _configuration(source, vision_tokenizer)
    model = Emu3(config, None, None, None, name=str(source))
    size = picture_grid(model, height, width, ratio, area)
    card = find_card(device)
    number = number_type(dtype, torch.device(card.kind))
    guided = task == "image" and (config.generation.guidance != 1 if guidance is None else guidance)
    factor = model.spatial_factor
    pixels = size.height * factor, size.width * factor
    if task != "image":
        pixels = smart_resize(*pixels, config.image, factor)
        size = picture_grid(model, *pixels, None, None)
    job = Job(task, size, batch, guided, prompt_tokens)
    found = estimate(config, number, job, card.kind)
    weights = found.weights[""]
    return Plan(
        model=str(source),
        task=task,
        card=card,
        dtype=number,
        height=pixels[0],
        width=pixels[1],
        batch=batch,
        guidance=guided,
        weights=weights,
        decoding=found.decoding,
        encode=found.encode,
        decode=found.decode,
        loading=weights.whole + _largest_tensor(folders, weights),
        totals=found.totals,
        speeds=speeds(config, found.weights, card, number, job) if found.decoding else [],
    )


def _configuration(
    source: str | Path, vision_tokenizer: str | Path | None
) -> tuple[Emu3Config, list[Path]]:
    """The configuration, and the folders it was read from."""
    folder = hub.resolve_settings(source)
    config = layouts.read_config(folder)
    if vision_tokenizer is None and config.vision_tokenizer is None:
        if isinstance(source, str) and source.startswith("BAAI/"):
            vision_tokenizer = PUBLISHED_VISION_TOKENIZER
    if vision_tokenizer is None:
        return config, [folder]
    other = hub.resolve_settings(vision_tokenizer)
    return layouts.join(config, layouts.read_config(other)), [folder, other]


def _largest_tensor(folders: list[Path], weights: Weights) -> int:
    """Bytes of the largest tensor as stored; of the embedding where there are no files here."""
    sizes = []
    for folder in folders:
        try:
            sizes += [info.bytes for info in checkpoint.list_tensors(folder).values()]
        except CheckpointError:
            continue  # the configuration is here alone
    return max(sizes, default=weights.embedding)
