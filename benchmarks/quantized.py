"""Products with quantized matrices: bytes a second, and passes a second against bfloat16.

    python -m benchmarks.quantized [--hidden 1024] [--layers 8] [--rows 1,2,4,8,16] [--json]

One pass multiplies with every matrix that a decoding step reads: seven a layer and the head's rows
of the 32768 visual ids, one behind the other, so that no cache holds them. Two rows are one picture
with guidance, and a pass is then one token of it. Forms run in turn and medians count; processor
seconds stand beside, which other work on the machine lengthens less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from dromaius.nn import linear, quantized
from dromaius.nn.packing import Form
from dromaius.nn.quantized import Packed

VISUAL_IDS = 32768
FORMS = {
    "bfloat16": None,
    "int8": Form("int8"),
    "int8 g128": Form("int8", 128),
    "int4 g128": Form("int4", 128),
    "int4 g64": Form("int4", 64),
    "int4 g32": Form("int4", 32),
    "fp8": Form("fp8"),
}


def shapes(hidden: int, layers: int) -> list[tuple[int, int]]:
    """[O,I] of what a decoding step reads: the model of benchmarks/t2i.py."""
    wide, narrow = hidden * 11 // 4, hidden // 4
    square, keys = (hidden, hidden), (narrow, hidden)
    layer = [square, keys, keys, square, (wide, hidden), (wide, hidden), (hidden, wide)]
    return layer * layers + [(VISUAL_IDS, hidden)]


def make(form: Form | None, sizes: list[tuple[int, int]]) -> list[Any]:
    """Matrices in a form: the same few rows again and again, each with memory of its own."""
    noise = torch.Generator().manual_seed(0)
    some = {width: torch.randn(32, width, generator=noise) / 50 for _, width in sizes}
    made: list[Any] = []
    for outputs, inputs in sizes:
        if form is None:
            made.append(some[inputs].bfloat16().repeat(outputs // 32, 1))
            continue
        packed = Packed(outputs, inputs, form)
        for name, tensor in Packed.from_matrix(some[inputs], form).stored().items():
            again = tensor.view(torch.uint8).repeat(outputs // 32, 1).view(tensor.dtype)
            setattr(packed, name, again)
        made.append(packed)
    return made


def size(matrices: list[Any]) -> int:
    parts = (m.stored().values() if isinstance(m, Packed) else [m] for m in matrices)
    return sum(tensor.nbytes for part in parts for tensor in part)


@torch.no_grad()
def run(matrices: list[Any], inputs: dict[int, Tensor]) -> None:
    """One pass."""
    for matrix in matrices:
        x = inputs[matrix.shape[1]]
        if isinstance(matrix, Packed):
            matrix.product(x)
        else:
            linear.linear(x, matrix)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sizes = shapes(arguments.hidden, arguments.layers)
    matrices = {name: make(form, sizes) for name, form in FORMS.items()}
    bandwidth = machine.read_bandwidth(torch.device("cpu"))
    rows = [int(part) for part in arguments.rows.split(",")]
    found = []
    for count in rows:
        widths = {shape[1] for shape in sizes}
        inputs = {width: torch.randn(count, width).bfloat16() for width in widths}
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
        for repeat in range(arguments.repeats + 1):
            for name in FORMS:
                pair = timed(partial(run, matrices[name], inputs))
                if repeat:  # the first warms up
                    runs[name].append(pair)
        for name, pairs in runs.items():
            wall, busy = (statistics.median(pair[i] for pair in pairs) for i in range(2))
            found.append({"rows": count, "form": name, "seconds": wall, "busy": busy})
    kernel = "none: PyTorch" if quantized.kernels() is None else "quantized.cpp"
    return {
        "benchmark": "quantized",
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "weights": sum(outputs * inputs for outputs, inputs in sizes),
        "bytes": {name: size(made) for name, made in matrices.items()},
        "kernel": kernel,
        "bandwidth": round(bandwidth),
        "runs": found,
        **machine.facts(torch.device("cpu")),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"one pass over {result['weights'] / 1e6:.0f}M weights, kernel: {result['kernel']}",
        f"{result['device']}, {result['threads']} threads, torch {result['torch']}, load "
        f"{result['load'][0]}, memory read at {result['bandwidth'] / 1e9:.1f} GB/s",
        "",
        f"{'rows':>4} {'form':10}{'MB':>7}{'ms':>9}{'cpu ms':>9}{'GB/s':>7}{'passes/s':>10}"
        f"{'against bfloat16':>18}",
    ]
    plain = {r["rows"]: r["seconds"] for r in result["runs"] if r["form"] == "bfloat16"}
    for one in result["runs"]:
        count, took = result["bytes"][one["form"]], one["seconds"]
        lines.append(
            f"{one['rows']:4} {one['form']:10}{count / 1e6:7.1f}{took * 1e3:9.2f}"
            f"{one['busy'] * 1e3:9.2f}{count / took / 1e9:7.1f}{1 / took:10.1f}"
            f"{plain[one['rows']] / took:17.2f}x"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1024, help="width, a multiple of 256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", default="1,2,4,8,16", help="rows of x, one table part for each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    result = measure(arguments)
    machine.show([result], table(result), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
