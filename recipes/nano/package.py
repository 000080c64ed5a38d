"""Put a trained and measured nano into the package, with its card.

    dromaius eval nano --model runs/nano/full/average --markdown > runs/nano/full/figures.md
    python recipes/nano/package.py --run runs/nano/full

The mean of the language model's last stages (average) is packaged, or its only stage (model). The
card (README.md beside the weights) gets the figures as measured, the checksums of the files, and
the data's packages and licences. Nothing is written where a file has more than 15 MB or all of them
together, the quick evaluation set included, more than 25 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "src" / "dromaius" / "assets" / "nano"
PARTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model*.safetensors*")
FILE_LIMIT, TOTAL_LIMIT = 15_000_000, 25_000_000  # bytes

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
names the works. The pictures in quick/ are the works themselves, under their own licences.

## Command

```text
recipes/nano/run.sh {name}
```

Training took {vision_minutes:.0f} minutes for the vision tokenizer and {language_minutes:.0f} for
the language model.

## Figures

As `dromaius eval nano` prints them (`--quick` is a smaller table in a minute); docs/nano.md says
what each line means. "within": the value is below "must", its 95 % interval is not.

{figures}

{missed}

## Limits

{scope} No sentences about several things; nothing beyond 64x64 pixels was trained. It draws and
names what it was taught; drawings that it has not seen are guesses. It cannot draw on a coloured
background, and prompts want small letters ("Red Apple" is missed where "red apple" is drawn).

## Files

| file | bytes | SHA-256 |
|---|---|---|
{files}
"""


def last_line(log: Path) -> dict[str, float]:
    """The last report of a training log."""
    values: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    return values


def finished_stages(run: Path) -> list[Path]:
    """Folders of the language model's stages, in order. Raises ValueError where there is none."""
    stages = [run / "model"]
    while (after := run / f"model_{len(stages) + 1}").exists():
        stages.append(after)
    if unfinished := [stage for stage in stages if not (stage / "config.json").exists()]:
        raise ValueError(f"{unfinished[0]} is not trained to its end")
    return stages


def check_sizes(parts: Sequence[Path], quick: Path) -> None:
    """Raises ValueError for a file or a package that is too large."""
    sizes = {path: path.stat().st_size for path in [*parts, *quick.glob("*")]}
    if not any(path.suffix == ".safetensors" for path in parts):
        raise ValueError("there is no model to package")
    for path, size in sizes.items():
        if size > FILE_LIMIT:
            raise ValueError(f"{path} has {size:,} bytes; at most {FILE_LIMIT:,} are shipped")
    if (total := sum(sizes.values())) > TOTAL_LIMIT:
        raise ValueError(f"the model has {total:,} bytes; at most {TOTAL_LIMIT:,} are shipped")


def missed(figures: str) -> str:
    """One sentence: which figures of the Markdown table are below what is asked."""
    rows = [line.strip("| ").split(" | ") for line in figures.splitlines() if line.startswith("|")]
    names = [row[1] for row in rows if row[-1].strip() == "no"]
    if not names:
        return 'Every figure meets its "must" within its interval.'
    return f'Below "must": {"; ".join(names)}.'


def scope(selection: dict[str, Any]) -> str:
    """One sentence: what the language model was shown."""
    what = []
    for part in selection.get("parts") or [selection]:
        kinds = [*part.get("groups", ()), *part.get("subgroups", ())]
        where = part.get("styles") or selection.get("styles")
        what.append((", ".join(kinds) or "all") + (f" in {', '.join(where)}" if where else ""))
    return f"It knows these groups of emoji, and nothing else: {'; '.join(what)}."


def package(run: Path, data_folder: Path, selection: Path, out: Path) -> None:
    """Copy the model and write its card. Raises ValueError for what is too large."""
    stages = finished_stages(run)
    model = run / "average" if len(stages) > 1 else stages[-1]
    if not (model / "config.json").exists():
        raise ValueError(f"there is no {model}: average.py writes it")
    found = sorted({path for pattern in PARTS for path in model.glob(pattern)})
    check_sizes(found, out / "quick")
    data = json.loads((data_folder / "data.json").read_text())
    vision = last_line(run / "vision_tokenizer" / "log.jsonl")
    language = sum(last_line(stage / "log.jsonl")["seconds"] for stage in stages)
    records = map(json.loads, (data_folder / "pictures.jsonl").read_text().splitlines())
    seen = [one for one in records if one["is_base"] and not one["held_emoji"]]
    with (run / "examples.jsonl").open() as lines:
        named = {json.loads(line)["picture"] for line in lines}
    figures = (run / "figures.md").read_text().strip()
    rows = "\n".join(
        f"| {path.name} | {path.stat().st_size:,} "
        f"| `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
        for path in found
    )
    card = CARD.format(
        name=run.name,
        parameters=parameters(model) / 1e6,
        pictures=len(seen),
        named=len(named),
        packages="\n".join(
            f"| {one['name']} | {one['version']} | {one['licence']} |" for one in data["packages"]
        ),
        vision_minutes=vision["seconds"] / 60,
        language_minutes=language / 60,
        figures=figures,
        missed=missed(figures),
        scope=scope(json.loads(selection.read_text())),
        files=rows,
    )
    out.mkdir(parents=True, exist_ok=True)
    for old in (path for pattern in PARTS for path in out.glob(pattern)):
        old.unlink()
    for path in found:
        shutil.copyfile(path, out / path.name)
    (out / "README.md").write_text(card, encoding="utf-8")


def parameters(folder: Path) -> int:
    """How many numbers the weights are."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("model*.safetensors"):
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
    parser.add_argument("--run", type=Path, default=Path("runs/nano/full"))
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--selection", type=Path, help="default: recipes/nano/RUN/selection.json")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    asked = parser.parse_args(arguments)
    selection = asked.selection or Path(__file__).parent / asked.run.name / "selection.json"
    try:
        package(asked.run, asked.data, selection, asked.out)
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
