"""Examples to ids: train the text tokenizer, encode the pictures, write the training samples.

    python recipes/nano/write_ids.py --data runs/nano/data --run runs/nano/full

reads examples.jsonl, heldout.jsonl and vision_tokenizer/ of the run. Its folder ids/ gets
tokenizer.json, config.json and the vision tokenizer (the base that the trained language model is
added to), and t2i.safetensors, answers.safetensors and the held-out files. Training reads nothing
else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from build_data import read_lines
from dromaius.data.order import number_for
from dromaius.data.samples import Sample, write_samples
from dromaius.data.tokenize import answers_sample, generation_sample
from dromaius.errors import DromaiusError
from dromaius.files import write_text
from dromaius.models.emu3.config import (
    Emu3Config,
    GenerationSettings,
    ImageSettings,
    PromptSettings,
    VocabularyConfig,
)
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.prompt import Encodes
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.models.emu3.weights import load_vision_tokenizer
from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import train_bpe
from dromaius.tokenizers.tiktoken import FIXED_NAMES, vision_names
from render import render_view

EMPTY_PROMPTS = 0.1  # share of text-to-image prompts that are dropped, for guidance
PROMPT = PromptSettings(template="chat", system="")
# nano-recipe.md section 4: plain guidance harms a model of this size, min_p mends it.
GENERATION = GenerationSettings(guidance=1.5, top_k=None, min_p=0.1, max_new_tokens=64)
ROLES = {
    "pad": "<|endoftext|>",
    "bos": "<|extra_203|>",
    "eos": "<|extra_204|>",
    "image_token": "<|image token|>",
    "image_start": "<|image start|>",
    "image_end": "<|image end|>",
    "end_of_line": "<|extra_200|>",
    "end_of_frame": "<|extra_201|>",
}


T = TypeVar("T")


class Remembering:
    """A tokenizer that encodes a text once: the examples say the same words again and again."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self._encode = lru_cache(maxsize=2**18)(lambda text: tuple(tokenizer.encode(text)))

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))


