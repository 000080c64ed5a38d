"""Text for images against transformers' `generate`: ViT-base (224) with GPT2-small.

    python -m benchmarks.ved
    python -m benchmarks.ved --batch 8 --beams 4 --repeats 5

Both sides hold the same random weights in float32. For every batch and number of beams both write
first, and nothing is timed unless their tokens are equal (exit status 1). Then the sides write in
turn; medians count, of seconds and of processor seconds. `fast` is ours after `accelerate()`:
encoder in bfloat16, decoder in int8; how many of its tokens agree with the exact ones is printed,
and for how many tokens from the start on. Random weights part sooner than trained ones: their
likeliest ids lie close together. The vocabulary's matrix is not tied to the embeddings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.machine import facts
from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from dromaius.nn.linear import applies

SIDES = ("transformers", "exact", "fast")
START = 50256
"""GPT2's only special id; none ends a text here, so that all are of the length asked for."""


def make_models(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """transformers' model with random weights, and ours with the same."""
    torch.manual_seed(arguments.seed)
    size = {"num_hidden_layers": arguments.layers, "hidden_size": arguments.hidden}
    heads = arguments.hidden // 64
    vit = transformers.ViTConfig(
        **size, num_attention_heads=heads, intermediate_size=4 * arguments.hidden
    )
    gpt2 = transformers.GPT2Config(
        n_layer=arguments.layers,
        n_embd=arguments.hidden,
        n_head=heads,
        add_cross_attention=True,
        tie_word_embeddings=False,  # else random weights write the start id again and again
    )
    encoder = transformers.ViTModel(vit, add_pooling_layer=False)
    decoder = transformers.GPT2LMHeadModel(gpt2)
    theirs = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    ours = VisionEncoderDecoderModel(config=theirs.config).eval()
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        settings = model.generation_config
        settings.decoder_start_token_id = settings.pad_token_id = START
        settings.eos_token_id = None
    return theirs, ours


def write(model: Any, pixels: Tensor, beams: int, count: int) -> Tensor:
    """One call of `generate`: ids [batch, 1 + count]."""
    return model.generate(pixels, max_new_tokens=count, num_beams=beams, do_sample=False)


def by_side(side: str, theirs: Any, ours: Any, copies: Any) -> Callable[..., Tensor]:
    """What writes on a side; `copies` is our model's acceleration, made once."""

    def work(*given: Any) -> Tensor:
        if side == "transformers":
            return write(theirs, *given)
        ours._acceleration = copies[side]
        return write(ours, *given)

    return work


def agreement(written: Tensor, expected: Tensor) -> dict[str, float]:
    """Of the new tokens: which part is equal, and the mean length of the equal beginning."""
    same = (written == expected)[:, 1:].float()
    return {
        "equal": round(float(same.mean()), 3),
        "equal_from_start": round(float(same.cumprod(1).sum(1).mean()), 1),
    }


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and processor seconds of one run."""
    busy, start = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks equality, then times all sides; raises SystemExit where tokens differ."""
    theirs, ours = make_models(arguments)
    copies = {"exact": ours._acceleration}
    copies["fast"] = ours.accelerate()._acceleration
    sides = {side: by_side(side, theirs, ours, copies) for side in SIDES}
    generator = torch.Generator().manual_seed(arguments.seed)
    cases = []
    for batch in arguments.batch:
        pixels = torch.randn(batch, 3, 224, 224, generator=generator)
        for beams in arguments.beams:
            given = (pixels, beams, arguments.tokens)
            written = {side: work(*given) for side, work in sides.items()}
            if not torch.equal(written["exact"], written["transformers"]):
                raise SystemExit(f"ved: tokens differ at batch {batch}, {beams} beams")
            runs: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
            for _ in range(arguments.repeats):
                for side, work in sides.items():
                    runs[side].append(timed(partial(work, *given)))
            cases.append(
                case(runs)
                | {"batch": batch, "beams": beams}
                | agreement(written["fast"], written["exact"])
            )
    row = torch.zeros(1, arguments.hidden)
    with torch.no_grad():
        own = applies(row, ours.decoder.lm_head.weight)
    return {
        "benchmark": "ved",
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "tokens": arguments.tokens,
        "equal_tokens": True,
        "cases": cases,
        "products": "few_rows.cpp" if own else "torch",
        "transformers": transformers.__version__,
        **facts(torch.device("cpu")),
    }


def case(runs: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians of each side, and how many times as fast as transformers ours are."""
    wall, busy = (
        {side: statistics.median(run[index] for run in times) for side, times in runs.items()}
        for index in (0, 1)
    )
    ratios = {
        f"{name}_{side}": round(part["transformers"] / part[side], 2)
        for name, part in (("ratio", wall), ("processor_ratio", busy))
        for side in SIDES[1:]
    }
    return {
        "seconds": {side: round(value, 3) for side, value in wall.items()},
        "processor_seconds": {side: round(value, 3) for side, value in busy.items()},
        **ratios,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"ViT and GPT2, width {result['hidden']}, {result['layers']} layers, "
        f"{result['tokens']} new tokens, float32",
        f"{result['device']}, {result['threads']} threads, torch {result['torch']}, "
        f"transformers {result['transformers']}, products by {result['products']}, "
        f"load {result['load'][0]}",
        "tokens of exact and transformers: equal",
        "",
        f"{'batch':>5} {'beams':>5} {'':12} {'s':>8} {'cpu s':>8} {'ratio':>7} {'cpu':>7}",
    ]
    for found in result["cases"]:
        for side in SIDES:
            cells = [found["seconds"][side], found["processor_seconds"][side]]
            if side != "transformers":
                cells += [found[f"ratio_{side}"], found[f"processor_ratio_{side}"]]
            shown = f"{cells[0]:8.2f} {cells[1]:8.2f}"
            shown += "".join(f" {cell:7.2f}" for cell in cells[2:])
            if side == "fast":
                shown += f"   {found['equal']:.0%} of tokens equal"
                shown += f", the first {found['equal_from_start']:.1f}"
            lines.append(f"{found['batch']:5} {found['beams']:5} {side:12} {shown}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images together")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=20, help="new tokens of each text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=768, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    result = measure(arguments := parser.parse_args())
    if not arguments.json:
        print(table(result), end="\n\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
