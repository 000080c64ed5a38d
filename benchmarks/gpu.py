"""What a GPU makes of the 8B model: seconds a 720x720 picture, mode by mode, in ten minutes.

    benchmarks/gpu.sh [--small] [--phases 'int4;int4, profile'] [--budget 540]

Weights are random, in the published configuration, made on the device: speed does not depend on
what a model has learnt. One thing does: how many drafts hold. Where a model has learnt nothing the
noise decides, which is known beforehand, so of the accelerated forms only the milliseconds a pass
count here, and neither the passes nor the seconds a picture.

Only the exact bfloat16 picture is drawn as a whole. Everything else is timed for some seconds at
the beginning, in the middle and near the end of a picture, with as many keys in the cache as there
would be. Time grows evenly with the keys, so a whole picture is inferred from the middle; such
figures say that they are extrapolated. transformers writes the first few hundred tokens, and a
picture is inferred from them alone, which favours it: its cache grows.

Each phase appends one JSON line to OUT/gpu.jsonl at once. A phase that fails says why, and the
next one runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import copy_bandwidth, facts, held_bytes, read_bandwidth, seconds, wait
from benchmarks.modes import language_model, picture, roofline
from benchmarks.t2i import GUIDANCE, IDS, NEGATIVE, PROMPT, TOP_K, first_difference, header
from dromaius.engine.canvas import GridRequest
from dromaius.engine.passes import Passes
from dromaius.engine.sampling import Sampler
from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer

GOAL_SECONDS, GOAL_SHARE = 37.0, 0.75
"""Of the exact bfloat16 picture on an H200 (issue 4)."""
PLACES = (0.0, 0.5, 0.9)
"""Where in a picture passes are timed, as shares of its codes."""
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


class Bench:
    """One run: the device, what is measured on it, and the file that takes the lines."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.small, self.out = arguments.small, arguments.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shape = LanguageModelConfig(**(SMALL if self.small else {}))
        self.side = 6 if self.small else 90
        self.stretch = 0.2 if self.small else 4.0
        """Seconds for which passes are timed at one place."""
        self.deadline = time.monotonic() + arguments.budget
        self.bandwidth = 0.0
        self.model: Any = None
        self.lines: dict[str, dict[str, Any]] = {}
        """What was written, by phase."""

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """One phase, its line written at once."""
        start = time.monotonic()
        line: dict[str, Any] = {"phase": name}
        if start > self.deadline:
            line["skipped"] = "no time left"
        else:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                line |= work()
            except Exception as error:  # whatever it was, the other phases must run
                line["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
                traceback.print_exc()
            if self.device.type == "cuda":
                line["peak_bytes"] = torch.cuda.max_memory_allocated()
            line["phase_seconds"] = round(time.monotonic() - start, 1)
        self.lines[name] = line
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(line), flush=True)

    def with_weights(self, weights: str) -> dict[str, Any]:
        """A model of these random weights, the one before given back first."""
        self.model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.model = language_model(self.shape, weights, self.device)
        return {"weights_bytes": held_bytes(self.model)}

    def picture(self, share: float = 0.0) -> GridRequest:
        """The picture, that share of its codes drawn already."""
        codes = self.side * self.side
        rng = random.Random(0)
        begun = [rng.randrange(IDS.codebook_size) for _ in range(int(codes * share))]
        return picture(self.side, self.side, begun=begun)


# ------------------------------------------------------------------------------------------ phases


def machine(bench: Bench) -> dict[str, Any]:
    """What it is, and how fast its memory is; bounds are by the faster of the two."""
    size = 2**28 if bench.small else 2**32
    read, copy = (work(bench.device, size, 5) for work in (read_bandwidth, copy_bandwidth))
    bench.bandwidth = max(read, copy)
    return facts(bench.device) | {"read_bandwidth": round(read), "copy_bandwidth": round(copy)}


def equal(bench: Bench) -> dict[str, Any]:
    """Greedy tokens in float32 against transformers', and recorded steps against eager ones."""
    from benchmarks.t2i import draw_ours, draw_theirs, make_models

    theirs, ours = make_models(256, 2, 0)
    expected = draw_theirs(theirs, 5, 5, greedy=True, seed=0)
    ours.to(bench.device)
    found = draw_ours(ours, 5, 5, greedy=True, seed=0)
    request, codes = picture(5, 5, seed=1), []
    for graphs in ("1", "0"):
        os.environ["DROMAIUS_GRAPHS"] = graphs
        *_, last = Passes(ours, [request], Sampler(top_k=TOP_K), "off")
        codes.append(last.clone())
    os.environ.pop("DROMAIUS_GRAPHS")
    return {
        "equal_to_transformers": first_difference(found, expected) is None,
        "recorded_equals_eager": codes[0].equal(codes[1]),
    }


