"""How near a decoding step is to the memory's speed: `python -m benchmarks.roofline [--dtype ...]`.

A step reads the layers' matrices, the head's rows of the visual ids, and the keys and values that
are visible, once each; what it takes beyond reading them is lost. Printed are the bytes a second of
the median step, over the machine's read bandwidth (best of three reads of 1 GiB with all threads),
of the model of `benchmarks.t2i` with guidance, random weights, sampling with top-k 2048 included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch

from benchmarks.machine import facts, pass_bytes, read_bandwidth, show
from benchmarks.t2i import (
    GUIDANCE,
    IDS,
    KERNELS,
    MODES,
    NEGATIVE,
    TOP_K,
    header,
    model_shape,
    prompts,
)
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.io.pages import use_large_pages
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.quantization import settings
from dromaius.nn.kernels import library
from dromaius.nn.quantized import quantize

GOALS = {"float32": (0.4, 0.6), "bfloat16": (0.5, 0.7)}
"""Shares of the bandwidth at batch 1: the goal, and what would be excellent."""
SPAN = (IDS.visual_start, IDS.visual_stop)
SIDE = 16
"""Codes a side of the picture that is drawn."""
WARM = 8
"""Steps that are not timed."""


def make_model(hidden: int, layers: int, dtype: str, mode: str, seed: int) -> LanguageModel:
    config = LanguageModelConfig(**model_shape(hidden, layers))
    with torch.device("meta"):
        model = LanguageModel(config)
    model = model.to(getattr(torch, dtype)).to_empty(device="cpu").eval().requires_grad_(False)
    model.init_weights(torch.Generator().manual_seed(seed))
    for name, tensor in model.named_parameters():
        if "norm" in name:
            tensor.fill_(1.0)
    if mode != "full":
        quantize(model, settings(mode).plan(config))
    use_large_pages(model)  # as dromaius.load does
    return model


def steps(model: LanguageModel, batch: int, count: int) -> list[float]:
    """Seconds of each of `count` passes, drawing included."""
    grid = TokenGrid(
        SIDE, SIDE, *SPAN, IDS.end_of_line, IDS.end_of_frame, IDS.image_end, IDS.eos
    )  # fmt: skip
    unwanted = header(NEGATIVE, SIDE, SIDE)
    requests = [
        GridRequest(header(text, SIDE, SIDE), grid, i, unwanted, GUIDANCE)
        for i, text in enumerate(prompts(batch))
    ]
    passes = draw_grids(model, requests, Sampler(top_k=TOP_K))
    for _ in range(WARM):
        next(passes)
    taken, last = [], time.perf_counter()
    for _, _ in zip(range(count), passes, strict=False):
        now = time.perf_counter()
        taken.append(now - last)
        last = now
    return taken


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One result a dtype and mode."""
    results = []
    for dtype in arguments.dtype:
        for mode in arguments.mode:
            model = make_model(arguments.hidden, arguments.layers, dtype, mode, arguments.seed)
            results.append(_measure(arguments, model, dtype, mode))
    return results


def _measure(
    arguments: argparse.Namespace, model: LanguageModel, dtype: str, mode: str
) -> dict[str, Any]:
    busy = time.process_time()
    taken = steps(model, arguments.batch, arguments.steps)
    busy = (time.process_time() - busy) / (arguments.steps + WARM)
    visible = len(header(NEGATIVE, SIDE, SIDE)) + WARM + arguments.steps / 2
    read = pass_bytes(model, SPAN, 2 * arguments.batch, visible)
    bandwidth = read_bandwidth(torch.device("cpu"), arguments.read_bytes)
    median = statistics.median(taken)
    goal, stretch = GOALS[dtype] if mode == "full" and arguments.batch == 1 else (None, None)
    return {
        "benchmark": "roofline",
        "dtype": dtype,
        "mode": mode,
        "batch": arguments.batch,
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "steps": len(taken),
        "bytes_a_step": read,
        "median_milliseconds": round(1e3 * median, 3),
        "best_milliseconds": round(1e3 * min(taken), 3),
        "processor_milliseconds": round(1e3 * busy, 3),
        "bytes_a_second": round(read / median),
        "read_bandwidth": round(bandwidth),
        "share": round(read / median / bandwidth, 3),
        "goal": goal,
        "stretch": stretch,
        "kernels": [name for name in KERNELS if library(name) is not None],
    } | facts(torch.device("cpu"))


def table(results: list[dict[str, Any]]) -> str:
    first = results[0]
    lines = [
        f"width {first['hidden']}, {first['layers']} layers, with guidance, batch {first['batch']}",
        f"{first['device']}, {first['threads']} threads, torch {first['torch']}, "
        f"load {first['load'][0]}",
        f"kernels: {', '.join(first['kernels']) or 'none, torch does the work'}",
        "",
        f"{'dtype':10}{'mode':6}{'MB a step':>10}{'ms':>8}{'best ms':>9}{'GB/s':>7}"
        f"{'read GB/s':>11}{'share':>7}{'goal':>6}{'stretch':>9}",
    ]
    for row in results:
        lines.append(
            f"{row['dtype']:10}{row['mode']:6}{row['bytes_a_step'] / 1e6:10.1f}"
            f"{row['median_milliseconds']:8.2f}{row['best_milliseconds']:9.2f}"
            f"{row['bytes_a_second'] / 1e9:7.1f}{row['read_bandwidth'] / 1e9:11.1f}"
            f"{row['share']:7.2f}{row['goal'] or '':>6}{row['stretch'] or '':>9}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["full"])
    parser.add_argument("--batch", type=int, default=1, help="pictures together")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=1024, help="width, a multiple of 256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--read-bytes", type=int, default=2**30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the JSON lines alone")
    arguments = parser.parse_args()
    results = measure(arguments)
    show(results, table(results), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
