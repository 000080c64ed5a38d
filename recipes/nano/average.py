"""The mean of two stages' weights: what the one forgot, the other still knows.

    python recipes/nano/average.py runs/nano/full/model_4 runs/nano/full/model_5 \
        --out runs/nano/full/average

A stage that begins from another's weights stays near enough for their mean to be better than either
(Wortsman et al., Model soups, arXiv 2203.05482). docs/nano.md has the figures of all three.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dromaius.errors import DromaiusError, InputError
from dromaius.io.shards import save_sharded
from dromaius.training.export import MAX_FILE

KEPT = ("config.json", "tokenizer.json", "tokenizer_config.json")


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model in our layout."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= load_file(path)
    if not found:
        raise InputError(f"{folder} holds no weights")
    return found


def average(first: Path, second: Path, out: Path) -> None:
    """Writes the mean of two models of one shape, computed in float32."""
    ours, theirs = read(first), read(second)
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        raise InputError(f"{first} and {second} are not two stages of one model")
    mean = {
        name: torch.lerp(one.float(), theirs[name].float(), 0.5).to(one.dtype)
        for name, one in ours.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_sharded(mean, out, MAX_FILE)
    for name in KEPT:
        shutil.copyfile(first / name, out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Average two trained stages.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    try:
        average(asked.first, asked.second, asked.out)
    except (DromaiusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
