"""Pictures and clips to codes and back: our vision tokenizer against transformers' Emu3VQVAE.

    python -m benchmarks.vision [--base 64] [--size 256] [--repeats 3] [--full] [--rss 64]

Both have the same random weights, shared in memory. Before anything is timed they must give equal
codes, and pixels of the same 8 bits but for values that lie on the edge between two levels;
otherwise the exit status is 1. Runs alternate; medians count. `--full` adds the published width,
256, at 512x512, which takes minutes a run on two cores. Memory is that of a 720x720 decode: counted
at the published width (`dromaius.nn.live`: nothing is computed), and as the peak of a process's
resident size less what it held before, in a process each, at the width of `--rss` (0: not at all).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import facts
from benchmarks.t2i import make_vision
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.nn.kernels import library
from dromaius.nn.live import LiveBytes

PUBLISHED, LARGE = 256, 720
"""Base width of the published tokenizer; side of a picture it draws."""
TOLERANCE = 0.05
"""How far our pixels may be from theirs, in levels of 8 bits, before rounding."""
GOALS = {"still encode": 3.5, "still decode": 3.5, "clip encode": 1.2, "clip decode": 1.2}
Pair = tuple[Any, VisionTokenizer]


def make_pair(base: int, seed: int = 0) -> Pair:
    """transformers' model and ours over its tensors, the codebook as wide as what it quantizes."""
    theirs, ours = make_vision(base, seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        latents = ours.encode_latents(_noise(1, 64, generator))
        codebook = ours.quantize.embedding.weight
        codebook.normal_(generator=generator).mul_(latents.std()).add_(latents.mean())
        theirs.quantize.embedding.weight.copy_(codebook)
    return theirs, ours


def _noise(frames: int, side: int, generator: torch.Generator) -> Tensor:
    """Pictures [frames,3,side,side] of coarse and fine noise, values -1..1."""
    coarse = torch.rand(frames, 3, 8, 8, generator=generator)
    fine = torch.rand(frames, 3, side, side, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth + 0.3 * fine) / 0.65 - 1


def work(pair: Pair, side: int) -> Iterator[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]]:
    """Name, ours, theirs; both return codes, or pixels."""
    theirs, ours = pair
    frames = _noise(4, side, torch.Generator().manual_seed(1))
    for name, pixels in (("still", frames[:1]), ("clip", frames[None])):
        uncut = torch.full((1, 2), 10**6)  # larger than any side: transformers cuts nothing off

        def encode(pixels: Tensor = pixels, uncut: Tensor = uncut) -> Tensor:
            return torch.stack(theirs.encode(pixels, uncut).image_tokens)

        codes = ours.encode(pixels)

        def decode(codes: Tensor = codes) -> Tensor:
            found: Tensor = theirs.decode(codes)
            return found

        yield f"{name} encode", lambda pixels=pixels: ours.encode(pixels), encode
        yield f"{name} decode", lambda codes=codes: ours.decode(codes), decode


