"""A decoding step over the weights of transformers' decoder, with a forward of its own.

Compared with calling the module: keys and values of the image are computed once for all its rows,
the rows of an image are queries of one attention, nothing is reordered, joined or repeated, and
products run at the speed of memory.

Legend: B images, K rows of each, R = B * K, n tokens of an image in a pass (the prompt's,
or one of each row), M channels of the memory, S image tokens or slots, H heads, D head dim,
C channels, V vocabulary.
"""

import torch
from torch import Tensor, nn

from dromaius.models.vision_encoder_decoder.decoding.layers import DecoderLayers, Layer, together
from dromaius.models.vision_encoder_decoder.decoding.slots import Slots, Store
from dromaius.nn.attention import sdpa


class FastDecoder:
    """The state of texts that are being written (`dromaius.engine.beam_search.NextLogits`).

    Args:
        decoder: see `read_layers`.
        memory: [B,S,M], what the decoder reads of the images.
        mask: [B,S], zero for image tokens that are padding.
        rows: K, texts or beams of an image.
        prompt_mask: [B,P], zero for tokens of the prompts that are padding.
    """

    def __init__(
        self,
        decoder: DecoderLayers,
        memory: Tensor,
        mask: Tensor | None = None,
        rows: int = 1,
        prompt_mask: Tensor | None = None,
    ) -> None:
        self.decoder, self.rows = decoder, rows
        self.slots = Slots(len(memory), rows, memory.device, prompt_mask)
        self.stores = [Store() for _ in decoder.layers]
        self.memory = [self._answers(layer, memory) for layer in decoder.layers]
        if mask is None:
            mask = torch.ones(1, memory.shape[1], device=memory.device)
        self.mask = mask.bool()[:, None, None]  # [B or 1,1,1,S]

    def prefill(self, ids: Tensor) -> Tensor:
        """Prompts [B,P] -> logits [B,V]."""
        slots = self.slots.prompt(ids.shape[1])
        x = self.decoder.embed(ids, 0)
        return self._logits(self._forward(x, slots, self.slots.prompt_sight())[:, -1])

    def step(self, ids: Tensor, parents: Tensor | None) -> Tensor:
        """ids [R] -> logits [R,V]; parents: see `NextLogits`."""
        slots = self.slots.advance(parents)
        x = self.decoder.embed(ids[:, None], self.slots.past)  # [R,1,C]
        x = x.view(len(slots), self.rows, -1)  # the rows of an image as its tokens
        return self._logits(self._forward(x, slots, self.slots.sight()).flatten(0, 1))

    def _answers(self, layer: Layer, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the image tokens, [B,H,S,D] each."""
        both = torch.cat([matrix(memory) for matrix in layer.answer], dim=-1)
        keys, values = both.chunk(2, dim=-1)
        return self._heads(keys).contiguous(), self._heads(values).contiguous()

    def _forward(self, x: Tensor, slots: Tensor, sight: Tensor) -> Tensor:
        """x [B,n,C], slots [B,n], sight [B or 1,1,n,S] -> [B,n,C]."""
        for index, layer in enumerate(self.decoder.layers):
            x = self._layer(x, index, layer, slots, sight)
        return x

    def _layer(self, x: Tensor, index: int, layer: Layer, slots: Tensor, sight: Tensor) -> Tensor:
        read, ask, think = layer.norms
        x = self._after(read, x + self._read(self._before(read, x), index, layer, slots, sight))
        x = self._after(ask, x + self._ask(self._before(ask, x), index, layer))
        return self._after(think, x + layer.down(layer.act(layer.up(self._before(think, x)))))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.decoder.pre_norm else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.decoder.pre_norm else norm(x)

    def _read(self, x: Tensor, index: int, layer: Layer, slots: Tensor, sight: Tensor) -> Tensor:
        """Self-attention: each token sees those before it in its row."""
        parts = together(x, layer.read)
        q, k, v = parts if len(parts) == 3 else parts[0].chunk(3, dim=-1)
        store = self.stores[index]
        store.put(self._heads(k), self._heads(v), slots, self.slots.count)
        keys, values = store.first(self.slots.count)
        return layer.read_out(_joined(sdpa(self._heads(q), keys, values, sight)))

    def _ask(self, x: Tensor, index: int, layer: Layer) -> Tensor:
        """Cross-attention: all rows of an image ask the same keys and values."""
        keys, values = self.memory[index]
        mask = self.mask.expand(-1, -1, x.shape[1], -1)
        return layer.ask_out(_joined(sdpa(self._heads(layer.ask(x)), keys, values, mask)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.decoder.heads, -1)).transpose(1, 2)  # [B,n,C] -> [B,H,n,D]

    def _logits(self, x: Tensor) -> Tensor:
        """[R,C] -> [R,V]."""
        return self.decoder.vocabulary(self.decoder.finish(x))


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B,H,n,D] -> [B,n,C]
