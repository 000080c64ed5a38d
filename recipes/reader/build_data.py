"""Draw the lines that nano-reader learns from and is measured with.

    python recipes/reader/build_data.py                      # runs/reader/data, minutes

train.safetensors: lines in the families for training. heldout.safetensors: other families and other
words, nothing of it in training. known_fonts.safetensors: other words in training's families, to
tell what the fonts cost. data.json: counts, families with their licences, checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from dromaius.data.text_pictures import write_text_pictures
from dromaius.files import write_text
from fonts import CACHE, DownloadError, Face, faces, families, registry
from lines import HEIGHT, WIDTH, Layout, draw_line, random_layout
from texts import Writer, words


def clean_layout(draw: Random) -> Layout:
    """A line as it is cut from a page: nothing stretched, on the left."""
    return Layout(tall=draw.uniform(0.6, 0.95), y=draw.random())


def write_lines(
    path: Path, chosen: Sequence[Face], writer: Writer, number: int, seed: str, clean: bool
) -> list[str]:
    """Draws `number` lines, faces and texts by chance; returns which family each is in."""
    draw = Random(seed)
    kinds: dict[str, list[Face]] = {}
    for face in chosen:
        kinds.setdefault(face.family.name, []).append(face)
    names = sorted(kinds)
    pictures, texts, used = np.empty((number, HEIGHT, WIDTH), np.uint8), [], []
    for row in range(number):
        texts.append(writer.line(draw))
        used.append(draw.choice(names))  # families alike, however many cuts they have
        layout = clean_layout(draw) if clean else random_layout(draw)
        pictures[row] = draw_line(texts[-1], draw.choice(kinds[used[-1]]), layout)
        if row % 2000 == 0:
            print(f"{path.name}: {row}/{number}", file=sys.stderr, flush=True)
    write_text_pictures(path, pictures, texts)
    return used


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the lines of nano-reader.")
    parser.add_argument("--out", type=Path, default=Path("runs/reader/data"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--lines", type=int, default=64_000, help="for training")
    parser.add_argument("--heldout", type=int, default=1000)
    asked = parser.parse_args(arguments)
    try:
        base = registry()
        known = words(asked.cache, base)
        found = {one.name: list(faces(one, asked.cache, base)) for one in families()}
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    sides = {
        held: [face for one in families() if one.held == held for face in found[one.name]]
        for held in (False, True)
    }
    parts = {
        "heldout": (sides[True], True, asked.heldout),
        "known_fonts": (sides[False], True, asked.heldout),
        "train": (sides[False], False, asked.lines),
    }
    report: dict[str, object] = {}
    for name, (chosen, held, number) in parts.items():
        path = asked.out / f"{name}.safetensors"
        writer = Writer(known, held)
        used = write_lines(path, chosen, writer, number, f"reader {name}", clean=held)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        report[name] = {"lines": number, "faces": len(chosen), "sha256": digest}
        if held:
            report[name] |= {"families": used}  # type: ignore[operator]  # a dict, just made
    report["families"] = [
        {"name": one.name, "licence": one.package.licence, "held": one.held,
         "faces": len(found[one.name])}
        for one in families()
    ]  # fmt: skip
    write_text(asked.out / "data.json", json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
