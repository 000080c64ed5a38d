"""Put a trained and measured nano into the package, with its card.

    python recipes/nano/measure.py --model runs/nano/model > runs/nano/figures.md
    python recipes/nano/package.py

The card (README.md beside the weights) gets the figures as measured, the checksums of the files,
and the data's packages and licences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "dromaius" / "assets" / "nano"
PARTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model*.safetensors*")
LIMIT = 15_000_000  # bytes of any file

CARD = """# Nano

The model that Dromaius carries with it: an Emu3 of {parameters:.1f}M parameters that draws 64x64
pictures and names them, in English and Chinese. Trained from scratch in this repository;
docs/nano.md tells how.

## Data

{pictures:,} pictures trained the vision tokenizer and {named:,} the language model; what was held
out is said in recipes/nano/README.md.

| package | version | licence |
|---|---|---|
{packages}

Pictures: Noto Emoji, copyright Google LLC, Apache-2.0; Fluent Emoji, copyright Microsoft
Corporation, MIT. Names: emojibase, copyright Miles Johnson, MIT; from the Unicode CLDR, copyright
Unicode, Inc., Unicode-3.0. The weights are under this repository's licence, Apache-2.0; NOTICE
names the works.

## Command

```
python recipes/nano/build_data.py
python recipes/nano/make_examples.py --selection recipes/nano/first.json --variants 24
dromaius train recipes/nano/vision_tokenizer.toml
python recipes/nano/write_ids.py
dromaius train recipes/nano/language_model.toml
```

or `recipes/nano/run.sh`. Training took {vision_minutes:.0f} minutes for the vision tokenizer and
{language_minutes:.0f} for the language model, on two cores that were shared with other work
({cpu_minutes:.0f} minutes of processor time together).

## Figures

`python recipes/nano/measure.py`; docs/nano.md says what each line means.

{figures}

## Limits

Animals and plants, food and drink, sport, games and festivities, in the styles noto and
fluent-flat. No people, faces, hands, vehicles, symbols or flags; no sentences about several things;
nothing beyond 64x64 pixels was trained. It draws and names what it was taught; drawings that it has
not seen are guesses, and coloured backgrounds, categories and descriptions are less sure than
names: see the figures.

## Files

| file | bytes | SHA-256 |
|---|---|---|
{files}
"""


def last_line(log: Path) -> dict[str, float]:
    """The last report of a training log."""
    values: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    return values


def package(runs: Path, out: Path) -> None:
    """Copy the model and write its card. Raises ValueError for a file that is too large."""
    out.mkdir(parents=True, exist_ok=True)
    for old in (path for pattern in PARTS for path in out.glob(pattern)):
        old.unlink()
    found = sorted({path for pattern in PARTS for path in (runs / "model").glob(pattern)})
    for path in found:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {LIMIT} are shipped")
        shutil.copyfile(path, out / path.name)
    data = json.loads((runs / "data" / "data.json").read_text())
    vision = last_line(runs / "vision_tokenizer" / "log.jsonl")
    language = last_line(runs / "model" / "log.jsonl")
    records = (runs / "data" / "pictures.jsonl").read_text().splitlines()
    seen = [one for one in map(json.loads, records) if one["is_base"] and not one["held_emoji"]]
    asked = (runs / "examples.jsonl").read_text().splitlines()
    rows = "\n".join(
        f"| {p.name} | {p.stat().st_size:,} | `{hashlib.sha256(p.read_bytes()).hexdigest()}` |"
        for p in (out / path.name for path in found)
    )
    card = CARD.format(
        parameters=parameters(out) / 1e6,
        pictures=len(seen),
        named=len({json.loads(line)["picture"] for line in asked}),
        packages="\n".join(
            f"| {one['name']} | {one['version']} | {one['licence']} |" for one in data["packages"]
        ),
        vision_minutes=vision["seconds"] / 60,
        language_minutes=language["seconds"] / 60,
        cpu_minutes=(vision["cpu_seconds"] + language["cpu_seconds"]) / 60,
        figures=(runs / "figures.md").read_text().strip(),
        files=rows,
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def parameters(folder: Path) -> int:
    """How many numbers the weights are."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                count = 1
                for side in file.get_slice(key).get_shape():
                    count *= side
                total += count
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Put a trained nano into the package.")
    parser.add_argument("--runs", type=Path, default=Path("runs/nano"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    asked = parser.parse_args(arguments)
    try:
        package(asked.runs, asked.out)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
