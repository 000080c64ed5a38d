"""Encoded pictures to ids of texts with scores: greedy, sampled, or by beams.

Legend: B pictures, P ids of the prompts, K texts of each picture, R = B * K, L ids of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dromaius.engine.beam_search import Beams, NextLogits, search_beams, write_rows
from dromaius.errors import ContextError, InputError
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.decoding.called import CalledDecoder
from dromaius.models.vision_encoder_decoder.decoding.families import read_layers
from dromaius.models.vision_encoder_decoder.decoding.fast import FastDecoder
from dromaius.models.vision_encoder_decoder.decoding.own_products import own_products
from dromaius.models.vision_encoder_decoder.model import Encoded, VisionEncoderDecoder
from dromaius.pipelines.reading.checkpoint import TextRules

LONGEST = 128
"""New ids of a text where neither the caller nor the checkpoint bounds them."""


@dataclass(frozen=True)
class Wishes:
    """How texts are to be written; None is what the checkpoint says."""

    beams: int | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    """0 takes the likeliest id; above, ids are drawn."""
    seed: int = 0
    alternatives: int = 1
    """Texts of each picture, the best first."""

    def __post_init__(self) -> None:
        for name in ("beams", "max_new_tokens", "alternatives"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be at least 0, got {self.temperature!r}")
        if self.temperature and (self.beams or 1) > 1:
            raise InputError("temperature draws texts, beams search for the best: give one of them")


@dataclass(frozen=True)
class Written:
    """One text's new ids, and the sum of their log-probabilities / length ** length penalty."""

    ids: list[int]
    score: float


def write(
    model: VisionEncoderDecoder,
    encoded: Encoded,
    prompts: Tensor,
    rules: TextRules,
    wishes: Wishes,
) -> list[list[Written]]:
    """The texts of each picture, best first. prompts: ids [B,P].

    Raises ContextError for a prompt that leaves no room, InputError for ids that the decoder lacks.
    """
    model.check_ids(prompts, "the prompt")
    held, limit = prompts.shape[1], parts.max_positions(model.decoder)
    if limit is not None and held >= limit:
        raise ContextError(f"a prompt of {held} tokens leaves no room in {limit} positions")
    new = wishes.max_new_tokens or rules.max_new_tokens or LONGEST
    longest = held + new if limit is None else min(held + new, limit)
    beams = rules.beams if wishes.beams is None else wishes.beams
    if wishes.temperature:
        beams = 1
    elif wishes.alternatives > 1:
        beams = max(beams, wishes.alternatives)
    rows = max(beams, wishes.alternatives)
    decoder = _decoder(model, encoded, rows)
    with torch.inference_mode(), own_products(model.decoder):
        if beams > 1:
            ids, scores = _by_beams(decoder, prompts, rules, beams, longest, wishes.alternatives)
        else:
            ids, scores = _by_rows(decoder, prompts, rules, rows, longest, wishes)
    written = [
        Written(_until_end(row[held:].tolist(), rules.end), score)
        for row, score in zip(ids, scores.tolist(), strict=True)
    ]
    count = wishes.alternatives
    return [written[i : i + count] for i in range(0, len(written), count)]


def _decoder(model: VisionEncoderDecoder, encoded: Encoded, rows: int) -> NextLogits:
    layers = read_layers(model.decoder)
    if layers is None:
        return CalledDecoder(model, encoded.memory, encoded.mask, rows)
    return FastDecoder(layers, encoded.memory, encoded.mask, rows)


def _by_beams(
    decoder: NextLogits, prompts: Tensor, rules: TextRules, beams: int, longest: int, returned: int
) -> tuple[Tensor, Tensor]:
    search = Beams(
        count=beams,
        longest=longest,
        length_penalty=rules.length_penalty,
        early_stopping=rules.early_stopping,
        end_ids=len(rules.end),
        filler=rules.pad if rules.end else -1,
    )
    process = _Rules(rules, prompts, 0.0, None)
    ended = _Ended(rules.end, longest)
    found = search_beams(decoder, prompts, search, process, ended, returned=returned)
    return found.ids, found.scores


