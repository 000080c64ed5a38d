"""Put the trained nano-reader and nano-captioner, with their sets and cards, into the package.

    python recipes/reader/package.py reader --run runs/reader/model
    python recipes/reader/package.py captioner --run runs/captioner/model

First without figures; `dromaius eval reader --markdown > FILE` then measures what lies in the
package, and the same command with --figures FILE writes the card with them. Nothing is written that
would make both models together larger than LIMIT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dromaius.data.text_pictures import StoredPictures
from dromaius.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "src" / "dromaius" / "assets"
LIMIT = 5_000_000
PARTS = (
    "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
SHIPPED_LINES = 500


def copy_model(run: Path, out: Path) -> None:
    """The exported folder's files. Raises ValueError for one that lacks."""
    out.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if not (run / name).is_file():
            raise ValueError(f"{run} has no {name}: is the training finished?")
        with atomic_path(out / name) as temporary:
            shutil.copyfile(run / name, temporary)


def write_lines(data: Path, out: Path, number: int) -> None:
    """The first held-out lines as one picture of 16 levels of grey, and what they say."""
    stored = StoredPictures(data / "heldout.safetensors")
    fonts = json.loads((data / "data.json").read_text(encoding="utf-8"))["heldout"]["families"]
    pictures = stored.stored[:number].numpy()  # [N,H,W]
    head = {
        "name": f"reader {number}",
        "height": int(pictures.shape[1]),
        "texts": list(stored.texts[:number]),
        "fonts": fonts[:number],
    }
    write_text(out / "lines.json", json.dumps(head, indent=0) + "\n")
    levels = (np.round(pictures / 17.0) * 17).astype(np.uint8).reshape(-1, pictures.shape[2])
    with atomic_path(out / "lines.webp") as temporary:
        Image.fromarray(levels).save(temporary, format="WEBP", lossless=True, quality=100, method=6)


def files_table(folder: Path) -> str:
    """Name, size and checksum of each file but the card."""
    rows = ["| file | bytes | SHA-256 |", "|---|---|---|"]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "README.md":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            name = path.relative_to(folder)
            rows.append(f"| {name} | {path.stat().st_size:,} | `{digest}` |")
    return "\n".join(rows)


def fonts_table(data: Path) -> str:
    """The families with their licences, held-out ones apart."""
    families = json.loads((data / "data.json").read_text(encoding="utf-8"))["families"]
    used = [one for one in families if one["faces"]]
    rows = ["| families | licence | names (npm: @fontsource/NAME) |", "|---|---|---|"]
    for held, side in ((False, "training"), (True, "held out")):
        for licence in sorted({one["licence"] for one in used}):
            names = [o["name"] for o in used if o["held"] == held and o["licence"] == licence]
            if names:
                rows.append(f"| {side}, {len(names)} | {licence} | {', '.join(names)} |")
    return "\n".join(rows)


def minutes(run: Path) -> float:
    """Processor minutes of the run, as its log says."""
    last = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["cpu_seconds"]) / 60


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Put a trained model into the package.")
    parser.add_argument("what", choices=("reader", "captioner"))
    parser.add_argument("--run", type=Path, required=True, help="the exported folder")
    parser.add_argument("--data", type=Path, help="default: runs/WHAT/data")
    parser.add_argument("--figures", type=Path, help="Markdown of dromaius eval WHAT")
    asked = parser.parse_args(arguments)
    out, data = ASSETS / f"nano-{asked.what}", asked.data or Path("runs") / asked.what / "data"
    card = Path(__file__).resolve().parents[1] / asked.what / "card.md"
    try:
        copy_model(asked.run, out)
        if asked.what == "reader":
            write_lines(data, out / "heldout", SHIPPED_LINES)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    figures = "Not measured yet."
    if asked.figures:
        figures = asked.figures.read_text(encoding="utf-8").strip()
    text = card.read_text(encoding="utf-8").format(
        figures=figures,
        minutes=minutes(asked.run),
        files=files_table(out),
        fonts=fonts_table(data) if asked.what == "reader" else "",
    )
    write_text(out / "README.md", text)
    models = [ASSETS / name for name in ("nano-reader", "nano-captioner")]
    size = sum(path.stat().st_size for one in models for path in one.rglob("*") if path.is_file())
    print(f"{out}: both models together have {size:,} of {LIMIT:,} bytes")
    return int(size > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
