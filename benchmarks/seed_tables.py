"""The inference rows of seed 001's performance tables, with what this machine does beside them.

    python -m benchmarks.seed_tables [--full | --scaled] [--device cuda] [--repeats 3] [--json]

The seed's figures are MindSpore's on one Ascend Atlas 800T A2, for the published models in
bfloat16. Ours are for random weights: how fast a model is does not depend on what it has learnt.
On a GPU the models have their published sizes. On a CPU that would take hours, so there both model
and task are scaled down unless --full is given; every scaled row says what was scaled and has no
ratio, because it is not the same work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.machine import facts, seconds, show
from benchmarks.t2i import IDS, NEGATIVE, PROMPT, TOP_K, header
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids, write_text
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer

GUIDANCE = 3.0
FRAMES = 4


@dataclass(frozen=True)
class SeedRow:
    """One line of a table of the seed."""

    task: str
    """Name of the figure of ours that belongs beside it."""
    setting: str
    seconds: float | None
    """Seconds a step, where the seed gives them."""
    rate: float
    """Pictures a second, or tokens a second."""


SEED = [
    SeedRow("image 768x1360", "2.6.0 pynative", 2.42, 0.41),
    SeedRow("4 frames 768x1360", "2.6.0 pynative", 0.95, 4.21),
    SeedRow("image 768x1360", "2.6.0 graph", 3.06, 0.33),
    SeedRow("4 frames 768x1360", "2.6.0 graph", 2.70, 1.48),
    SeedRow("image 768x1360", "2.7.0 pynative", 2.46, 0.41),
    SeedRow("4 frames 768x1360", "2.7.0 pynative", 1.23, 3.25),
    SeedRow("image 768x1360", "2.7.0 graph", 2.76, 0.36),
    SeedRow("4 frames 768x1360", "2.7.0 graph", 2.70, 1.48),
    SeedRow("draw 720x720", "2.6.0", None, 1.68),
    SeedRow("draw 720x720", "2.6.0 flash attention", None, 2.13),
    SeedRow("draw 720x720", "2.7.0", None, 1.85),
    SeedRow("draw 720x720", "2.7.0 flash attention", None, 2.33),
    SeedRow("answer 384x384", "2.6.0", None, 4.12),
    SeedRow("answer 384x384", "2.6.0 flash attention", None, 4.37),
    SeedRow("answer 384x384", "2.7.0", None, 5.15),
    SeedRow("answer 384x384", "2.7.0 flash attention", None, 5.16),
]
"""Image reconstruction, text to image, VQA: batch 1 each, as the seed's tables have them."""


@dataclass(frozen=True)
class Size:
    """How large everything is. The defaults are the seed's."""

    hidden: int = 4096
    intermediate: int = 14336
    layers: int = 32
    heads: int = 32
    key_value_heads: int = 8
    vision_base: int = 256
    pixels: tuple[int, int] = (768, 1360)
    """Rows and columns of the reconstructed picture."""
    drawn: int = 720
    asked: int = 384
    """Sides in pixels of the drawn picture and of the one asked about."""
    answer: int = 652
    """Tokens of the answer."""

    @property
    def model(self) -> str:
        return f"hidden {self.hidden}, {self.layers} layers"


FULL = Size()
SCALED = Size(1024, 2816, 8, 16, 4, 64, (384, 680), 128, 256, 32)
TINY = Size(64, 128, 2, 4, 2, 32, (32, 48), 32, 32, 3)


def language_model(size: Size, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Random weights, filled on the device."""
    config = LanguageModelConfig(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
    )
    with torch.device("meta"):
        model = LanguageModel(config).to(dtype)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    model.init_weights()
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def vision_tokenizer(size: Size, device: torch.device) -> VisionTokenizer:
    """Random weights, float32 as always."""
    torch.manual_seed(0)
    with torch.device(device):
        return VisionTokenizer(VisionTokenizerConfig(ch=size.vision_base)).eval()


# ---------------------------------------------------------------------------------------- the tasks


def reconstruct(model: VisionTokenizer, size: Size, frames: int) -> Callable[[], None]:
    """Pixels to codes and back."""
    device = next(model.parameters()).device
    pixels = torch.rand(1, frames, 3, *size.pixels, device=device) * 2 - 1
    if frames == 1:
        pixels = pixels[:, 0]

    def work() -> None:
        with torch.no_grad():
            model.decode(model.encode(pixels))

    return work


def draw(model: LanguageModel, size: Size) -> Callable[[], None]:
    """A picture's tokens with guidance, as the seed's script asks."""
    side = size.drawn // 8
    grid = TokenGrid(
        side, side, IDS.visual_start, IDS.visual_stop,
        IDS.end_of_line, IDS.end_of_frame, IDS.image_end, IDS.eos,
    )  # fmt: skip
    prompt, negative = (header(text, side, side) for text in (PROMPT, NEGATIVE))
    request = GridRequest(prompt, grid, 0, negative, GUIDANCE)

    def work() -> None:
        for _ in draw_grids(model, [request], Sampler(top_k=TOP_K)):
            pass

    return work


def answer(model: LanguageModel, vision: VisionTokenizer, size: Size) -> Callable[[], None]:
    """Picture to codes, prompt, an answer that no id ends."""
    device = next(vision.parameters()).device
    pixels = torch.rand(1, 3, size.asked, size.asked, device=device) * 2 - 1

    def work() -> None:
        with torch.no_grad():
            codes = vision.encode(pixels)[0]
        picture = IDS.codes_to_ids(codes).tolist()
        closing = [IDS.end_of_frame, IDS.image_end, *PROMPT]
        prompt = [*header([], *codes.shape), *picture, *closing]
        greedy = Sampler(temperature=0)
        for _ in write_text(model, [prompt], size.answer, (), greedy, [0]):
            pass

    return work


# ------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class Figure:
    """What was measured for one task."""

    seconds: float
    rate: float
    what: str
    """The work in words; where it is not the seed's, what was scaled."""
    same_work: bool


def measure(
    size: Size, device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, Figure]:
    """Each task's median seconds, and pictures or tokens a second."""
    vision = vision_tokenizer(size, device)
    model = language_model(size, device, dtype)
    rows, columns = size.pixels
    vision_says = f"float32, width {size.vision_base}, {rows}x{columns}"
    kind = str(dtype).removeprefix("torch.")
    side = size.drawn // 8
    tasks = {
        "image 768x1360": (reconstruct(vision, size, 1), 1, vision_says),
        "4 frames 768x1360": (reconstruct(vision, size, FRAMES), FRAMES, vision_says),
        "draw 720x720": (
            draw(model, size),
            side * (side + 1) + 3,
            f"{kind}, {size.model}, {size.drawn}x{size.drawn}",
        ),
        "answer 384x384": (
            answer(model, vision, size),
            size.answer,
            f"{kind}, {size.model}, {size.asked}x{size.asked}, {size.answer} tokens",
        ),
    }
    figures = {}
    for name, (work, done, says) in tasks.items():
        if repeats > 1 or device.type != "cpu":
            work()  # the first run chooses kernels and fills caches
        times = []
        for _ in range(repeats):
            times.append(seconds(work, device))
        median = statistics.median(times)
        figures[name] = Figure(median, done / median, says, size == FULL)
    return figures


def report(size: Size, device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    figures = measure(size, device, dtype, repeats)
    rows = []
    for row in SEED:
        ours = figures[row.task]
        rows.append(
            {
                "task": row.task,
                "seed": row.setting,
                "seed_seconds": row.seconds,
                "seed_rate": row.rate,
                "seconds": round(ours.seconds, 4),
                "rate": round(ours.rate, 3),
                "ratio": round(ours.rate / row.rate, 2) if ours.same_work else None,
                "measured": ours.what,
            }
        )
    return {
        "benchmark": "seed_tables",
        "same_work": size == FULL,
        "repeats": repeats,
        "rows": rows,
        **facts(device),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"seed 001: MindSpore on one Ascend Atlas 800T A2, bfloat16. Here: {result['device']}, "
        f"torch {result['torch']}, random weights, {result['repeats']} runs, "
        f"load {result['load'][0]}",
    ]
    if not result["same_work"]:
        lines.append(
            "SCALED DOWN: our figures are for smaller models and smaller pictures (last column). "
            "They say nothing about the seed's, so no ratio is given."
        )
    head = f"{'task':19}{'seed 001':23}{'s':>6}{'/s':>7}   {'here s':>9}{'/s':>9}{'ratio':>8}"
    lines += ["", head + "   measured here"]
    for row in result["rows"]:
        seconds = "" if row["seed_seconds"] is None else f"{row['seed_seconds']:.2f}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        theirs = f"{row['task']:19}{row['seed']:23}{seconds:>6}{row['seed_rate']:7.2f}"
        ours = f"{row['seconds']:9.3f}{row['rate']:9.2f}{ratio:>8}"
        lines.append(f"{theirs}   {ours}   {row['measured']}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_true", help="published sizes, also on a CPU")
    sizes.add_argument("--scaled", action="store_true", help="scaled down, also on a GPU")
    sizes.add_argument("--tiny", action="store_true", help="does it run: seconds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    on_gpu = arguments.device != "cpu"
    size = FULL if arguments.full or (on_gpu and not arguments.scaled) else SCALED
    size = TINY if arguments.tiny else size
    dtype = getattr(torch, arguments.dtype)
    result = report(size, torch.device(arguments.device), dtype, arguments.repeats)
    show([result], table(result), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
