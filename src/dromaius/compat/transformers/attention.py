"""From transformers' caches and masks to what our decoder layers take.

Legend: B batch, T new tokens, S visible tokens, H query heads, K key/value heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache

from dromaius.nn.attention import attention_probabilities

LegacyCache = tuple[tuple[Tensor, Tensor], ...]
"""Per layer (keys, values), each [B,K,S,D]: the format before `Cache` existed."""


@dataclass(frozen=True)
class LayerView:
    """One layer of a transformers cache, as our attention wants it."""

    cache: Cache
    index: int

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(keys, values, self.index)


def open_cache(
    past: Cache | Sequence[tuple[Tensor, Tensor]] | None, layers: int, use_cache: bool
) -> tuple[Cache | None, bool]:
    """The cache to run with, and whether the caller is to get the legacy format back."""
    if isinstance(past, Cache):
        return past, False
    if past:
        if len(past) != layers:
            raise ValueError(f"past_key_values has {len(past)} layers, the model {layers}")
        cache = DynamicCache()
        for index, (keys, values) in enumerate(past):
            cache.update(keys, values, index)
        return cache, True
    return (DynamicCache(), True) if use_cache else (None, True)


def to_legacy(cache: Cache) -> LegacyCache:
    layers: Sequence[Any] = cache.layers
    return tuple((layer.keys, layer.values) for layer in layers)


def visibility(
    attention_mask: Tensor | None, positions: Tensor, visible: int, keep_causal: bool
) -> Tensor | None:
    """Which keys each new token sees: bool [B or 1,1,T,S], or None for plain causal.

    A row of pure padding sees nothing, as upstream: its own outputs mean nothing, but a label right
    behind left padding is predicted there, and the loss is to be upstream's.

    Args:
        attention_mask: [B,seen+T], 0 where padding is; or transformers' own 4-D mask [B,1,T,S],
            bool or additive (0 where visible).
        positions: int64 [T], places of the new tokens in the cache, counting padding.
        visible: S, how many keys the cache hands out (a static cache hands out empty ones too).
        keep_causal: whether None may stand for the causal mask (no cache, or an empty one).
    """
    new = len(positions)
    keys = torch.arange(visible, device=positions.device)
    if attention_mask is not None and attention_mask.ndim == 4:
        given = attention_mask[..., :visible]
        return given if given.dtype == torch.bool else given == 0
    if attention_mask is None or bool(attention_mask.all()):
        if keep_causal and new == visible:
            return None
        return (keys <= positions[:, None])[None, None]
    if attention_mask.ndim != 2 or attention_mask.shape[1] > visible:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; "
            f"expected [batch, {int(positions[-1]) + 1}] for past and new tokens"
        )
    kept = F.pad(attention_mask.bool(), (0, visible - attention_mask.shape[1]))  # [B,S]
    return (keys <= positions[:, None]) & kept[:, None, None]


class Eager:
    """Attention as written in the paper; keeps each layer's probabilities when asked."""

    def __init__(self, record: bool) -> None:
        self.record = record
        self.probabilities: list[Tensor] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0
    ) -> Tensor:
        weights = F.dropout(attention_probabilities(q, k, mask), dropout)  # [B,H,T,S]
        if self.record:
            self.probabilities.append(weights)
        return weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
