"""Read the held-out lines with RapidOCR too (PP-OCR's weights inside its package) and compare.

    python -m venv /tmp/rapid && /tmp/rapid/bin/pip install rapidocr-onnxruntime
    /tmp/rapid/bin/python recipes/reader/compare.py --out /tmp/rapid.json
    python recipes/reader/compare.py --table /tmp/rapid.json

The first call needs nothing of Dromaius, the second nothing of RapidOCR. Only its recogniser reads:
the lines are cut already; each is shown closely cropped, as its own detector would. Its model often
drops spaces, so they are counted once and left out once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SET = Path(__file__).resolve().parents[2] / "src" / "dromaius" / "assets" / "nano-reader"


def read_with_rapidocr(folder: Path) -> list[str]:
    """What PP-OCR's recogniser reads of each line of lines.webp, in order."""
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()
    head = json.loads((folder / "lines.json").read_text(encoding="utf-8"))
    grey = np.asarray(Image.open(folder / "lines.webp").convert("L"))
    found = []
    for place in range(len(head["texts"])):
        line = trimmed(grey[place * head["height"] : (place + 1) * head["height"]])
        result, _ = engine(np.dstack([line] * 3), use_det=False, use_cls=False, use_rec=True)
        found.append(result[0][0] if result else "")
    return found


def trimmed(line: np.ndarray, margin: int = 4) -> np.ndarray:
    """The part of a line, uint8 [H,W], that has ink, with some paper around it."""
    columns = np.flatnonzero((line < 128).any(axis=0))
    rows = np.flatnonzero((line < 128).any(axis=1))
    if not columns.size:
        return line
    cut = line[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(cut, margin, constant_values=255)


def table(folder: Path, theirs: Sequence[str]) -> str:
    """Both readers' figures as Markdown, with 95 % intervals."""
    import dromaius
    from dromaius.evaluation.figures import share
    from dromaius.evaluation.reader import error_rate, read_all, read_lines

    lines = read_lines(folder)
    ours = read_all(dromaius.load("nano-reader"), lines.pictures, lambda done: None)
    rows = ["| reader | characters wrong | without spaces | capitals alike too | lines without a "
            "fault |", "|---|---|---|---|---|"]  # fmt: skip
    for name, read in (("nano-reader", ours), ("RapidOCR", theirs)):
        cells = [name]
        for change in (str, unspaced, lambda text: unspaced(text).lower()):
            figure = error_rate("", "", [change(t) for t in read], [change(t) for t in lines.texts])
            cells.append(f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%})")
        hits = [one == text for one, text in zip(read, lines.texts, strict=True)]
        figure = share("", "", hits)
        cells.append(f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def unspaced(text: str) -> str:
    """Without its spaces."""
    return text.replace(" ", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare nano-reader with RapidOCR.")
    parser.add_argument("--lines", type=Path, default=SET / "heldout")
    parser.add_argument("--out", type=Path, help="read with RapidOCR, write what it reads here")
    parser.add_argument("--table", type=Path, help="what --out wrote: print the table")
    asked = parser.parse_args(arguments)
    if asked.out:
        asked.out.write_text(json.dumps(read_with_rapidocr(asked.lines)), encoding="utf-8")
    if asked.table:
        print(table(asked.lines, json.loads(asked.table.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
