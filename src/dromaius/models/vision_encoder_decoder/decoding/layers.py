"""A text decoder as matrices, norms and their order, whatever its modules are called.

Legend: R any leading axes, B images, n tokens, C channels, O outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dromaius.nn.linear import applies, linear, products
from dromaius.nn.quantized import MOST_ROWS, Packed

Embed = Callable[[Tensor, int], Tensor]
"""(ids [B,n], tokens before them) -> [B,n,C]."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer: weight [O,C], bias [O]."""

    name: str
    weight: Tensor | Packed
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """[R,C] -> [R,O]."""
        if isinstance(self.weight, Packed):
            return _packed_product(x, self.weight, self.bias)
        if self.weight.dtype != x.dtype:  # a copy in bfloat16
            bias = None if self.bias is None else self.bias.to(self.weight.dtype)
            return linear(x.to(self.weight.dtype), self.weight, bias).to(x.dtype)
        return linear(x, self.weight, self.bias)


def _packed_product(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    """As `Packed.product`, which above MOST_ROWS writes the matrix out; several passes over few
    bits cost less where rows are dozens, and a row's result is the same as alone."""
    rows = x.flatten(0, -2)
    if not MOST_ROWS < len(rows) <= 4 * MOST_ROWS:
        return weight.product(x, bias)
    parts = [weight.product(part, bias) for part in rows.split(MOST_ROWS)]
    return torch.cat(parts).unflatten(0, x.shape[:-1])


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder: self-attention, cross-attention, feed-forward."""

    read: tuple[Matrix, ...]
    """Queries, keys and values, in one matrix or three."""
    read_out: Matrix
    ask: Matrix
    """Queries of the cross-attention."""
    answer: tuple[Matrix, ...]
    """Keys and values of the memory, in one matrix or two."""
    ask_out: Matrix
    up: Matrix
    act: Callable[[Tensor], Tensor]
    down: Matrix
    norms: tuple[nn.LayerNorm, nn.LayerNorm, nn.LayerNorm]


@dataclass(frozen=True)
class DecoderLayers:
    """A whole decoder."""

    layers: tuple[Layer, ...]
    heads: int
    pre_norm: bool
    embed: Embed
    finish: Callable[[Tensor], Tensor]
    """Last layer's output -> what the vocabulary is multiplied with."""
    vocabulary: Matrix

    def matrices(self) -> list[Matrix]:
        """All of them that a step multiplies with; not those that read the memory."""
        found = [self.vocabulary]
        for layer in self.layers:
            found += [*layer.read, layer.read_out, layer.ask, layer.ask_out, layer.up, layer.down]
        return found


def together(x: Tensor, matrices: tuple[Matrix, ...]) -> tuple[Tensor, ...]:
    """x [R,C] times each: [R,O] each, in one call of the kernel for few rows where it applies."""
    plain = [(m.weight, m.bias) for m in matrices if isinstance(m.weight, Tensor)]
    if len(plain) == len(matrices) and all(applies(x, weight) for weight, _ in plain):
        return tuple(products(x, plain))
    return tuple(matrix(x) for matrix in matrices)
