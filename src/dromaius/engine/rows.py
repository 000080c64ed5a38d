"""Sequences of unequal length that one language model continues together.

The engine knows no text, no pixels and no family: a language model is a callable from ids to
logits. Legend: R rows of the batch, T tokens, V ids.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from dromaius.engine.graph import Forward, StepGraphs, recorder
from dromaius.engine.kv_cache import CacheShape, SlotCache


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


class Rows:
    """Rows in one cache, each at its own position; only the ids of `span` are scored."""

    def __init__(
        self,
        model: NextToken,
        prompts: Sequence[Sequence[int]],
        room: Sequence[int],
        span: tuple[int, int] | None = None,
    ) -> None:
        """`room[r]` is how many tokens row r may take behind its prompt."""
        weight = next(model.parameters())
        self.model, self.device, self.span = model, weight.device, span
        self.prompts = prompts
        slots = max(len(p) + extra for p, extra in zip(prompts, room, strict=True))
        shape: CacheShape = model.config
        # Embeddings decide the dtype of keys: a quantized head may come first among parameters.
        self.cache = SlotCache(shape, len(prompts), slots, self.device, weight.dtype)
        # Not a method: recordings that held these rows would keep their memory until a collection.
        self._feed: Forward = partial(_feed, model, span)
        # A model that comes and goes, or that asks the host, says so: `fixed` is False.
        record = recorder(self.device) if getattr(model, "fixed", True) else None
        self._replay = self._feed if record is None else StepGraphs(self._feed, record)

    def prefill(self) -> Tensor:
        """All prompts in one forward, equal ones once: logits [R,V] after each.

        Prompts are filled up on the right; whatever stands there is overwritten or hidden.
        """
        distinct = list(dict.fromkeys(tuple(prompt) for prompt in self.prompts))
        places = {prompt: place for place, prompt in enumerate(distinct)}
        source = [places[tuple(prompt)] for prompt in self.prompts]
        longest = max(map(len, distinct))
        ids = torch.zeros(len(distinct), longest, dtype=torch.long)
        for row, prompt in zip(ids, distinct, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        last = torch.tensor([len(prompt) for prompt in distinct], device=self.device) - 1
        cache, start = self.cache.first(len(distinct)), torch.zeros_like(last)
        logits = self._feed(cache, ids.to(self.device), start, longest, last)[:, 0]
        if source == list(range(len(distinct))):
            return logits
        rows = torch.tensor(source, device=self.device)
        self.cache.repeat(rows, longest)
        return logits[rows]

    def step(self, ids: Tensor, start: Tensor, last: Tensor, visible: int) -> Tensor:
        """Feed tokens to every row: logits [R,V] after token `last` of each.

        Args:
            ids: int64 [R,T], filler behind a row's own tokens.
            start: int64 [R], the position of each row's first token.
            last: int64 [R], which of the T tokens is asked for a successor.
            visible: slots that the farthest row may look at.
        """
        return self._replay(self.cache, ids, start, visible, last)[:, 0]

    def window(self, ids: Tensor, start: Tensor, visible: int) -> Tensor:
        """As `step`, but logits [R,T,V] after every token."""
        return self._replay(self.cache, ids, start, visible, None)

    def keep(self, count: int) -> None:
        """Go on with the first `count` rows only."""
        self.cache = self.cache.first(count)
        self.prompts = self.prompts[:count]


def _feed(
    model: NextToken,
    span: tuple[int, int] | None,
    cache: SlotCache,
    ids: Tensor,
    start: Tensor,
    visible: int,
    last: Tensor | None,
) -> Tensor:
    """Logits [R,1,V] after token `last` of each row; None: [R,T,V] after every token."""
    positions = start[:, None] + torch.arange(ids.shape[1], device=ids.device)
    # Filler may reach beyond the last slot; there it overwrites filler of a finished row.
    positions = positions.clamp(max=cache.slots - 1)
    # Where all that is seen is fed now, it is fed from the start: causal, and no mask to fill.
    mask = None if ids.shape[1] == visible else cache.mask(positions, visible)
    views = cache.at(positions, visible)
    return model(ids, positions, mask, views, last, span)
