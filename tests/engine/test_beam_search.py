"""The search itself: against all texts there are, and against the rules of its settings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine.beam_search import Beams, Record, search_beams, write_rows

VOCABULARY, END, FILLER, NEW = 4, 3, 9, 5


class Toy:
    """A language model whose logits depend on the prompt and on the two last ids.

    It remembers each row's ids as a cache would: a search that names wrong parents is found out.
    """

    def __init__(self, seed: int, rows: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = (VOCABULARY, VOCABULARY, VOCABULARY, VOCABULARY)
        self.table = 2 * torch.randn(*size, generator=generator)
        self.rows = rows
        self.past: Tensor = torch.empty(0)

    def logits(self, ids: Tensor) -> Tensor:
        return self.table[ids[:, 0], ids[:, -2], ids[:, -1]]

    def prefill(self, ids: Tensor) -> Tensor:
        self.past = ids.repeat_interleave(self.rows, 0)
        return self.logits(ids)

    def step(self, ids: Tensor, parents: Tensor | None) -> Tensor:
        past = self.past if parents is None else self.past[parents]
        self.past = torch.cat((past, ids[:, None].clamp(max=VOCABULARY - 1)), dim=1)
        return self.logits(self.past)


def unruled(ids: Tensor, scores: Tensor) -> Tensor:
    return scores


def ended(ids: Tensor, scores: object) -> Tensor:
    return (ids[:, -1] == END) | (ids.shape[1] == 2 + NEW)


def score(toy: Toy, ids: tuple[int, ...]) -> float:
    """Sum of log-probabilities of what follows a prompt of two ids."""
    total = 0.0
    for place in range(2, len(ids)):
        row = toy.logits(torch.tensor([ids[:place]]))[0].log_softmax(-1)
        total += float(row[ids[place]])
    return total


def all_texts(prompt: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every continuation that ends, or is as long as may be."""
    found = []
    for length in range(1, NEW + 1):
        for new in itertools.product(range(VOCABULARY), repeat=length):
            whole = new[-1] == END or length == NEW
            if whole and END not in new[:-1]:
                found.append((*prompt, *new))
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_of_all_texts(seed: int, penalty: float) -> None:
    prompts = torch.tensor([[0, 1], [2, 0]])
    count = 3 ** (NEW - 1)  # no beginning without an end is ever dropped
    beams = Beams(count, 2 + NEW, penalty, early_stopping="never", filler=FILLER)
    toy = Toy(seed, count)
    found = search_beams(toy, prompts, beams, unruled, ended, returned=4)
    for number, prompt in enumerate(prompts.tolist()):
        texts = all_texts(tuple(prompt))
        weighed = {text: score(toy, text) / (len(text) - 2) ** penalty for text in texts}
        best = sorted(texts, key=lambda text: -weighed[text])[:4]
        rows = found.ids[4 * number : 4 * number + 4].tolist()
        assert [tuple(i for i in row if i != FILLER) for row in rows] == best
        expected = torch.tensor([weighed[text] for text in best])
        torch.testing.assert_close(found.scores[4 * number : 4 * number + 4], expected)


def test_one_beam_is_greedy() -> None:
    prompts = torch.tensor([[0, 1], [2, 0], [1, 1]])
    beams = Beams(1, 2 + NEW, filler=FILLER)
    found = search_beams(Toy(5, 1), prompts, beams, unruled, ended)
    rows = write_rows(Toy(5, 1), prompts, 1, unruled, ended, filler=FILLER)
    assert torch.equal(found.ids, rows)


def test_rows_and_scores_tell_how_a_text_came_about() -> None:
    prompts = torch.tensor([[0, 1], [2, 0]])
    record = Record(scores=[], logits=[])
    beams = Beams(3, 2 + NEW, length_penalty=1.0, filler=FILLER)
    found = search_beams(Toy(7, 3), prompts, beams, unruled, ended, returned=2, record=record)
    assert record.scores is not None and record.logits is not None
    for ids, rows, total in zip(found.ids[:, 2:], found.rows, found.scores, strict=True):
        new = int((rows >= 0).sum())
        steps = [record.scores[n][rows[n], ids[n]] for n in range(new)]
        torch.testing.assert_close(torch.stack(steps).sum() / new, total)
    torch.testing.assert_close(record.logits[1].log_softmax(-1), record.scores[1])


@pytest.mark.parametrize("early", [True, False, "never"])
def test_a_batch_equals_its_prompts_alone(early: Any) -> None:
    prompts = torch.tensor([[0, 1], [2, 0], [1, 2]])
    beams = Beams(2, 2 + NEW, early_stopping=early, filler=FILLER)
    together = search_beams(Toy(11, 2), prompts, beams, unruled, ended)
    for number in range(3):
        alone = search_beams(Toy(11, 2), prompts[number : number + 1], beams, unruled, ended)
        width = alone.ids.shape[1]
        assert torch.equal(together.ids[number, :width], alone.ids[0])
        assert set(together.ids[number, width:].tolist()) <= {FILLER}
        torch.testing.assert_close(together.scores[number], alone.scores[0])


def test_rules_are_obeyed_and_ended_rows_are_filled() -> None:
    prompts = torch.tensor([[0, 1], [2, 0]])

    def only_the_end_is_left(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[ids[:, 0] == 0, :END] = -torch.inf
        scores[ids[:, 0] != 0, END] = -torch.inf
        return scores

    shown: list[list[int]] = []
    ids = write_rows(
        Toy(1, 2), prompts, 2, only_the_end_is_left, ended,
        filler=FILLER, show=lambda new: shown.append(new.tolist()),
    )  # fmt: skip
    assert ids[:2].tolist() == [[0, 1, END, *[FILLER] * (NEW - 1)]] * 2
    assert END not in ids[2:] and ids.shape == (4, 2 + NEW)
    assert shown == ids[:, 2:].T.tolist()


def test_samples_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    prompts = torch.tensor([[1, 2]])
    drawn = write_rows(
        Toy(2, 4000), prompts, 4000, unruled, lambda ids, _: ids[:, -1] >= 0, sample=True
    )
    seen = drawn[:, 2].bincount(minlength=VOCABULARY) / 4000
    expected = Toy(2, 1).logits(prompts)[0].softmax(-1)
    assert (seen - expected).abs().max() < 0.03
