"""Seconds a picture takes in every mode, beside what this machine's memory allows at best.

    python -m benchmarks.modes [--model nano] [--size 16x16] [--repeats 3] [--out docs]

Every mode draws the same picture with guidance 3: the dtypes, the accelerated forms, the quantized
weights. Runs alternate and medians count. The roofline is passes x bytes a pass over the bandwidth
measured in the same run (`benchmarks.machine`): no machine reads its weights faster. Prints a table
and writes modes.json and images/modes.svg.

"random" is the model of `benchmarks.t2i`: large enough to be read from memory, but how many drafts
hold means nothing, since it has learnt nothing and the noise, which is known beforehand, decides.
"nano" can draw, and its drafts hold as drafts do, but it fits into a processor's cache: its
roofline means nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dromaius
from benchmarks.chart import Bar, bars
from benchmarks.machine import facts, pass_bytes, read_bandwidth, seconds, show
from benchmarks.t2i import GUIDANCE, IDS, NEGATIVE, PROMPT, TOP_K, header, size
from dromaius.engine.canvas import GridRequest
from dromaius.engine.passes import Passes
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.files import write_text
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.prompt import generation_prompt
from dromaius.models.emu3.quantization import MODES as FORMS
from dromaius.models.emu3.quantization import settings
from dromaius.nn.linear import applies
from dromaius.nn.quantized import count_numbers, quantize
from dromaius.pipelines.image import picture_grid

EXACT, LOSSY = "#3b6ea5", "#c98a2b"


@dataclass(frozen=True)
class Mode:
    """One way to draw the picture."""

    weights: str
    """A dtype, or a form of few bits (the rest is then bfloat16)."""
    accelerate: str = "off"

    @property
    def name(self) -> str:
        return self.weights + ("" if self.accelerate == "off" else f", {self.accelerate}")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.weights == "float32" else torch.bfloat16


MODES = (
    Mode("float32"),
    Mode("bfloat16"),
    Mode("bfloat16", "seed-exact"),
    Mode("bfloat16", "coupled"),
    Mode("int8"),
    Mode("int4"),
    Mode("int4", "coupled"),
)


# ------------------------------------------------------------------------------ models and pictures


def language_model(
    shape: LanguageModelConfig, weights: str, device: torch.device, seed: int = 0
) -> LanguageModel:
    """Random weights, made where they are needed; few bits are rounded there too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if weights == "float32" else torch.bfloat16)
    try:
        with torch.device(device):
            model = LanguageModel(shape).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    torch.manual_seed(seed)
    model.init_weights()
    return in_few_bits(model, weights)


def in_few_bits(model: LanguageModel, weights: str) -> LanguageModel:
    """The model itself; its matrices are replaced where `weights` is a form of few bits."""
    if weights in FORMS:
        quantize(model, settings(weights).plan(model.config))
    return model


def picture(height: int, width: int, seed: int = 0, begun: Sequence[int] = ()) -> GridRequest:
    """The picture of `benchmarks.t2i`, in codes."""
    grid = TokenGrid(
        height, width, IDS.visual_start, IDS.visual_stop,
        IDS.end_of_line, IDS.end_of_frame, IDS.image_end, IDS.eos,
    )  # fmt: skip
    prompt, negative = (header(text, height, width) for text in (PROMPT, NEGATIVE))
    return GridRequest(prompt, grid, seed, negative, GUIDANCE, begun=begun)


def draw(model: Any, request: GridRequest, accelerate: str) -> int:
    """How many passes the picture took."""
    passes = Passes(model, [request], Sampler(top_k=TOP_K), accelerate)
    for _ in passes:
        pass
    return passes.count


def roofline(model: Any, request: GridRequest, passes: int, bandwidth: float) -> float:
    """Seconds below which so many passes cannot take, keys and values at half the picture."""
    grid = request.grid
    texts = (request.prompt, request.negative)
    visible = sum(len(text) for text in texts) / 2 + grid.length / 2
    span = (grid.visual_start, grid.visual_stop)
    return passes * pass_bytes(model, span, 2, visible) / bandwidth


# -------------------------------------------------------------------------------------- measurement


def nano(weights: str) -> tuple[Any, GridRequest]:
    """The embedded model, and a picture that it can draw."""
    dtype = "float32" if weights == "float32" else "bfloat16"
    model = dromaius.load("nano", device="cpu", dtype=dtype)
    assert model.language_model is not None and model.tokenizer is not None
    grid = picture_grid(model, None, None, "1:1", None)
    prompt, negative = (
        generation_prompt(model.tokenizer, model.vocabulary, text, grid.height, grid.width)
        for text in ("a red apple", "")
    )
    request = GridRequest(prompt, grid, 0, negative, GUIDANCE, model.config.generation.min_p)
    return in_few_bits(model.language_model, weights), request


