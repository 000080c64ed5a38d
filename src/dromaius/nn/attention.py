"""Causal self-attention with grouped queries.

Legend: B batch, T new tokens, S visible tokens, H query heads, K key/value heads, D head dim.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn import few_tokens
from dromaius.nn.linear import Linear, together
from dromaius.nn.rope import rotate

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""(queries [B,H,T,D], keys [B,K,S,D], values [B,K,S,D], mask, dropout) -> [B,H,T,D]."""


class LayerCache(Protocol):
    """What a layer needs of a key/value cache: store the new, return all that may be seen."""

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """keys, values [B,K,T,D] of the new tokens -> [B,K,S,D] each."""
        ...


DENSE = 1024
"""Longest sequence whose attention is written out when a CPU computes gradients."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """torch's scaled dot product attention; mask None is causal, else True where visible.

    q [B,H,T,D], k and v [B,K,S,D], mask [B,1,T,S] -> [B,H,T,D].
    """
    if mask is not None and few_tokens.can_attend(q, k, v, mask, dropout):
        return few_tokens.attend(q, k, v, mask)
    batch, heads, new, dim = q.shape
    groups = heads // k.shape[1]
    if q.requires_grad and q.device.type == "cpu" and not dropout and k.shape[2] <= DENSE:
        return _dense(q, k, v, mask)
    if mask is None:
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=groups > 1
        )
    if groups > 1:
        # Queries that share a key head become further rows of one query: keys are never copied.
        q = q.reshape(batch, heads // groups, groups * new, dim)  # [B,K,G*T,D]
        mask = mask.repeat(1, 1, groups, 1)  # [B,1,G*T,S]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return y.reshape(batch, heads, new, dim)


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`sdpa` with all scores in memory: at 100 tokens a CPU's forward and backward take a fifth
    of the time of torch's blockwise kernel (docs/nano.md)."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # [B,H,S,D]
    if mask is None:
        new, seen = q.shape[2], k.shape[2]
        mask = torch.ones(new, seen, dtype=torch.bool).tril()  # as is_causal: aligned at the start
    bias = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.float() + bias).softmax(-1).to(v.dtype) @ v


def attention_probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax that `sdpa` never shows, in float32 and cast back: [B,H,T,S]."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # [B,H,S,D]
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is None:
        new, seen = scores.shape[-2:]
        mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype)


class Attention(nn.Module):
    """x [B,T,C] -> [B,T,C]; rotary positions, optional cache, one fused attention call."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.dropout = dropout
        self.q_proj = Linear(hidden_size, num_heads * head_dim, bias=bias)
        self.k_proj = Linear(hidden_size, num_key_value_heads * head_dim, bias=bias)
        self.v_proj = Linear(hidden_size, num_key_value_heads * head_dim, bias=bias)
        self.o_proj = Linear(num_heads * head_dim, hidden_size, bias=bias)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        attend: Attend = sdpa,
    ) -> Tensor:
        q, k, v = map(self._heads, together(x, self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.update(k, v)
        y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.o_proj(y.transpose(1, 2).flatten(2))  # [B,H,T,D] -> [B,T,H*D]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B,T,H*D] -> [B,H,T,D]
