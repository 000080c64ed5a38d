"""Figures of a trained nano, through the public Python interface alone.

    python recipes/nano/measure.py --model runs/nano/model --data runs/nano/data

prints a table in Markdown: each figure with the number of cases and its 95 % interval (Wilson).
Galleries, splits and wording are those of docs/nano.md; seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import dromaius
from build_data import read_lines
from captions import Record, plain_prompt
from dromaius.errors import DromaiusError
from make_examples import Selection
from questions import QUESTIONS
from render import plain_view, render_view
from splits import split_of

BATCH = 25  # pictures drawn at once
FREE_PROMPTS = (
    ("a red apple", "red apple"),
    ("red apple", "red apple"),
    ("红苹果", "red apple"),
    ("Red Apple", "red apple"),
    ("red apple, noto style", "red apple"),
    ("a red apple in fluent-flat style", "red apple"),
    ("a picture of a red apple", "red apple"),
    ("红苹果，noto 风格", "red apple"),
    ("a tiger", "tiger"),
    ("老虎", "tiger"),
    ("pizza", "pizza"),
    ("a snowman", "snowman"),
)


class Case:
    """Hits among trials of one figure."""

    def __init__(self) -> None:
        self.hits = self.trials = 0

    def add(self, hit: bool) -> None:
        self.hits += hit
        self.trials += 1

    def __str__(self) -> str:
        low, high = wilson(self.hits, self.trials)
        return f"{self.hits / max(1, self.trials):.2f} | {self.trials} | {low:.2f}-{high:.2f}"


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    if not trials:
        return 0.0, 1.0
    p, n = hits / trials, trials
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


class Bench:
    """A model, the pictures it was trained on, and what was measured so far."""

    def __init__(self, model: Any, data: Path, selection: Selection, limit: int) -> None:
        self.model, self.limit = model, limit
        self.records: list[Record] = read_lines(data / "pictures.jsonl")
        self.pictures = np.load(data / "pictures.npy", mmap_mode="r")
        self.rows = selection.rows(self.records)
        self.twins = {(r["style"], r["dup_of"]) for r in self.records if r["dup_of"] is not None}
        self.lines: list[str] = []
        self.galleries = {
            style: self._gallery(style) for style in {self.records[i]["style"] for i in self.rows}
        }

    def _gallery(self, style: str) -> tuple[np.ndarray, list[str]]:
        """All base emoji of a style on white [n,S*S*3], without duplicates, and their names."""
        rows = [
            i
            for i, r in enumerate(self.records)
            if r["style"] == style and r["is_base"] and r["dup_of"] is None
        ]
        flat = [self.view(i, plain_view()).astype(np.float32).ravel() for i in rows]
        return np.stack(flat), [self.records[i]["en"] for i in rows]

    def view(self, row: int, view: Any) -> np.ndarray:
        return render_view(np.asarray(self.pictures[row]), view)

    def exact(self, row: int) -> bool:
        """Whether the pixels have one name only."""
        r = self.records[row]
        return r["dup_of"] is None and (r["style"], r["cp"]) not in self.twins

    def nearest(self, picture: Image.Image, styles: Sequence[str]) -> str:
        """Name of the nearest picture (squared pixel difference) in the galleries."""
        pixels = np.asarray(picture, np.float32).ravel()
        found = []
        for style in styles:
            flat, names = self.galleries[style]
            distance = np.square(flat - pixels).sum(axis=1)
            best = int(distance.argmin())
            found.append((float(distance[best]), names[best]))
        return min(found)[1]

    def report(self, name: str, value: object) -> None:
        line = f"| {name} | {value} |"
        self.lines.append(line)
        print(line, flush=True)


def reconstruction(bench: Bench) -> None:
    """Figure 1: pictures that no part was trained on."""
    rows = [i for i, r in enumerate(bench.records) if r["is_base"] and r["held_emoji"]]
    vision = bench.model.vision_tokenizer
    shown = np.stack([bench.view(i, plain_view()) for i in rows])
    pixels = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        codes = torch.cat([vision.encode(part) for part in pixels.split(32)])
        again = torch.cat([vision.decode(part) for part in codes.split(32)])
    one = pixels.add(1).mul(127.5).double()
    other = again.clamp(-1, 1).add(1).mul(127.5).round().double()
    psnr = 10 * torch.log10(255**2 / (one - other).square().flatten(1).mean(1))
    similar = structural_similarity(one, other)
    used = codes.unique().numel() / vision.config.codebook_size
    bench.report("vision tokenizer, held_emoji: PSNR in dB", f"{psnr.mean():.2f} | {len(rows)} |")
    bench.report("vision tokenizer, held_emoji: SSIM", f"{similar:.3f} | {len(rows)} |")
    bench.report("vision tokenizer, held_emoji: codes in use", f"{used:.2f} | {len(rows)} |")


def structural_similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean SSIM (Wang 2004: 11x11 Gaussian window of 1.5) of [B,3,H,W] in 0..255."""
    place = torch.arange(11, dtype=one.dtype) - 5
    line = torch.exp(-place.square() / (2 * 1.5**2))
    window = torch.outer(line, line).div(line.sum() ** 2)[None, None]

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], window)

    a, b = blur(one), blur(other)
    aa, bb, ab = blur(one * one) - a * a, blur(other * other) - b * b, blur(one * other) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return float(score.mean())