def difference(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Raises SystemExit where codes or pixels differ by more than rounding."""
    expected = expected.view(found.shape)  # a still of transformers' has an axis of one frame
    if not found.is_floating_point():
        if not torch.equal(found, expected):
            count = int((found != expected).sum())
            raise SystemExit(f"vision: {count} of {found.numel()} codes differ: nothing is timed")
        return {"codes": found.numel()}
    levels = [(pixels.clamp(-1, 1) + 1) * 127.5 for pixels in (found, expected)]
    far = float((levels[0] - levels[1]).abs().max())
    if far > TOLERANCE:
        raise SystemExit(f"vision: pixels differ by {far:.1e} levels: nothing is timed")
    other = int((levels[0].round() != levels[1].round()).sum())
    return {"values": found.numel(), "furthest_levels": far, "other_levels": other}


def timed(function: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds, and seconds of all processors together."""
    busy, start = time.process_time(), time.perf_counter()
    function()
    return time.perf_counter() - start, time.process_time() - busy


def measure(base: int, side: int, repeats: int, pair: Pair | None = None) -> list[dict[str, Any]]:
    """One result for each kind of work."""
    results = []
    for name, ours, theirs in work(pair or make_pair(base), side):
        result: dict[str, Any] = {"work": name, "base": base, "size": side}
        result |= difference(ours(), theirs())  # the warm-up, too
        runs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
        for place, who in enumerate(("ours", "theirs")):
            result[who] = statistics.median(run[place][0] for run in runs)
            result[f"{who}_processor"] = statistics.median(run[place][1] for run in runs)
        result["ratio"] = result["theirs"] / result["ours"]
        result["processor_ratio"] = result["theirs_processor"] / result["ours_processor"]
        results.append(result | {"goal": GOALS[name]})
    return results


# ------------------------------------------------------------------------------------------ memory


def counted(base: int, side: int) -> dict[str, int]:
    """Bytes of all tensors at the peak of a decode, weights included, ours and theirs."""
    with torch.device("meta"):
        theirs, ours = make_vision(base, 0)
    weights = sum(t.nbytes for t in (*ours.parameters(), *ours.buffers()))
    codes = torch.zeros(1, 1, side // 8, side // 8, dtype=torch.long, device="meta")

    def decode() -> None:  # not `decode`: autocast, which it turns off, does not know this device
        ours.decode_latents(ours.quantize.embedding(codes).movedim(-1, 1), still=True)

    found = {}
    for name, function in (("ours", decode), ("theirs", lambda: theirs.decode(codes[0]))):
        with torch.no_grad(), LiveBytes() as live:
            function()
            found[name] = weights + live.peak
    return found


def resident(base: int, side: int) -> dict[str, int]:
    """Growth of the resident size by a decode, weights not included, in a process each."""
    found = {}
    for who in ("ours", "theirs"):
        command = [sys.executable, "-m", "benchmarks.vision", "--child", who]
        command += ["--base", str(base), "--size", str(side)]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        found[who] = int(told.stdout)
    return found


def child(who: str, base: int, side: int) -> int:
    """Bytes by which one decode raises this process's peak of resident memory."""
    theirs, ours = make_vision(base, 0)
    model = ours if who == "ours" else theirs
    model.decode(torch.zeros(1, 2, 2, dtype=torch.long))  # libraries are loaded, kernels built
    # The peak begins anew: getrusage would keep that of the process which started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_resident()
    model.decode(torch.zeros(1, side // 8, side // 8, dtype=torch.long))
    return peak_resident() - before


def peak_resident() -> int:
    """Most bytes of memory that this process has held at once (Linux: VmHWM)."""
    told = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(told.split()[0]) * 1024


def memory(rss_base: int, side: int = LARGE) -> list[dict[str, Any]]:
    """Peaks of a decode."""
    found = [{"memory": "counted", "base": PUBLISHED, "size": side} | counted(PUBLISHED, side)]
    if rss_base:
        found.append({"memory": "resident", "base": rss_base, "size": side})
        found[-1] |= resident(rss_base, side)
    return [one | {"share": one["ours"] / one["theirs"], "goal": 0.5} for one in found]


def table(results: list[dict[str, Any]], peaks: list[dict[str, Any]]) -> str:
    lines = [
        "| work | base | size | ours s | transformers s | ratio | processor ratio | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['work']} | {r['base']} | {r['size']}x{r['size']} | {r['ours']:.3f} "
        f"| {r['theirs']:.3f} | {r['ratio']:.2f} | {r['processor_ratio']:.2f} | {r['goal']} |"
        for r in results
    ]
    lines += ["", "| memory of a decode | base | size | ours GB | transformers GB | share | goal |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| {p['memory']} | {p['base']} | {p['size']}x{p['size']} | {p['ours'] / 1e9:.2f} "
        f"| {p['theirs'] / 1e9:.2f} | {p['share']:.2f} | {p['goal']} |"
        for p in peaks
    ]
    return "\n".join(lines)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=int, default=64, help="channels of the widest pictures")
    parser.add_argument("--size", type=int, default=256, help="side of a picture in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the published width, too, once")
    parser.add_argument("--rss", type=int, default=64, help="base width of the measured peak")
    parser.add_argument("--child", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(child(given.child, given.base, given.size))
        return
    results = measure(given.base, given.size, given.repeats)
    if given.full:
        results += measure(PUBLISHED, 512, 1)
    peaks = memory(given.rss)
    built = library("group_norm") is not None
    kernel = "group_norm (C++) and oneDNN" if built else "torch and oneDNN"
    told = {"results": results, "memory": peaks, "kernel": kernel}
    print(json.dumps(told | facts(torch.device("cpu"))))
    print(table(results, peaks))


if __name__ == "__main__":
    main()