def whole(bench: Bench) -> dict[str, Any]:
    """The exact bfloat16 picture from prompt to codes, nothing inferred."""
    request, taken = bench.picture(), 0

    def draw() -> None:
        nonlocal taken
        passes = Passes(bench.model, [request], Sampler(top_k=TOP_K), "off")
        for _ in passes:
            pass
        taken = passes.count

    spent = seconds(draw, bench.device)
    return _verdict(bench, spent, taken) | {
        "goal_seconds": GOAL_SECONDS,
        "goal_share": GOAL_SHARE,
        "weights_bytes": held_bytes(bench.model),
    }


def sampled(bench: Bench, accelerate: str = "off") -> dict[str, Any]:
    """A whole picture from passes here and there."""
    per_code, per_pass, gain = [], [], []
    for share in PLACES:
        codes, passes, spent = _timed(bench, bench.picture(share), accelerate)
        per_code.append(spent / codes)
        per_pass.append(spent / passes)
        gain.append(codes / passes)
    codes = bench.side * bench.side
    middle = PLACES.index(0.5)
    return _verdict(bench, per_code[middle] * codes, round(codes / gain[middle])) | {
        "extrapolated": True,
        "milliseconds_a_pass": [round(1e3 * t, 3) for t in per_pass],
        "codes_a_pass": [round(g, 2) for g in gain],
    }


def eager(bench: Bench) -> dict[str, Any]:
    """The same without CUDA graphs."""
    os.environ["DROMAIUS_GRAPHS"] = "0"
    try:
        return sampled(bench)
    finally:
        os.environ.pop("DROMAIUS_GRAPHS")


def profiled(bench: Bench) -> dict[str, Any]:
    """Where a pass's time goes, kernel by kernel: the first thing to look at."""
    from torch.profiler import ProfilerActivity, profile

    cuda = bench.device.type == "cuda"
    steps, count = _warm(bench, bench.picture(0.5), "off"), 3 if bench.small else 10
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(count):
            next(steps)
        wait(bench.device)
    found = []
    for event in profiler.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        found.append((spent / count, event.count / count, event.key[:90]))
    found.sort(reverse=True)
    return {
        "kernels_a_pass": round(sum(n for _, n, _ in found)),
        "busy_milliseconds_a_pass": round(sum(t for t, _, _ in found) / 1e3, 3),
        "most": [{"us": round(t, 1), "times": round(n, 1), "name": k} for t, n, k in found[:20]],
    }


def transformers_too(bench: Bench) -> dict[str, Any]:
    """`generate` over the same weights, guidance in a second forward, as upstream runs it."""
    import transformers
    from transformers import Emu3TextConfig
    from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM

    count = 4 if bench.small else 200
    shape = {k: getattr(bench.shape, k) for k in SMALL}
    with torch.device("meta"):
        theirs = Emu3ForCausalLM(Emu3TextConfig(**shape)).eval()
    theirs.load_state_dict(bench.model.state_dict(), assign=True)
    _revive(theirs, bench.device)
    ids, negative = (
        torch.tensor([header(text, bench.side, bench.side)], device=bench.device)
        for text in (PROMPT, NEGATIVE)
    )
    visual = list(range(IDS.visual_start, IDS.visual_stop))

    def rule(batch: int, tokens: Any) -> list[int]:
        """The grid by counting: cheaper than the published one, which searches the prompt."""
        behind = tokens.shape[0] - ids.shape[1] + 1
        return [IDS.end_of_line] if behind % (bench.side + 1) == 0 else visual

    def write(count: int) -> None:
        theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            negative_prompt_ids=negative,
            negative_prompt_attention_mask=torch.ones_like(negative),
            guidance_scale=GUIDANCE,
            prefix_allowed_tokens_fn=rule,
            do_sample=True,
            top_k=TOP_K,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=IDS.pad,
        )

    write(3)
    token = seconds(lambda: write(count), bench.device) / count
    return {
        "transformers": transformers.__version__,
        "tokens": count,
        "milliseconds_a_token": round(1e3 * token, 2),
        "seconds_a_picture": round(token * bench.picture().grid.length, 2),
        "extrapolated": True,
        "attention": theirs.config._attn_implementation,
    }


