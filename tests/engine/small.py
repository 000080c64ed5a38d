"""A made-up vocabulary of 132 ids, prompts over it, and slow loops to compare the engine with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.models.emu3.language_model import LanguageModel
from tests.tiny import make_language_model, our_language_model, random_text_config

PAD, BOS, EOS, IMAGE, START, END, EOL, EOF = range(8)
DIGITS, WORDS, VISUAL, VOCABULARY = 8, range(20, 64), range(64, 128), 132


@dataclass(frozen=True)
class Pair:
    ours: LanguageModel
    theirs: Any
    """transformers' Emu3ForCausalLM with the same weights."""


def make_pair(rng: random.Random, seed: int) -> Pair:
    config = random_text_config(rng)
    config.vocab_size = VOCABULARY
    theirs = make_language_model(config, seed, "sdpa")
    return Pair(our_language_model(theirs), theirs)


def grid(height: int, width: int) -> TokenGrid:
    return TokenGrid(height, width, VISUAL.start, VISUAL.stop, EOL, EOF, END, EOS)


def words(rng: random.Random, count: int) -> list[int]:
    return rng.choices(WORDS, k=count)


def prompt(text: Sequence[int], height: int, width: int) -> list[int]:
    digits = [DIGITS + int(digit) for digit in f"{height}{width}"]
    return [BOS, *text, START, *digits, IMAGE]


def request(
    rng: random.Random, height: int, width: int, seed: int, guidance: float = 3.0, **more: Any
) -> GridRequest:
    """A prompt and a negative prompt of random lengths."""
    wanted = prompt(words(rng, rng.randrange(1, 9)), height, width)
    unwanted = prompt(words(rng, rng.randrange(1, 9)), height, width)
    return GridRequest(wanted, grid(height, width), seed, unwanted, guidance, **more)


def draw(model: Any, requests: Sequence[GridRequest], sampler: Sampler) -> list[list[int]]:
    """The finished codes of each picture."""
    *_, codes = draw_grids(model, requests, sampler)
    return [codes[i, : request.grid.drawn].tolist() for i, request in enumerate(requests)]


def picture_ids(codes: Sequence[int], height: int, width: int) -> list[int]:
    """Codes as upstream writes them behind the header, tail included."""
    ids: list[int] = []
    for row in range(height):
        ids += [VISUAL.start + code for code in codes[row * width : (row + 1) * width]]
        ids.append(EOL)
    return [*ids, EOF, END, EOS]


class Counting:
    """A language model that notes the batch and length of each forward pass."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.config = model, model.config
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return self.model(input_ids, *args, **kwargs)

    def parameters(self) -> Iterator[Any]:
        return self.model.parameters()


Choose = Callable[[Tensor, int], int]
"""(scores [V], offset in the picture) -> id."""


def greedy(scores: Tensor, offset: int) -> int:
    return int(scores.argmax())


@torch.no_grad()
def draw_slowly(model: Any, request: GridRequest, choose: Choose = greedy) -> list[int]:
    """One picture by upstream's formulas: no cache, no batch, every id of the vocabulary.

    model: ids [B,T] -> an object with .logits, as transformers' models are.
    """

    def logits(ids: Sequence[int]) -> Tensor:
        return model(torch.tensor([ids])).logits[0, -1].float()

    height, width = request.grid.height, request.grid.width
    ids: list[int] = []
    codes: list[int] = []
    while len(codes) < height * width:
        offset = len(ids)
        if offset % (width + 1) == width:
            ids.append(EOL)
            continue
        conditional = logits([*request.prompt, *ids]).log_softmax(-1)
        scores = conditional
        if request.guidance != 1:
            unconditional = logits([*request.negative, *ids]).log_softmax(-1)
            scores = request.guidance * (conditional - unconditional) + unconditional
        allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
        allowed[VISUAL.start : VISUAL.stop] = True
        if request.min_p is not None:
            share = conditional.exp() / conditional[VISUAL.start : VISUAL.stop].exp().max()
            allowed &= share >= request.min_p
        ids.append(choose(scores.masked_fill(~allowed, -torch.inf), offset))
        codes.append(ids[-1] - VISUAL.start)
    return codes
