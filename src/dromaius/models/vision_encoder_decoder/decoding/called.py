"""A decoding step that calls transformers' decoder as a module: any of them, with all its outputs.

Cross-attention's keys and values are computed once per image, and rows of an image then hold copies
that are never moved; self-attention's lie in slots (see `slots`), from which a pass gathers each
row's past once instead of reordering and joining it.

Legend: B images, K rows of each, R = B * K, P tokens of the prompts, L of a row so far, H heads,
D head dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from dromaius.models.vision_encoder_decoder.decoding.slots import Slots, Store
from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder


class CalledDecoder:
    """The state of texts that are being written (`dromaius.engine.beam_search.NextLogits`).

    Args:
        model: its `decode` is called.
        memory: [B,S,M], what the decoder reads of the images.
        mask: [B,S], zero for image tokens that are padding.
        rows: K, texts or beams of an image.
        prompt_mask: [B,P], zero for tokens of the prompts that are padding.
        cached: False computes all tokens again in every step.
        wishes: `output_attentions`, `output_hidden_states`.
    """

    def __init__(
        self,
        model: VisionEncoderDecoder,
        memory: Tensor,
        mask: Tensor | None = None,
        rows: int = 1,
        prompt_mask: Tensor | None = None,
        *,
        cached: bool = True,
        **wishes: bool,
    ) -> None:
        self.model, self.memory, self.mask = model, memory, mask
        self.rows, self.wishes, self.prompt_mask = rows, wishes, prompt_mask
        self.slots = Slots(len(memory), rows, memory.device)
        self.cache = _cache(self.slots) if cached else None
        self.ids = torch.empty(0)
        """[R,L]: what the rows hold."""
        self.outputs: list[Any] = []
        """The decoder's outputs of all passes, if any are wished for."""

    def prefill(self, ids: Tensor) -> Tensor:
        """Prompts [B,P] -> logits [B,V]."""
        self.slots.prompt(ids.shape[1])
        out = self._decode(ids, ids.shape[1])
        if self.cache is not None and self.rows > 1:
            self.cache.cross_attention_cache.batch_repeat_interleave(self.rows)
        for name in ("memory", "mask", "prompt_mask"):
            setattr(self, name, _repeated(getattr(self, name), self.rows))
        self.ids = _repeated(ids, self.rows)
        self._keep(out, self.rows)
        return out.logits[:, -1]

    def step(self, ids: Tensor, parents: Tensor | None) -> Tensor:
        """ids [R] -> logits [R,V]; parents: see `NextLogits`."""
        self.slots.advance(parents)
        before = self.ids if parents is None else self.ids[parents]
        self.ids = torch.cat((before, ids[:, None]), dim=1)
        out = self._decode(self.ids if self.cache is None else ids[:, None], self.ids.shape[1])
        self._keep(out, 1)
        return out.logits[:, -1]

    def _decode(self, ids: Tensor, length: int) -> Any:
        mask = self.prompt_mask
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(len(ids), length - mask.shape[1])), dim=1)
        return self.model.decode(
            self.memory,
            self.mask,
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            **self.wishes,
        )

    def _keep(self, out: Any, copies: int) -> None:
        if any(self.wishes.values()):
            self.outputs.append({name: _repeated(out.get(name), copies) for name in KEPT})


KEPT = ("attentions", "cross_attentions", "hidden_states")


def _repeated(value: Any, copies: int) -> Any:
    """Each row of a tensor, or of a tuple's tensors, `copies` times."""
    if value is None or copies == 1:
        return value
    if isinstance(value, tuple):
        return tuple(_repeated(part, copies) for part in value)
    return value.repeat_interleave(copies, dim=0)


def _cache(slots: Slots) -> EncoderDecoderCache:
    own = _RowsCache(slots)
    return EncoderDecoderCache(own, DynamicCache())


class _RowsCache(Cache):
    """transformers' interface over `Slots`; layers come as the decoder asks for them."""

    def __init__(self, slots: Slots) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.slots = slots

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keeps [B,H,P,D] of the prompts or [R,H,1,D] of a step; returns all that the rows see."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_RowsLayer(self.slots))
        layer = self.layers[layer_idx]
        assert isinstance(layer, _RowsLayer)
        return layer.update(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slots.past


class _RowsLayer(DynamicLayer):
    """One layer's past."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots, self.store = slots, Store()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        slots, path = self.slots, self.slots.path
        new = path.shape[2] - slots.past
        if slots.past == 0:
            self.store.put(key_states, value_states, path[:, 0], slots.count)
            return key_states, value_states
        assert new == 1  # a step
        keys, values = (
            x.unflatten(0, (slots.images, slots.rows)).squeeze(3).transpose(1, 2)
            for x in (key_states, value_states)
        )  # [R,H,1,D] -> [B,H,K,D]
        self.store.put(keys, values, path[:, :, -1], slots.count)
        return self.store.of_rows(path)

    def get_seq_length(self) -> int:
        return self.slots.past
