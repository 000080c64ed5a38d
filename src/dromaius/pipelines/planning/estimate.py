"""Memory that a task takes: weights counted, the rest by a dry run of the model's own code."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.errors import CheckpointError
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.pipelines import memory
from dromaius.pipelines.planning import dry_run, modes
from dromaius.pipelines.planning.dry_run import Decoding, Peak
from dromaius.pipelines.planning.modes import Weights
from dromaius.pipelines.video import CHUNKS_AT_ONCE

Task = Literal["image", "ask", "reconstruct", "video"]


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    task: Task
    grid: TokenGrid
    """Of the picture that is drawn or read."""
    batch: int = 1
    guidance: bool = True
    prompt_tokens: int = 64


@dataclass(frozen=True)
class Estimate:
    """What a job takes; what it does not need is None."""

    weights: dict[str, Weights]
    """Precision (see `modes.precisions`) -> weights."""
    decoding: Decoding | None
    encode: Peak | None
    decode: Peak | None
    totals: dict[str, int]
    """Mode -> the most that is held on the device at one time."""


def estimate(
    config: Emu3Config, dtype: torch.dtype, job: Job, kind: str, quantized: bool = True
) -> Estimate:
    """The memory of a job in every mode; `quantized`: also of what `dromaius quantize` would make.

    kind: the device's type as torch names it.

    Raises CheckpointError for a half that is missing.
    """
    if config.language_model is None and job.task in ("image", "ask"):
        raise CheckpointError(f"task {job.task!r} needs a language model; the folder holds none")
    if config.vision_tokenizer is None:
        raise CheckpointError("no vision tokenizer: name its folder as vision_tokenizer")
    vision = dry_run.vision_tokenizer(config.vision_tokenizer)
    chunks = CHUNKS_AT_ONCE if job.task == "video" else 0
    height, width = job.grid.height, job.grid.width
    factor = vision.config.spatial_factor
    encode = decode = None
    if job.task != "image":
        encode = dry_run.encode(vision, height * factor, width * factor, chunks)
    if job.task != "ask":
        decode = dry_run.decode(vision, height, width, chunks)
    work = None
    if config.language_model is not None:
        # what is read as it works is no larger for few bits, but for a block that is written out
        full = dry_run.language_model(replace(config, quantization=None), dtype)
        work = _decoding(config, full, job)
    weights: dict[str, Weights] = {}
    totals: dict[str, int] = {}
    forms = modes.precisions(config) if quantized else {"": config}
    for name, form in forms.items():
        language = None
        if form.language_model is not None:
            language = dry_run.language_model(form, dtype)
        weights[name] = modes.weigh(language, vision, config.vocabulary.codebook_size)
        if not name or work:
            beside = modes.written_out(language, kind, dtype) if work else 0
            totals |= modes.totals(name, weights[name], work, encode, decode, beside)
    return Estimate(weights, work, encode, decode, totals)


def _decoding(config: Emu3Config, language: LanguageModel, job: Job) -> Decoding | None:
    if job.task not in ("image", "ask"):
        return None
    settings, ids = config.generation, Vocabulary.from_config(config.vocabulary)
    if job.task == "ask":
        prompt = [0] * (job.prompt_tokens + job.grid.length)
        return dry_run.write(language, prompt, settings.max_new_tokens)
    # pictures of different prompts, each read once; the unwanted prompt is one for all
    prompts = [[row] * job.prompt_tokens for row in range(job.batch)]
    if job.guidance:
        prompts += [[job.batch] * job.prompt_tokens] * job.batch
    sampler = Sampler(top_k=settings.top_k, top_p=settings.top_p)
    span = (ids.visual_start, ids.visual_stop)
    return dry_run.draw(language, prompts, job.grid.length, span, job.guidance, sampler)


def choose(config: Emu3Config, dtype: torch.dtype, grid: TokenGrid, kind: str, room: float) -> str:
    """The first memory mode in which a picture of that grid is drawn, and read, in `room` bytes.

    "low" where there is none.
    """
    if config.language_model is None or config.vision_tokenizer is None:
        return memory.MODES[0]  # one half alone makes room for nobody
    jobs = (Job("image", grid), Job("ask", grid))
    found = [estimate(config, dtype, job, kind, quantized=False).totals for job in jobs]
    for mode in memory.MODES[:-1]:
        if all(totals[mode] <= room for totals in found):
            return mode
    return memory.MODES[-1]
