"""Collect what nano-captioner learns from: nano's own pictures, names, styles and splits.

    python recipes/nano/build_data.py
    python recipes/nano/build_data.py --styles twemoji --out runs/nano/twemoji
    python recipes/nano/make_evaluation.py
    python recipes/captioner/collect_data.py             # runs/captioner/data, seconds

train.safetensors has the pictures that Emu3 nano's language model was trained on, with their
English names (several of one look: only the first). heldout.safetensors has the views, as opaque
pictures, for which the evaluation set asks nano for a trained picture's English name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dromaius.data.text_pictures import write_text_pictures
from dromaius.errors import DromaiusError
from dromaius.evaluation.cases import read_set
from dromaius.files import write_text

NANO = Path(__file__).resolve().parents[1] / "nano"
sys.path.append(str(NANO))

from evaluation_files import Source  # noqa: E402
from make_examples import Selection  # noqa: E402
from splits import split_of  # noqa: E402


def trained(source: Source, selection: Path) -> list[int]:
    """Rows of the pictures that nano was trained to name."""
    chosen = Selection.from_json(json.loads(selection.read_text(encoding="utf-8")))
    records = source.records
    return [
        row
        for row in chosen.rows(records)
        if split_of(records[row]) == "train" and records[row]["dup_of"] is None
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Collect the data of nano-captioner.")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--evaluation", type=Path, default=Path("runs/nano/full/evaluation"))
    parser.add_argument("--selection", type=Path, default=NANO / "full" / "selection.json")
    parser.add_argument("--out", type=Path, default=Path("runs/captioner/data"))
    asked = parser.parse_args(arguments)
    try:
        source, cases = Source(asked.data), read_set(asked.evaluation)
    except (DromaiusError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    rows = trained(source, asked.selection)
    questions = [
        one
        for one in cases.questions
        if (one.split, one.kind, one.language) == ("trained", "name", "en")
    ]
    parts = {
        "train": (source.pictures[rows], [str(source.records[row]["en"]) for row in rows]),
        "heldout": (
            np.stack([cases.show(one.view) for one in questions]),
            [one.answer for one in questions],
        ),
    }
    report = {}
    for name, (pictures, names) in parts.items():
        path = asked.out / f"{name}.safetensors"
        write_text_pictures(path, pictures, names)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        report[name] = {"pictures": len(names), "names": len(set(names)), "sha256": digest}
        print(f"{path}: {len(names)} pictures, {len(set(names))} names")
    write_text(asked.out / "data.json", json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