def drawing(bench: Bench) -> None:
    """Figure 2: trained names, nearest neighbour among all base emoji of the style."""
    trained = [i for i in bench.rows if split_of(bench.records[i]) == "train" and bench.exact(i)]
    rows = Random(7).sample(trained, min(bench.limit, len(trained)))
    for language in ("en", "zh"):
        for name, options in (("greedy", {"temperature": 0.0, "guidance": 1.0}), ("sampled", {})):
            case, missed = Case(), []
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                prompts = [plain_prompt(bench.records[i], language) for i in part]
                drawn = bench.model.generate_image(prompts, seed=start, **options)
                for i, picture in zip(part, drawn, strict=True):
                    found = bench.nearest(picture, [bench.records[i]["style"]])
                    case.add(found == bench.records[i]["en"])
                    if found != bench.records[i]["en"]:
                        missed.append(f"{bench.records[i]['en']} -> {found}")
            bench.report(f"text to image, {name}, {language}", case)
            print(f"missed: {'; '.join(missed[:12])}", file=sys.stderr)


def free_prompts(bench: Bench) -> None:
    """Wordings that people type, greedy and sampled, nearest neighbour over the styles trained."""
    styles = sorted(bench.galleries)
    texts = [text for text, _ in FREE_PROMPTS]
    for name, options in (("greedy", {"temperature": 0.0, "guidance": 1.0}), ("sampled", {})):
        case = Case()
        drawn = bench.model.generate_image(texts, seed=7, **options)
        for (text, wanted), picture in zip(FREE_PROMPTS, drawn, strict=True):
            found = bench.nearest(picture, styles)
            case.add(found == wanted)
            if found != wanted:
                print(f"{name}: {text!r} drew {found}", file=sys.stderr)
        bench.report(f"wordings that people type, {name}", case)


def answering(bench: Bench, heldout: Path) -> None:
    """Figures 3, 5 and 6: standard questions about views that training never shows."""
    cases: dict[tuple[str, str, str], Case] = defaultdict(Case)
    for example, kind, question, wanted in asked_questions(bench, heldout):
        case = cases[example["split"], kind, example["language"]]
        if case.trials >= bench.limit:
            continue
        picture = Image.fromarray(bench.view(example["picture"], example["view"]))
        case.add(bench.model.answer(picture, question) == wanted)
    order = {split: place for place, split in enumerate(("shifted", "held_pair", "held_emoji"))}
    for (split, kind, language), case in sorted(
        cases.items(), key=lambda item: (order.get(item[0][0], 9), item[0])
    ):
        bench.report(f"answers, {split}: {kind}, {language}", case)


def asked_questions(bench: Bench, heldout: Path) -> Iterator[tuple[dict[str, Any], str, str, str]]:
    """(example, kind of question, question, answer) of the held-out file, in a fixed shuffle."""
    lines = [one for one in read_lines(heldout) if one["task"] == "answer"]
    Random(7).shuffle(lines)
    for example in lines:
        for question, wanted in example["qa"]:
            kind = kind_of(bench.records[example["picture"]], example["language"], question)
            if example["split"] != "held_emoji" or kind != "name":
                yield example, kind, question, wanted


def kind_of(record: Record, language: str, question: str) -> str:
    """The kind whose wordings the question fits."""
    for kind, wordings in QUESTIONS.items():
        for _, template in wordings[language]:
            head = template.split("{")[0]
            if question == template or ("{" in template and head and question.startswith(head)):
                return kind
    return "presence" if language == "zh" else "count"


def timing(bench: Bench) -> None:
    """Figure 8: one picture with guidance, one answer; the best of five."""

    def best(job: Callable[[], object]) -> str:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            job()
            times.append(time.perf_counter() - start)
        return f"{min(times):.2f} | 5 |"

    picture = bench.model.generate_image("a red apple", seed=7)
    bench.report("seconds: a picture with guidance",
                 best(lambda: bench.model.generate_image("a red apple", seed=7)))  # fmt: skip
    bench.report("seconds: an answer",
                 best(lambda: bench.model.answer(picture, "What is in the image?")))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a trained nano.")
    parser.add_argument("--model", default="nano", help="a folder, or nano (the shipped one)")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--heldout", type=Path, default=Path("runs/nano/heldout.jsonl"))
    parser.add_argument("--selection", type=Path, default=Path(__file__).with_name("first.json"))
    parser.add_argument("--limit", type=int, default=200, help="cases per figure")
    parser.add_argument("--only", default="vision,t2i,free,answers,time")
    asked = parser.parse_args(arguments)
    try:
        selection = Selection.from_json(json.loads(asked.selection.read_text(encoding="utf-8")))
        bench = Bench(dromaius.load(asked.model), asked.data, selection, asked.limit)
        print("| figure | value | cases | 95 % interval |\n|---|---|---|---|")
        jobs: dict[str, Callable[[], None]] = {
            "vision": lambda: reconstruction(bench),
            "t2i": lambda: drawing(bench),
            "free": lambda: free_prompts(bench),
            "answers": lambda: answering(bench, asked.heldout),
            "time": lambda: timing(bench),
        }
        for name in asked.only.split(","):
            jobs[name]()
    except (DromaiusError, OSError, KeyError) as error:
        Console(stderr=True).print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
