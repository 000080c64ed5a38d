"""Emu3TextModel and Emu3ForCausalLM: our decoder behind transformers' interface.

Legend: B batch, T new tokens, C channels, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from dromaius.compat.transformers.attention import (
    Eager,
    LayerView,
    LegacyCache,
    open_cache,
    to_legacy,
    visibility,
)
from dromaius.compat.transformers.base import Emu3PreTrainedModel, language_view, reject
from dromaius.compat.transformers.configuration import Emu3TextConfig, own_config
from dromaius.compat.transformers.generation import Emu3GenerationMixin
from dromaius.models.emu3 import weights
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.nn.attention import sdpa
from dromaius.nn.decoder import Decoder
from dromaius.nn.linear import Linear

Past = Cache | LegacyCache | Sequence[tuple[Tensor, Tensor]]


class Emu3TextModel(Emu3PreTrainedModel):
    """Ids [B,T] or embeddings [B,T,C] -> hidden states [B,T,C] after the final norm."""

    config: Emu3TextConfig  # type: ignore[assignment]  # as upstream: the text half alone
    saved_layout = "hf-text"

    def __init__(self, config: Emu3TextConfig) -> None:
        config = own_config(config, Emu3TextConfig)
        super().__init__(config)
        decoder = Decoder(config.to_ours())
        # Held directly, so that parameters have the names they have in transformers' Emu3TextModel.
        self.embed_tokens, self.layers, self.norm = (
            decoder.embed_tokens,
            decoder.layers,
            decoder.norm,
        )
        self.rotary = decoder.rotary
        self.vocab_size, self.padding_idx = config.vocab_size, config.pad_token_id
        if config.pad_token_id is not None:
            if not 0 <= config.pad_token_id < config.vocab_size:
                raise ValueError(
                    f"pad_token_id {config.pad_token_id} is no id of a vocabulary of "
                    f"{config.vocab_size}"
                )
            self.embed_tokens.padding_idx = config.pad_token_id  # its row is never trained
        self.post_init()

    def halves(self) -> Mapping[str, nn.Module]:
        return {weights.LANGUAGE: language_view(self)}

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.add_module("embed_tokens", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Arguments and results as seed 000 documents them for Emu3TextModel.forward.

        The cache comes back in the format it was given in; without one in the legacy format.
        `hidden_states` are the embeddings, then each layer's output, the last after the norm.
        """
        reject(kwargs, "forward()")
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = config.use_cache if use_cache is None else use_cache
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        cache, legacy = open_cache(past_key_values, len(self.layers), use_cache)
        slots = _places(cache, x, cache_position)
        rope = self.rotary(slots[None] if position_ids is None else position_ids, x.dtype)
        mask = _mask(attention_mask, slots, cache)
        recorder = Eager(bool(output_attentions))
        eager = output_attentions or config._attn_implementation == "eager"
        attend = recorder if eager else sdpa
        hidden = []  # kept only when asked for: they are as many as there are layers
        for index, layer in enumerate(self.layers):
            if output_hidden_states:
                hidden.append(x)
            view = LayerView(cache, index) if cache is not None else None
            x = layer(x, rope, mask, view, attend)
        x = self.norm(x)
        hidden.append(x)
        past = to_legacy(cache) if legacy and cache is not None else cache
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past if use_cache or not legacy else None,  # type: ignore[arg-type]  # legacy tuples are documented
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(recorder.probabilities) if output_attentions else None,
        )
        return output if _wants_dict(return_dict, config) else output.to_tuple()


class Emu3ForCausalLM(Emu3PreTrainedModel, Emu3GenerationMixin):
    """The language model: ids [B,T] -> logits [B,T,V], and `generate`."""

    config: Emu3TextConfig  # type: ignore[assignment]  # as upstream: the text half alone
    saved_layout = "hf-text"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Emu3TextConfig) -> None:
        config = own_config(config, Emu3TextConfig)
        super().__init__(config)
        self.model = Emu3TextModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def halves(self) -> Mapping[str, nn.Module]:
        return {weights.LANGUAGE: language_view(self.model, self.lm_head)}

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def _decoder(self) -> tuple[Any, LanguageModelConfig]:
        return self.model, self.config.to_ours()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        num_logits_to_keep: int | None = None,
        logits_to_keep: int | Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Arguments and results as seed 000 documents them for Emu3ForCausalLM.forward.

        `num_logits_to_keep` and its later name `logits_to_keep` mean the same.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
            **kwargs,
        )
        return with_head(
            self,
            outputs,
            labels,
            (num_logits_to_keep, logits_to_keep),
            num_items_in_batch,
            return_dict,
        )


def with_head(
    model: Any,
    outputs: BaseModelOutputWithPast,
    labels: Tensor | None,
    keep: tuple[int | None, int | Tensor | None],
    num_items_in_batch: Tensor | int | None,
    return_dict: bool | None,
) -> CausalLMOutputWithPast | tuple[Any, ...]:
    """Hidden states -> logits of the positions asked for, and the loss where there are labels."""
    hidden = outputs.last_hidden_state
    assert hidden is not None
    logits = model.lm_head(_positions_to_keep(hidden, *keep))
    loss = None
    if labels is not None:
        more = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        vocab_size = model.config.get_text_config().vocab_size
        loss = model.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **more)
    output = CausalLMOutputWithPast(
        loss=loss,
        logits=logits,
        past_key_values=outputs.past_key_values,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )
    return output if _wants_dict(return_dict, model.config) else output.to_tuple()


def _wants_dict(return_dict: bool | None, config: Any) -> bool:
    return bool(config.return_dict if return_dict is None else return_dict)


def _places(cache: Cache | None, x: Tensor, cache_position: Tensor | None) -> Tensor:
    """Places int64 [T] of the new tokens in the cache.

    Raises ValueError for a `cache_position` that does not continue the cache.
    """
    seen = cache.get_seq_length() if cache is not None else 0
    slots = torch.arange(x.shape[1], device=x.device) + seen
    if cache_position is not None and not torch.equal(cache_position.to(slots), slots):
        raise ValueError(
            f"cache_position must count on from the {int(seen)} tokens in the cache, "
            f"got {cache_position.tolist()}"
        )
    return slots


def _mask(attention_mask: Tensor | None, slots: Tensor, cache: Cache | None) -> Tensor | None:
    new = len(slots)
    if cache is None:
        return visibility(attention_mask, slots, new, keep_causal=True)
    visible, offset = cache.get_mask_sizes(new, 0)
    if offset:
        raise ValueError("sliding-window caches are not supported: every layer sees all tokens")
    return visibility(attention_mask, slots, visible, keep_causal=visible == new)


def _positions_to_keep(hidden: Tensor, old_name: int | None, keep: int | Tensor | None) -> Tensor:
    """hidden [B,T,C] -> [B,n,C]: the last n positions (0: all), or those a tensor lists."""
    if old_name is not None and keep is not None:
        raise ValueError("give one of num_logits_to_keep and logits_to_keep")
    keep = old_name if keep is None else keep
    if isinstance(keep, Tensor):
        if keep.ndim == 2:
            return (
                hidden[keep]
                if keep.dtype == torch.bool
                else hidden.take_along_dim(keep[..., None], dim=1)
            )
        return hidden[:, keep]
    return hidden[:, -keep:] if keep else hidden