def _by_rows(
    decoder: NextLogits, prompts: Tensor, rules: TextRules, rows: int, longest: int, wishes: Wishes
) -> tuple[Tensor, Tensor]:
    watch = _Watch(rules)
    process = _Rules(rules, prompts, wishes.temperature, watch)
    ended = _Ended(rules.end, longest)
    with torch.random.fork_rng(enabled=wishes.temperature > 0):
        if wishes.temperature:
            torch.manual_seed(wishes.seed)
        ids = write_rows(
            decoder, prompts, rows, process, ended,
            sample=wishes.temperature > 0, filler=rules.pad if rules.end else None,
        )  # fmt: skip
    watch.chose(ids)
    return ids, watch.scores(prompts.shape[1], ids)


@dataclass
class _Ended:
    """Whether a row is over: by an id that ends it, or by its length."""

    end: tuple[int, ...]
    longest: int

    def __call__(self, ids: Tensor, scores: Any = None) -> Tensor:
        if ids.shape[1] >= self.longest:
            return torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        return torch.isin(ids[:, -1], ids.new_tensor(self.end))


class _Rules:
    """The checkpoint's rules about what may come next, transformers' own; then the temperature."""

    def __init__(
        self, rules: TextRules, prompts: Tensor, temperature: float, watch: _Watch | None
    ) -> None:
        from transformers import generation

        self.rules: list[Any] = []  # in transformers' order
        ends = torch.tensor(rules.end, device=prompts.device) if rules.end else None
        if rules.repetition_penalty != 1:
            penalty = generation.RepetitionPenaltyLogitsProcessor(rules.repetition_penalty)
            self.rules.append(penalty)
        if rules.no_repeat_ngram:
            self.rules.append(generation.NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram))
        if rules.bad_words:
            words = [list(word) for word in rules.bad_words]
            self.rules.append(generation.NoBadWordsLogitsProcessor(words, eos_token_id=ends))
        if rules.min_length and ends is not None:
            least = generation.MinLengthLogitsProcessor(
                rules.min_length, ends, device=str(prompts.device)
            )
            self.rules.append(least)
        self.temperature, self.watch = temperature, watch

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self.watch is not None:
            self.watch.see(ids, scores)
        for rule in self.rules:
            scores = rule(ids, scores)
        return scores / self.temperature if self.temperature else scores


class _Watch:
    """Log-probabilities of the chosen ids; of each step's table only the last is held."""

    def __init__(self, rules: TextRules) -> None:
        self.rules, self.table = rules, torch.empty(0)
        self.chosen: list[Tensor] = []

    def see(self, ids: Tensor, logits: Tensor) -> None:
        """ids [R,L] so far, logits [R,V] of what comes next."""
        self.chose(ids)
        self.table = logits.log_softmax(-1)

    def chose(self, ids: Tensor) -> None:
        """The newest of ids [R,L] was chosen from the last table."""
        if self.table.numel():
            self.chosen.append(self.table.gather(1, ids[:, -1:]))

    def scores(self, held: int, ids: Tensor) -> Tensor:
        """float32 [R] for finished ids [R,L], of which `held` are prompt."""
        each = torch.cat(self.chosen, dim=1)  # [R,L-P]
        hits = torch.isin(ids[:, held:], ids.new_tensor(self.rules.end))
        counts = (hits.cumsum(1) - hits.long()) == 0  # up to the first end, itself included
        return (each * counts).sum(1) / counts.sum(1) ** self.rules.length_penalty


def _until_end(ids: list[int], end: tuple[int, ...]) -> list[int]:
    """The ids up to the first that ends a text, itself included."""
    for place, one in enumerate(ids):
        if one in end:
            return ids[: place + 1]
    return ids
