"""Text to image: requests resolved against the checkpoint's settings, drawn by the engine.

Sizes are in pixels where a name says height or width; grids count codes.
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dromaius.engine.canvas import GridRequest
from dromaius.engine.jacobi import WINDOW
from dromaius.engine.passes import MODES, Passes
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.errors import InputError, warn_once
from dromaius.models.emu3.config import GenerationSettings
from dromaius.models.emu3.prompt import check_grid, generation_grid, generation_prompt
from dromaius.pipelines.drawing import Drawing, Record
from dromaius.pipelines.state import StateFile

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

CPU_WINDOW = 4
"""Drafts of a pass on a CPU, where every token of a pass costs; 16 elsewhere."""
MOST_DRAFTS = 1024
"""Of a pass; more would cost memory, and no pass keeps so many."""


def stream_images(
    model: Emu3,
    prompt: str | Sequence[str],
    height: int | Sequence[int | None] | None = None,
    width: int | Sequence[int | None] | None = None,
    ratio: str | Sequence[str] = "1:1",
    area: int | None = None,
    negative_prompt: str | Sequence[str | None] | None = None,
    guidance: float | Sequence[float | None] | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    temperature: float = 1.0,
    seed: int | Sequence[int] | None = None,
    n: int = 1,
    guided: tuple[float, float] = (0.0, 1.0),
    state: str | Path | StateFile | None = None,
    accelerate: str | None = None,
    window: int | None = None,
) -> Generator[Drawing, None, None]:
    """Draw pictures, yielding the same `Drawing` after each step; see `Emu3.generate_image`."""
    model.require_language_model()
    model.require_vision_tokenizer()  # said now, not after a long drawing
    prompts = [prompt] if isinstance(prompt, str) else prompt
    texts = isinstance(prompts, (list, tuple)) and all(isinstance(p, str) for p in prompts)
    if not texts or not prompts:
        raise InputError("a prompt must be a text, or a list of at least one text")
    if (n := whole(n, "n")) < 1:
        raise InputError(f"n must be at least 1, got {n}")
    settings, count = model.config.generation, len(prompts)
    sampler = _sampler(settings, temperature, top_k, top_p)
    floor = settings.min_p if min_p is None else min_p
    if floor is not None and not (isinstance(floor, (int, float)) and 0 <= floor <= 1):
        raise InputError(f"min_p must lie in [0, 1], got {floor!r}")
    heights, widths = _each(height, count, "height"), _each(width, count, "width")
    ratios, guides = _each(ratio, count, "ratio"), _each(guidance, count, "guidance")
    negatives = _each(negative_prompt, count, "negative_prompt")
    part, file = _guided(guided), None if state is None else StateFile.at(state)
    mode, drafts = _mode(model, accelerate, window)
    coupled = mode == "coupled"  # the only mode on which the pictures depend
    seeds = (seed is None and file and _seeds_of(file, count * n)) or _seeds(seed, count, n)

    grids = [picture_grid(model, heights[p], widths[p], ratios[p], area) for p in range(count)]
    records = [
        Record(
            prompts[p],
            settings.negative_prompt if negatives[p] is None else negatives[p],
            grids[p].height * model.spatial_factor,
            grids[p].width * model.spatial_factor,
            real(guides[p], "guidance", settings.guidance),
            seeds[p * n + copy],
            sampler.temperature,
            sampler.top_k,
            sampler.top_p,
            floor,
            part,
            mode if coupled else None,
            drafts if coupled else None,
        )
        for p in range(count)
        for copy in range(n)
    ]
    every = [grid for grid in grids for _ in range(n)]
    return _run(model, records, every, sampler, file, mode, drafts)


def _mode(model: Emu3, accelerate: str | None, window: int | None) -> tuple[str, int]:
    """What None stands for is filled in; a picture that depends on it gets the same everywhere."""
    mode = "off" if accelerate is None else accelerate
    if mode not in MODES:
        raise InputError(f"accelerate must be one of {', '.join(MODES)}, got {accelerate!r}")
    usual = CPU_WINDOW if model.device.type == "cpu" and mode != "coupled" else WINDOW
    drafts = usual if window is None else whole(window, "window")
    if not 1 <= drafts <= MOST_DRAFTS:
        raise InputError(f"window must be 1 to {MOST_DRAFTS} drafts, got {drafts}")
    return mode, drafts


def _sampler(
    settings: GenerationSettings, temperature: float, top_k: int | None, top_p: float | None
) -> Sampler:
    """0 turns top-k off; None takes the checkpoint's setting."""
    k = settings.top_k if top_k is None else whole(top_k, "top_k")
    p = settings.top_p if top_p is None else real(top_p, "top_p", 1.0)
    try:
        return Sampler(real(temperature, "temperature", 1.0), k or None, p)
    except ValueError as error:
        raise InputError(str(error)) from None


