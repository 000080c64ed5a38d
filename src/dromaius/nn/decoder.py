"""The pre-norm decoder of the LLaMA line, shared by every family here.

Parameter names are those of published LLaMA-style checkpoints.
Legend: B batch, T tokens, C channels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn.attention import Attend, Attention, LayerCache, sdpa
from dromaius.nn.kernels.layer import step
from dromaius.nn.mlp import GatedMLP
from dromaius.nn.norm import RMSNorm
from dromaius.nn.rope import RopeParameters, RotaryEmbedding


class DecoderConfig(Protocol):
    """The numbers a decoder is built from (LLaMA's configuration names)."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def attention_bias(self) -> bool: ...
    @property
    def mlp_bias(self) -> bool: ...
    @property
    def attention_dropout(self) -> float: ...
    @property
    def embedding_dropout(self) -> float: ...
    @property
    def key_value_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def rope(self) -> RopeParameters: ...


class DecoderLayer(nn.Module):
    """h = x + attention(norm(x)); y = h + mlp(norm(h))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = config
        self.self_attn = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.key_value_heads,
            c.head_size,
            c.attention_bias,
            c.attention_dropout,
        )
        self.mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.hidden_act, c.mlp_bias)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.dropout = c.attention_dropout

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        attend: Attend = sdpa,
    ) -> Tensor:
        if attend is sdpa and (y := step(self, x, rope, mask, cache)) is not None:
            return y
        x = x + self._drop(self.self_attn(self.input_layernorm(x), rope, mask, cache, attend))
        return x + self._drop(self.mlp(self.post_attention_layernorm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Decoder(nn.Module):
    """input ids [B,T] (or embeddings [B,T,C]) -> hidden states [B,T,C]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config.rope)
        self.embedding_dropout = config.embedding_dropout

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B,T] -> [B,T,C], with the embedding dropout that BAAI's training applies."""
        return F.dropout(self.embed_tokens(input_ids), self.embedding_dropout, self.training)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
    ) -> Tensor:
        """Run the stack.

        Args:
            input_ids: int64 [B,T], or embeddings [B,T,C].
            positions: int64 [B,T]; None counts from 0.
            mask: bool [B,1,T,S], True where a token may look; None is causal over the T tokens.
            cache: one `LayerCache` a layer; needs a mask, since S then differs from T.
        """
        x = input_ids if input_ids.is_floating_point() else self.embed(input_ids)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        rope = self.rotary(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rope, mask, cache[index] if cache is not None else None)
        return self.norm(x)
