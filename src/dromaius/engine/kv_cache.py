"""Keys and values of past tokens in slots of fixed size; a token's slot is its position.

Rows of a batch may stand at different positions: each writes at its own slots, and the mask
(slot <= position) hides whatever lies beyond, be it unwritten, stale or another step's filler.
Nothing is moved, grown or cleared.
Legend: B rows, K key/value heads, S slots, T tokens, D head dim.
"""

from typing import Protocol

import torch
from torch import Tensor

from dromaius.nn import few_tokens


class CacheShape(Protocol):
    """What a cache must know of a decoder."""

    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def key_value_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...


class SlotCache:
    """Preallocated keys and values for `rows` sequences of at most `slots` tokens."""

    def __init__(
        self,
        shape: CacheShape,
        rows: int,
        slots: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        size = (rows, shape.key_value_heads, slots, shape.head_size)  # [B,K,S,D]
        # Zeros, not garbage: a masked slot still meets a zero weight, and 0 * NaN is NaN.
        self.keys = [
            torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.num_hidden_layers)
        ]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.rows = torch.arange(rows, device=device)[:, None]  # [B,1]
        self.slots = slots

    def at(self, positions: Tensor, visible: int) -> list["SlotView"]:
        """One view a layer that stores tokens at `positions` [B,T] and shows slots 0..visible."""
        return [
            SlotView(k, v, self.rows, positions, visible)
            for k, v in zip(self.keys, self.values, strict=True)
        ]

    def mask(self, positions: Tensor, visible: int) -> Tensor:
        """bool [B,1,T,visible]: a token sees its own slot and those before."""
        slots = torch.arange(visible, device=positions.device)
        return (slots <= positions[..., None])[:, None]

    def first(self, rows: int) -> "SlotCache":
        """The first rows alone, in the same memory."""
        part = object.__new__(SlotCache)
        part.keys = [tensor[:rows] for tensor in self.keys]
        part.values = [tensor[:rows] for tensor in self.values]
        part.rows, part.slots = self.rows[:rows], self.slots
        return part

    def repeat(self, source: Tensor, visible: int) -> None:
        """Let row b hold what row source[b] held in slots 0..visible: one prefill serves many."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[:, :, :visible] = tensor[source, :, :visible]


class SlotView:
    """One layer of a `SlotCache` during one forward pass."""

    def __init__(
        self, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, visible: int
    ) -> None:
        self.keys, self.values = keys, values
        self.rows, self.positions, self.visible = rows, positions, visible

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens [B,K,T,D]; return all visible slots [B,K,visible,D]."""
        if few_tokens.applies(keys, values, self.keys, self.values):
            few_tokens.keep(keys, self.keys, self.positions)
            few_tokens.keep(values, self.values, self.positions)
        else:
            self.keys[self.rows, :, self.positions] = keys.transpose(1, 2)  # [B,T,K,D]
            self.values[self.rows, :, self.positions] = values.transpose(1, 2)
        return self.keys[:, :, : self.visible], self.values[:, :, : self.visible]
