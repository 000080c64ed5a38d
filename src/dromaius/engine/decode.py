"""Decoding loops over ids: pictures on a grid, and text.

The engine knows no text, no pixels and no family: a language model is a callable from ids to
logits. Legend: B pictures or prompts, R rows of the batch (2B with guidance), T tokens, V ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dromaius.engine.guidance import guide, plausible
from dromaius.engine.kv_cache import CacheShape, SlotCache
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid


class NextToken(Protocol):
    """A language model as the engine sees it (dromaius.models.emu3.LanguageModel is one)."""

    config: Any

    def __call__(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any = None,
        last: Tensor | None = None,
        span: tuple[int, int] | None = None,
    ) -> Tensor: ...

    def parameters(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class GridRequest:
    """One picture to draw."""

    prompt: Sequence[int]
    """Ids up to and including the image header."""
    grid: TokenGrid
    seed: int
    negative: Sequence[int] = ()
    """The unwanted prompt, header included; used where guidance is not 1."""
    guidance: float = 1.0
    min_p: float | None = None


class _Rows:
    """Sequences of unequal length in one cache; each row stands at its own position."""

    def __init__(self, model: NextToken, prompts: Sequence[Sequence[int]], room: Sequence[int]):
        weight = next(model.parameters())
        self.model, self.device = model, weight.device
        self.lengths = [len(prompt) for prompt in prompts]
        slots = max(n + extra for n, extra in zip(self.lengths, room, strict=True))
        shape: CacheShape = model.config
        # Embeddings decide the dtype of keys: a quantized head may come first among parameters.
        self.cache = SlotCache(shape, len(prompts), slots, self.device, weight.dtype)

    def prefill(self, prompts: Sequence[Sequence[int]], span: tuple[int, int] | None) -> Tensor:
        """All prompts in one forward, filled up on the right: logits [R,V] after each."""
        longest = max(self.lengths)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        positions = torch.arange(longest, device=self.device).expand(len(prompts), -1)
        last = torch.tensor(self.lengths, device=self.device) - 1
        return self._forward(ids.to(self.device), positions, longest, last, span)

    def step(self, ids: Tensor, counts: Sequence[int], span: tuple[int, int] | None) -> Tensor:
        """Feed counts[r] tokens of row r of ids [R,T], filler behind them: logits [R,V]."""
        used = torch.tensor(counts, device=self.device)
        start = torch.tensor(self.lengths, device=self.device)
        positions = start[:, None] + torch.arange(ids.shape[1], device=self.device)
        # Filler may reach beyond the last slot; there it overwrites filler of a finished row.
        positions = positions.clamp(max=self.cache.slots - 1)
        self.lengths = [n + count for n, count in zip(self.lengths, counts, strict=True)]
        return self._forward(ids, positions, max(self.lengths), (used - 1).clamp(min=0), span)

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        visible: int,
        last: Tensor,
        span: tuple[int, int] | None,
    ) -> Tensor:
        cache, mask = self.cache.at(positions, visible), self.cache.mask(positions, visible)
        return self.model(ids, positions, mask, cache, last, span)[:, 0]


@torch.no_grad()
def draw_grids(
    model: NextToken, requests: Sequence[GridRequest], sampler: Sampler
) -> Iterator[Tensor]:
    """Draw pictures of any sizes together, one visual id of each per forward pass.

    Guidance runs in the same forward as further rows. Line ends are never predicted: they are
    fed together with the id before them. Noise depends on (seed, offset in the picture, id) alone.

    Yields:
        After each pass the codes so far, int64 [B, most codes], row-major per picture, -1 where
        nothing is drawn yet; always the same tensor, filled further. The number of items is the
        number of forward passes: the codes of the largest picture.
    """
    grids = [request.grid for request in requests]
    start, stop = grids[0].visual_start, grids[0].visual_stop
    guided = any(request.guidance != 1 for request in requests)
    prompts = [request.prompt for request in requests]
    if guided:
        prompts = prompts + [request.negative or request.prompt for request in requests]
    copies = 2 if guided else 1
    rows = _Rows(model, prompts, [grid.length for grid in grids] * copies)
    device = rows.device
    seeds = torch.tensor([request.seed for request in requests], device=device)
    scales = torch.tensor([float(request.guidance) for request in requests], device=device)
    min_p = torch.tensor([request.min_p or 0.0 for request in requests], device=device)
    codes = torch.full((len(grids), max(grid.drawn for grid in grids)), -1, device=device)

    logits = rows.prefill(prompts, (start, stop))  # [R,V]
    for index in range(codes.shape[1]):
        active = [index < grid.drawn for grid in grids]
        scores = logits[: len(grids)].float()
        allowed = plausible(scores, min_p)
        if guided:
            scores = guide(scores, logits[len(grids) :], scales)
        offsets = torch.tensor([grid.offset(index) for grid in grids], device=device)
        drawn = sampler.draw(scores.masked_fill(~allowed, -torch.inf), seeds, offsets, start)
        codes[:, index] = torch.where(torch.tensor(active, device=device), drawn, -1)
        if index + 1 < codes.shape[1]:
            closes = [grid.closes_row(index) for grid in grids]
            fed = [on * (1 + closed) for on, closed in zip(active, closes, strict=True)]
            ids = (drawn + start)[:, None]  # [B,1]
            if max(fed) == 2:
                ids = torch.cat((ids, torch.full_like(ids, grids[0].end_of_line)), dim=1)
            logits = rows.step(ids.repeat(copies, 1), fed * copies, (start, stop))
        yield codes


@torch.no_grad()
def write_text(
    model: NextToken,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampler: Sampler,
    seeds: Sequence[int],
) -> Iterator[list[int | None]]:
    """Continue prompts token by token until each meets a stop id or the limit.

    Yields:
        After each pass one new id per prompt, None for a prompt that has ended; a stop id itself
        is not shown.
    """
    rows = _Rows(model, prompts, [max_new_tokens] * len(prompts))
    seeds_ = torch.tensor(list(seeds), device=rows.device)
    running = [True] * len(prompts)
    logits = rows.prefill(prompts, None)
    for index in range(max_new_tokens):
        positions = torch.full_like(seeds_, index)
        drawn = sampler.draw(logits.float(), seeds_, positions, 0)
        ids = drawn.tolist()
        running = [on and i not in stop_ids for on, i in zip(running, ids, strict=True)]
        if not any(running):
            return
        yield [i if on else None for on, i in zip(running, ids, strict=True)]
        if index + 1 < max_new_tokens:
            logits = rows.step(drawn[:, None], [int(on) for on in running], None)