def make(arguments: argparse.Namespace) -> dict[str, tuple[Any, GridRequest]]:
    """Weights -> the model with them, and the picture."""
    kinds = dict.fromkeys(mode.weights for mode in MODES)
    if arguments.model == "nano":
        return {weights: nano(weights) for weights in kinds}
    hidden = arguments.hidden
    shape = LanguageModelConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=arguments.layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
    )
    device, request = torch.device("cpu"), picture(*arguments.size)
    return {weights: (language_model(shape, weights, device), request) for weights in kinds}


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All modes, one after the other, as often as asked."""
    device, made = torch.device("cpu"), make(arguments)
    times: dict[str, list[float]] = {mode.name: [] for mode in MODES}
    passes: dict[str, int] = {}
    speeds = [read_bandwidth(device)]

    def one(mode: Mode) -> None:
        model, request = made[mode.weights]
        passes[mode.name] = draw(model, request, mode.accelerate)

    for repeat in range(1 + arguments.repeats):
        for mode in MODES:
            taken = seconds(lambda mode=mode: one(mode), device)  # type: ignore[misc]
            if repeat:  # the first run warms up
                times[mode.name].append(taken)
    speeds.append(read_bandwidth(device))
    rows = []
    for mode in MODES:
        model, request = made[mode.weights]
        bound = roofline(model, request, passes[mode.name], max(speeds))
        median = statistics.median(times[mode.name])
        rows.append(
            {
                "mode": mode.name,
                "exact": mode.weights not in FORMS,
                "seconds": round(median, 4),
                "runs": [round(t, 4) for t in times[mode.name]],
                "passes": passes[mode.name],
                "codes": request.grid.drawn,
                "roofline_seconds": round(bound, 4),
                "share": round(bound / median, 3),
            }
        )
    model, request = made[MODES[0].weights]
    return {
        "benchmark": "modes",
        "model": arguments.model,
        "parameters": count_numbers(model),
        "size": f"{request.grid.height}x{request.grid.width}",
        "guidance": GUIDANCE,
        "bandwidth": round(max(speeds)),
        "kernel": applies(torch.ones(2, 64), torch.ones(64, 64)),
        "modes": rows,
        **facts(device),
    }


# ------------------------------------------------------------------------------------------- report


def headline(result: dict[str, Any]) -> list[str]:
    what = "nano" if result["model"] == "nano" else "random weights"
    kernel = "C++ kernels" if result["kernel"] else "no C++ kernel"
    return [
        f"{result['parameters'] / 1e6:,.0f}M parameters ({what}), one picture of "
        f"{result['size']} codes with guidance",
        f"{result['device']}, threads: {result['threads']}, {result['bandwidth'] / 1e9:.1f} GB/s, "
        f"{kernel}, torch {result['torch']}, load {result['load'][0]}",
    ]


def table(result: dict[str, Any]) -> str:
    lines = [*headline(result), "", f"{'':24}{'seconds':>9}{'at best':>9}{'share':>7}{'passes':>8}"]
    for row in result["modes"]:
        lines.append(
            f"{row['mode']:24}{row['seconds']:9.2f}{row['roofline_seconds']:9.2f}"
            f"{row['share']:7.2f}{row['passes']:8}"
        )
    return "\n".join(lines)


def chart(result: dict[str, Any]) -> str:
    """The plot, as SVG."""
    found = [
        Bar(
            row["mode"],
            row["seconds"],
            row["roofline_seconds"],
            f"{row['seconds']:.2f} s, {row['passes']} passes, {100 * row['share']:.0f} %",
            EXACT if row["exact"] else LOSSY,
        )
        for row in result["modes"]
    ]
    keys = [("exact", EXACT), ("near-exact", LOSSY)]
    return bars("Seconds a picture, and the bound of memory", headline(result), found, keys)


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """The files of a result."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    made = [folder / "modes.json", folder / "images" / "modes.svg"]
    write_text(made[0], json.dumps(result, indent=2) + "\n")
    write_text(made[1], chart(result))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("random", "nano"), default="random")
    parser.add_argument("--size", type=size, default=(16, 16), help="codes, rows x columns")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=1024, help="width, a multiple of 256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--out", type=Path, help="folder for modes.json and images/modes.svg")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    result = measure(arguments)
    show([result], table(result), arguments.json)
    if arguments.out:
        for path in write(result, arguments.out):
            print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
