"""Tables that stay in the host's memory: a pass needs a few of their rows only.

The table of embeddings and the head hold a row for each id of the vocabulary. Of the first a pass
reads one row per token, of the second, while a picture is drawn, those of the visual ids alone. On
the host a table may be the mapped file itself, of which pages are read as they are needed.

Legend: C channels, V ids asked for.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dromaius.nn.linear import Linear
from dromaius.nn.quantized import Packed, QuantizedLinear

Span = tuple[int, int]
"""(first id, the id behind the last)."""


class HostEmbedding(nn.Module):
    """ids [...] -> rows [...,C] on the ids' device; the table is not among its parameters.

    The ids come to the host for it, so a pass waits for the one before.
    """

    def __init__(self, embedding: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._table = (embedding,)  # hidden: whoever moves or counts this module's weights
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self._table[0](ids.cpu())
        return rows.to(ids.device, self.dtype)


class HostHead(nn.Module):
    """hidden [...,C] -> logits [...,V]; of the table the rows asked for last are on the device."""

    def __init__(self, head: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._table = (head,)
        self.device, self.dtype = device, dtype
        self._span: Span | None = None
        self._rows: nn.Module | None = None

    def forward(self, hidden: Tensor, span: Span | None = None) -> Tensor:
        """`span`: the ids asked for; None are all."""
        if self._rows is None or span != self._span:
            self._rows = None  # first, so that the two are never there together
            self._rows, self._span = self._fetch(span), span
        logits: Tensor = self._rows(hidden)
        return logits

    def _fetch(self, span: Span | None) -> nn.Module:
        table: Any = self._table[0].weight
        start, stop = span or (0, table.shape[0])
        rows, count = slice(start, stop), stop - start
        if isinstance(table, Packed):
            packed = Packed(count, table.shape[1], table.form, "meta")
            for name, tensor in table.stored(rows).items():
                setattr(packed, name, tensor.to(self.device))
            packed.dtype = self.dtype
            return QuantizedLinear(packed)
        assert isinstance(table, Tensor)
        layer = Linear(table.shape[1], count, bias=False, device="meta")
        weight = table.detach()[rows].to(self.device, self.dtype)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer
