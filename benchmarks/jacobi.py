"""Forward passes and time a picture takes with `accelerate`, against plain decoding.

    python -m benchmarks.jacobi [--seeds 20] [--window 4] [--model nano] [--device cpu] [--json]

Each seed is drawn plainly, seed-exact and coupled, one picture at a time and in turn, codes only.
The seed-exact codes must be the plain ones, and must take fewer passes than there are codes for
every seed; otherwise the exit status is 1. Times are medians over seeds, of the clock and of the
processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor

import dromaius
from benchmarks.machine import show
from dromaius.nn import kernels
from dromaius.pipelines.emu3 import Emu3

MODES = ("off", "seed-exact", "coupled")


def drawn(model: Emu3, mode: str, **arguments: Any) -> tuple[Tensor, dict[str, float]]:
    """Codes [h,w] of a picture, and what they took."""
    wall, busy = time.perf_counter(), time.process_time()
    *_, drawing = model.stream_image(accelerate=mode, **arguments)
    codes = drawing.codes[0]  # waits for the device
    took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - busy}
    return codes, {"passes": drawing.passes, **took}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    model = dromaius.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    given: dict[str, Any] = {"prompt": arguments.prompt, "window": arguments.window}
    if arguments.size:
        given["height"] = given["width"] = arguments.size
    for mode in MODES:  # what is compiled or built at first use
        codes, _ = drawn(model, mode, seed=-1, **given)
    rows = []
    for seed in range(arguments.seeds):
        found = {mode: drawn(model, mode, seed=seed, **given) for mode in MODES}
        same = found["seed-exact"][0].equal(found["off"][0])
        rows.append({"seed": seed, "same": same, **{mode: found[mode][1] for mode in MODES}})
    *_, auto = model.stream_image(seed=0, accelerate="auto", **given)
    tokens = codes.numel()
    return {
        "benchmark": "jacobi",
        "model": arguments.model,
        "prompt": arguments.prompt,
        "window": arguments.window,
        "tokens": tokens,
        "seeds": rows,
        "equal": sum(row["same"] for row in rows),
        "fewer_passes": sum(row["seed-exact"]["passes"] < tokens for row in rows),
        "median": {mode: medians([row[mode] for row in rows]) for mode in MODES},
        "auto": f"{auto.accelerate}: {auto.reason}",
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "products": products(model),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def products(model: Emu3) -> str:
    """What multiplies a few rows with a matrix."""
    built = model.device.type == "cpu" and kernels.library("few_rows") is not None
    return "products by few_rows.cpp" if built else "products by torch"


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}


def table(result: dict[str, Any]) -> str:
    where = result["device"], result["dtype"], f"{result['threads']} threads", result["products"]
    lines = [
        f"{result['model']}, {result['prompt']!r}, {result['tokens']} codes, "
        f"{result['window'] or 'the usual'} drafts a pass",
        f"{', '.join(where)}, torch {result['torch']}, load {result['load'][0]}",
        "",
        f"{'passes':>8}" + "".join(f"{mode:>12}" for mode in MODES) + f"{'same codes':>14}",
    ]
    for row in result["seeds"]:
        passes = "".join(f"{row[mode]['passes']:12}" for mode in MODES)
        lines.append(f"{row['seed']:8}{passes}{'yes' if row['same'] else 'NO':>14}")
    lines.append("")
    for key in ("passes", "seconds", "cpu_seconds"):
        shown = "".join(f"{result['median'][mode][key]:12.4g}" for mode in MODES)
        lines.append(f"{key:>11}{shown}   median")
    count = len(result["seeds"])
    return "\n".join(
        [
            *lines,
            f"fewer passes than codes: {result['fewer_passes']} of {count} seeds; "
            f"the plain codes: {result['equal']} of {count}",
            f"auto: {result['auto']}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--window", type=int, help="drafts a pass; default: the program's own")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--prompt", default="a red apple")
    parser.add_argument("--size", type=int, help="pixels of a side; default: the model's own")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    result = measure(arguments)
    show([result], table(result), arguments.json)
    return int(min(result["equal"], result["fewer_passes"]) < arguments.seeds)


if __name__ == "__main__":
    sys.exit(main())
