"""The Emu3 language model: a LLaMA-style decoder over text ids and visual ids alike.

Legend: B batch, T tokens, C channels, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.nn.attention import LayerCache
from dromaius.nn.decoder import Decoder
from dromaius.nn.host import HostHead
from dromaius.nn.linear import Linear, linear


class LanguageModel(nn.Module):
    """ids [B,T] -> logits [B,T,V]. Parameter names equal BAAI's (and LLaMA's) checkpoints."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head: Linear | HostHead = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let head and embedding share one tensor where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Sequence[LayerCache] | None = None,
        last: Tensor | None = None,
        span: tuple[int, int] | None = None,
    ) -> Tensor:
        """Logits of the next token; nothing is shifted.

        Args:
            input_ids: int64 [B,T], or embeddings [B,T,C].
            positions: int64 [B,T]; None counts from 0.
            mask: bool [B,1,T,S], True where a token may look; None is causal.
            cache: one layer cache per layer (see `dromaius.engine.kv_cache`).
            last: int64 [B], the one token of each row whose logits are wanted; None: all T.
            span: (start, stop), the ids whose logits are wanted; None: the whole vocabulary.
                The head is linear, so its rows may be left out without changing the others.

        Returns:
            [B,T,V] in the model's dtype; T is 1 with `last`, V is stop - start with `span`.
        """
        hidden = self.model(input_ids, positions, mask, cache)
        if last is not None and hidden.shape[1] > 1:
            hidden = hidden[torch.arange(len(last), device=last.device), last][:, None]  # [B,1,C]
        if isinstance(self.lm_head, HostHead):
            return self.lm_head(hidden, span)
        if span is None:
            return self.lm_head(hidden)
        return linear(hidden, self.lm_head.weight[span[0] : span[1]])

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights: normal with `initializer_range`; norms at one, biases at zero."""
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(0.0, std, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