def _run(
    model: Emu3,
    records: Sequence[Record],
    grids: Sequence[TokenGrid],
    sampler: Sampler,
    file: StateFile | None,
    mode: str,
    window: int,
) -> Generator[Drawing, None, None]:
    """The state is written at once, behind each row, and however the drawing ends."""
    drawing = Drawing(model, records, grids)
    begun, last = drawing.begin(file) if file else ([[]] * len(grids), None)
    requests = [_request(model, *given) for given in zip(records, grids, begun, strict=True)]
    passes = Passes(model.require_language_model(), requests, sampler, mode, window, last)
    saved = -1
    try:
        if file:
            drawing.save(file)
            saved = drawing.step
        for codes in passes:
            drawing.advance(codes, passes)
            if file and drawing.closes_row:
                drawing.save(file)
                saved = drawing.step
            yield drawing
    finally:
        if file and drawing.step != saved:
            drawing.save(file)


def _request(model: Emu3, record: Record, grid: TokenGrid, begun: Sequence[int]) -> GridRequest:
    def ids(text: str) -> list[int]:
        tokenizer = model.require_tokenizer()
        return generation_prompt(tokenizer, model.vocabulary, text, grid.height, grid.width)

    prompt, negative = ids(record.prompt), ids(record.negative_prompt)
    model.check_context(max(len(prompt), len(negative)), grid.length)
    return GridRequest(
        prompt,
        grid,
        record.seed,
        negative,
        record.guidance,
        record.min_p,
        record.guided,
        begun,
    )


def picture_grid(
    model: Emu3, height: int | None, width: int | None, ratio: str | None, area: int | None
) -> TokenGrid:
    """The grid of a picture of that size. Raises InputError for a size that cannot be drawn."""
    factor = model.spatial_factor
    if (height is None) != (width is None):
        raise InputError("give both height and width, or neither")
    if height is not None and width is not None:
        sides = whole(height, "height"), whole(width, "width")
        for name, size in zip(("height", "width"), sides, strict=True):
            if size < 1 or size % factor:
                raise InputError(f"{name} must be a multiple of {factor} pixels, got {size}")
        rows, columns = check_grid(sides[0] // factor, sides[1] // factor, factor)
    else:
        area = model.config.image.image_area if area is None else whole(area, "area")
        ratio = "1:1" if ratio is None else ratio
        if not isinstance(ratio, str):
            raise InputError(f"ratio must look like 16:9, got {ratio!r}")
        rows, columns = generation_grid(ratio, area, factor)
    ids = model.vocabulary
    return TokenGrid(
        rows,
        columns,
        ids.visual_start,
        ids.visual_stop,
        ids.end_of_line,
        ids.end_of_frame,
        ids.image_end,
        ids.eos,
    )


def _each(value: Any, count: int, name: str) -> list[Any]:
    """One value for all prompts, or a list with one entry per prompt."""
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise InputError(f"{name} has {len(value)} entries for {count} prompts")
        return list(value)
    return [value] * count


def _seeds(seed: int | Sequence[int] | None, count: int, n: int) -> list[int]:
    """An int gives picture i the seed + i; a list gives each prompt's pictures their own start."""
    if seed is None:
        seed = secrets.randbelow(2**31)
    if isinstance(seed, (list, tuple)):
        if len(seed) != count:
            raise InputError(f"seed has {len(seed)} entries for {count} prompts")
        seeds = [whole(start, "seed") + i for start in seed for i in range(n)]
    else:
        seeds = [whole(seed, "seed") + i for i in range(count * n)]
    if not -(2**63) <= min(seeds) <= max(seeds) < 2**63:
        raise InputError(f"a seed must fit into 64 bits, got {seed}")
    return seeds


def _seeds_of(file: StateFile, count: int) -> list[int] | None:
    """The seeds of a state file's pictures, if there are `count`."""
    found = file.read()
    seeds = [record.get("seed") for record in found.records] if found else []
    usable = [s for s in seeds if type(s) is int and -(2**63) <= s < 2**63]
    # If the file is of another drawing, that is said when it is taken over.
    return usable if len(usable) == count else None


def _guided(part: object) -> tuple[float, float]:
    if isinstance(part, (list, tuple)) and len(part) == 2:
        first, last = (real(share, "guided", math.nan) for share in part)
        if 0 <= first < last <= 1:
            return first, last
    raise InputError(f"guided must be two shares of a picture such as (0, 0.5), got {part!r}")


def whole(value: object, name: str) -> int:
    """A whole number of any integer type. Raises InputError for anything else."""
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what is no index raises
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None


def real(value: object, name: str, default: float) -> float:
    """A finite number, None the default. Raises InputError for anything else."""
    if value is None:
        return default
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return number


def warn_beyond_training(tokens: int, context: int) -> None:
    """Rotary positions have no hard end, but a model was trained up to its context only."""
    warn_once(f"the picture needs {tokens} tokens; the model was trained with {context}")