def pixels(bench: Bench) -> dict[str, Any]:
    """Codes to pixels with nothing else on the card: whole and, where there is one, tiled."""
    bench.model = None
    gc.collect()
    config = VisionTokenizerConfig(**({"ch": 32, "ch_mult": (1, 1, 1, 1)} if bench.small else {}))
    with torch.device(bench.device):
        model = VisionTokenizer(config).eval().requires_grad_(False)
    codes = torch.zeros(1, bench.side, bench.side, dtype=torch.long, device=bench.device)
    found: dict[str, Any] = {"weights_bytes": held_bytes(model)}
    ways: dict[str, Callable[[], object]] = {"whole": lambda: model.decode(codes)}
    try:
        from dromaius.models.emu3 import tiling
    except ImportError:
        pass
    else:
        ways["tiled"] = lambda: tiling.decode(model, codes)
    for name, work in ways.items():
        work()
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found[name] = {"seconds": round(seconds(work, bench.device), 3)}
        if bench.device.type == "cuda":
            found[name]["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


# ------------------------------------------------------------------------------------------- parts


def _warm(bench: Bench, request: GridRequest, accelerate: str) -> Iterator[Any]:
    """The passes of a picture, behind those that record graphs: two line ends have gone by."""
    steps = iter(Passes(bench.model, [request], Sampler(top_k=TOP_K), accelerate))
    stop = time.monotonic() + bench.stretch
    missing = request.grid.drawn - len(request.begun)
    for _ in range(1 + min(2 * bench.side + 2, missing // 2)):
        next(steps)
        wait(bench.device)
        if time.monotonic() > stop:
            break
    return steps


def _timed(bench: Bench, request: GridRequest, accelerate: str) -> tuple[int, int, float]:
    """Codes, passes and seconds of a stretch; line ends are among them as they come."""
    steps = _warm(bench, request, accelerate)
    passes, codes = 0, next(steps)
    before, start = int((codes >= 0).sum()), time.perf_counter()
    for now in steps:
        passes, codes = passes + 1, now
        if passes % 16 == 0 or bench.small:
            wait(bench.device)
            if time.perf_counter() - start > bench.stretch:
                break
    wait(bench.device)
    spent = time.perf_counter() - start
    return max(1, int((codes >= 0).sum()) - before), max(1, passes), spent


def _verdict(bench: Bench, spent: float, passes: int) -> dict[str, Any]:
    bound = roofline(bench.model, bench.picture(), passes, bench.bandwidth)
    return {
        "seconds_a_picture": round(spent, 2),
        "codes_a_second": round(bench.side**2 / spent, 1),
        "passes": passes,
        "roofline_seconds": round(bound, 2),
        "roofline_share": round(bound / spent, 3),
    }


def _revive(model: Any, device: torch.device) -> None:
    """Buffers that no checkpoint holds are still on the meta device: rotary frequencies."""
    for module in model.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "config"):
            with torch.device(device):
                module.__init__(module.config)


def memory(bench: Bench) -> dict[str, Any]:
    """Peaks of whole runs from those of their parts: what one allocator has given adds up."""
    drawn, made = bench.lines.get("bfloat16, whole", {}), bench.lines.get("pixels", {})
    if "peak_bytes" not in drawn or "whole" not in made or "peak_bytes" not in made["whole"]:
        return {"skipped": "no allocator to ask"}
    language, vision = drawn["weights_bytes"], made["weights_bytes"]
    found = {}
    for way in ("whole", "tiled"):
        if way in made:
            decode = made[way]["peak_bytes"]
            together = max(drawn["peak_bytes"] + vision, decode + language)
            found[f"resident, {way} decode"] = together
            found[f"staged, {way} decode"] = max(drawn["peak_bytes"], decode)
    return found


def phases(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """In order of what would be missed most; a new model is made when it is its turn."""
    yield "machine", lambda: machine(bench)
    yield "equal", lambda: equal(bench)
    for weights in ("bfloat16", "int8", "int4"):
        yield f"{weights}, made", lambda weights=weights: bench.with_weights(weights)  # type: ignore[misc]
        if weights == "bfloat16":
            yield f"{weights}, whole", lambda: whole(bench)
            yield f"{weights}, profile", lambda: profiled(bench)
            yield "transformers", lambda: transformers_too(bench)
            yield f"{weights}, eager", lambda: eager(bench)
        yield f"{weights}", lambda: sampled(bench)
        if weights != "bfloat16":
            yield f"{weights}, profile", lambda: profiled(bench)
        else:
            yield f"{weights}, seed-exact", lambda: sampled(bench, "seed-exact")
        yield f"{weights}, coupled", lambda: sampled(bench, "coupled")
    yield "pixels", lambda: pixels(bench)
    yield "memory", lambda: memory(bench)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tiny model: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument(
        "--budget", type=float, default=540.0, help="seconds after which none begins"
    )
    parser.add_argument("--phases", help="names, with semicolons between them (default: all)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    wanted = arguments.phases.split(";") if arguments.phases else None
    for name, work in phases(bench):
        if wanted is None or name in wanted or name == "machine" or name.endswith("made"):
            bench.run(name, work)
    return 1 if any("error" in line for line in bench.lines.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