def told(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items; a bar on a terminal tells how far they are, elsewhere a line every tenth."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, doing, console=console)
        return
    for number, item in enumerate(items, start=1):
        yield item
        if number * 10 // len(items) > (number - 1) * 10 // len(items):
            print(f"{doing}: {number * 100 // len(items)} %", file=sys.stderr, flush=True)


def texts(examples: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Every prompt, question and answer, with the words that stand around them."""
    yield from [" USER: ", " ASSISTANT:", "8*8"]
    for one in examples:
        if one["task"] == "t2i":
            yield one["prompt"]
        else:
            yield from (text for pair in one["qa"] for text in pair)


def make_tokenizer(examples: Sequence[dict[str, Any]], size: int, codebook: int) -> BpeTokenizer:
    """Ordinary ids, then Emu3's block of special names, so that nano has every published form."""
    return train_bpe(texts(examples), size, [*FIXED_NAMES, *vision_names(codebook)])


def make_config(tokenizer: BpeTokenizer, vision_tokenizer: Path) -> Emu3Config:
    """Everything but the language model."""
    vision = read_config(vision_tokenizer).vision_tokenizer
    if vision is None:
        raise DromaiusError(f"{vision_tokenizer} holds no vision tokenizer")
    special, first = tokenizer.special_tokens, vision_names(1)[-1]
    roles = {role: special[name] for role, name in ROLES.items()}
    return Emu3Config(
        language_model=None,
        vision_tokenizer=vision,
        vocabulary=VocabularyConfig(
            **roles, visual_start=special[first], codebook_size=vision.codebook_size
        ),
        image=ImageSettings(min_pixels=64 * 64, max_pixels=64 * 64, image_area=64 * 64),
        generation=GENERATION,
        prompt=PROMPT,
    )


def key_of(example: dict[str, Any]) -> str:
    """What identifies the pixels of an example."""
    return json.dumps([example["picture"], example["view"]], sort_keys=True)


def encode_views(
    examples: Sequence[dict[str, Any]], pictures: np.ndarray, model: VisionTokenizer
) -> dict[str, torch.Tensor]:
    """The codes [h,w] of every different view."""
    views = {key_of(one): one for one in examples}
    keys, out = list(views), dict[str, torch.Tensor]()
    chunks = [keys[i : i + 64] for i in range(0, len(keys), 64)]
    for chunk in told(chunks, "encode pictures"):
        shown = [
            render_view(np.asarray(pictures[views[k]["picture"]]), views[k]["view"]) for k in chunk
        ]
        pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.no_grad():
            out |= dict(zip(chunk, model.encode(pixels).to(torch.int16), strict=True))
    return out


def samples_of(
    examples: Iterable[dict[str, Any]],
    task: str,
    codes: dict[str, torch.Tensor],
    tokenizer: Encodes,
    ids: Vocabulary,
    empty: float,
    seed: int,
) -> Iterator[Sample]:
    """The samples of one task."""
    for number, one in enumerate(examples):
        if one["task"] != task:
            continue
        grid = codes[key_of(one)].long()
        if task == "t2i":
            dropped = number_for(seed, "empty", number) / 2**63 < empty
            yield generation_sample(tokenizer, ids, "" if dropped else one["prompt"], grid)
        else:
            pairs = [(question, answer) for question, answer in one["qa"]]
            yield answers_sample(tokenizer, ids, PROMPT, grid, pairs)


def write_ids(asked: argparse.Namespace) -> None:
    """The whole job: the base and all samples, or samples of more views beside them."""
    run = asked.run / "more" if asked.more else asked.run
    examples = read_lines(run / "examples.jsonl")
    held = [] if asked.more else read_lines(run / "heldout.jsonl")
    held = [one for one in held if one["split"] == "shifted"]
    pictures = np.load(asked.data / "pictures.npy", mmap_mode="r")
    vision, out = asked.run / "vision_tokenizer", asked.run / "ids"
    model = load_vision_tokenizer(vision)
    if asked.more or asked.keep_tokenizer:
        tokenizer = BpeTokenizer(out / "tokenizer.json")
    else:
        tokenizer = make_tokenizer(examples, asked.vocabulary, model.config.codebook_size)
    config = make_config(tokenizer, vision)
    if not asked.more:
        write_base(out, tokenizer, config, vision)
    ids = Vocabulary.from_config(config.vocabulary)
    codes = encode_views([*examples, *held], pictures, model)
    parts = [
        ("", "_more" if asked.more else "", examples, EMPTY_PROMPTS),
        ("heldout_", "", held, 0.0),
    ]
    for task, name in (("t2i", "t2i"), ("answer", "answers")):
        for split, suffix, lines, empty in parts:
            if not lines:
                continue
            path = out / f"{split}{name}{suffix}.safetensors"
            shown = told(lines, f"write {path.name}")
            made = samples_of(shown, task, codes, Remembering(tokenizer), ids, empty, asked.seed)
            print(f"{path}: {write_samples(path, made)} samples")


def write_base(out: Path, tokenizer: BpeTokenizer, config: Emu3Config, vision: Path) -> None:
    """What the trained language model is added to."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    write_text(out / "config.json", json.dumps(config.to_json(), indent=2) + "\n")
    shutil.copyfile(vision / "model.safetensors", out / "model.safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the training samples of nano as ids.")
    parser.add_argument("--data", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--run", type=Path, default=Path("runs/nano/full"))
    parser.add_argument(
        "--keep-tokenizer", action="store_true", help="of ids/: a trained model goes on from there"
    )
    parser.add_argument(
        "--more",
        action="store_true",
        help="only t2i_more and answers_more, from more/examples.jsonl: other views, the same base",
    )
    parser.add_argument("--vocabulary", type=int, default=3072, help="ordinary text ids")
    parser.add_argument("--seed", type=int, default=1)
    try:
        write_ids(parser.parse_args(arguments))
    except (DromaiusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
