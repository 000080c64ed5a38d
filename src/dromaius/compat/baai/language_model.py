"""The language model of the BAAI repositories as a transformers model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from dromaius.compat.baai.configuration import Emu3Config
from dromaius.compat.baai.loading import as_dtype, attention_implementation, read_options
from dromaius.compat.drawing import GridGenerationMixin
from dromaius.compat.transformers.attention import (
    Eager,
    LayerView,
    LegacyCache,
    open_cache,
    to_legacy,
    visibility,
)
from dromaius.errors import CheckpointError, warn_once
from dromaius.models.emu3 import config as ours_config
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import detect, read_config
from dromaius.models.emu3.weights import load_language_model
from dromaius.nn.attention import Attend, sdpa


class Emu3ForCausalLM(PreTrainedModel, GridGenerationMixin):
    """ids [B,T] -> float32 logits [B,T,V]. Holds our `LanguageModel`'s parts under BAAI's names.

    Legend: B batch, T new tokens, S visible tokens, V vocabulary, C channels.
    """

    config_class = Emu3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True  # computed by PyTorch's attention, which has flash kernels
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Emu3Config, language_model: LanguageModel | None = None) -> None:
        """Random weights, unless a filled `language_model` is given."""
        super().__init__(config)
        fresh = language_model is None
        language_model = language_model or LanguageModel(config.to_language_model())
        self.model = language_model.model
        self.lm_head = language_model.lm_head
        if fresh:
            language_model.init_weights()
            if config.pad_token_id is not None and self.lm_head.weight.device.type != "meta":
                with torch.no_grad():
                    self.model.embed_tokens.weight[config.pad_token_id] = 0.0
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # arguments of our own loader
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Emu3ForCausalLM":
        """Load from a folder or hub id in BAAI's, the -hf or our own layout.

        Args:
            pretrained_model_name_or_path: folder, hub id or "nano".
            kwargs: torch_dtype (or dtype; None is float32), device_map (one device, or "auto"),
                attn_implementation ("flash_attention_2" falls back with one warning), config,
                and values of the configuration. `trust_remote_code` runs nothing.

        Raises:
            CheckpointError: a tensor is missing, unexpected or misshapen (named).
            TypeError: an argument that nobody knows (named).
        """
        options = read_options(pretrained_model_name_or_path, kwargs, Emu3Config)
        attention = attention_implementation(options.attention)
        ours = read_config(options.folder)
        config = options.config or _config_of(options.folder, ours)
        for name, value in options.overrides.items():
            setattr(config, name, value)
        if attention:
            config._attn_implementation = attention
        config.dtype = as_dtype(options.dtype, auto=config.dtype)
        language = replace(ours, language_model=config.to_language_model(), vision_tokenizer=None)
        inner = load_language_model(options.folder, language, options.device, config.dtype)
        model = cls(config, inner.requires_grad_(True)).eval()
        model.name_or_path = str(pretrained_model_name_or_path)
        settings = options.folder / "generation_config.json"
        if settings.is_file() and detect(options.folder) == "baai":
            model.generation_config = GenerationConfig.from_pretrained(str(options.folder))
        return model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | LegacyCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        token_type_ids: Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Logits of every token, or of the last `logits_to_keep`, or of those it indexes.

        Args:
            input_ids: int [B,T]; or `inputs_embeds` [B,T,C].
            attention_mask: [B,S], 0 at padding; or bool [B,1,T,S], True where a token may look.
            position_ids: [B,T]; counted from the cache's length if None.
            past_key_values: a transformers cache or (keys, values) per layer; returned as given,
                a new cache if none is and `use_cache` says so.
            labels: ids [B,T], -100 where ignored; the loss compares each with the token before.
            token_type_ids: ignored, the tokenizers of transformers 4 return them.

        Padding at the left that the mask calls visible is hidden (one warning): upstream attends
        to it, which changes guidance wherever a negative prompt is the shorter one of a batch.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.model.embed(input_ids) if inputs_embeds is None else inputs_embeds  # [B,T,C]
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache, legacy = open_cache(past_key_values, len(self.model.layers), use_cache)
        past = int(cache.get_seq_length()) if cache is not None else 0
        if attention_mask is None or attention_mask.ndim == 2:
            attention_mask = self._hide_left_padding(input_ids, attention_mask, cache, past)
        wants_attentions = _wanted(self.config.output_attentions, output_attentions)
        attend = Eager(record=True) if wants_attentions else sdpa
        hidden = self._run_layers(x, position_ids, attention_mask, cache, past, attend)

        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[-1][:, rows]).float()  # [B,T,V]
        given_as_tuples = legacy and cache is not None and past_key_values is not None
        output = CausalLMOutputWithPast(
            loss=None if labels is None else _next_token_loss(logits, labels),
            logits=logits,
            past_key_values=to_legacy(cache) if given_as_tuples else cache,  # type: ignore[arg-type]  # as given
            hidden_states=tuple(hidden)
            if _wanted(self.config.output_hidden_states, output_hidden_states)
            else None,
            attentions=tuple(attend.probabilities or ()) if isinstance(attend, Eager) else None,
        )
        return output if _wanted(self.config.return_dict, return_dict) else output.to_tuple()

    def _run_layers(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        cache: Cache | None,
        past: int,
        attend: Attend,
    ) -> list[Tensor]:
        """x [B,T,C] -> what goes into each layer, then the result after the norm."""
        new = x.shape[1]
        places = torch.arange(past, past + new, device=x.device)  # [T]
        visible = new if cache is None else cache.get_mask_sizes(new, 0)[0]
        mask = visibility(attention_mask, places, visible, keep_causal=past == 0)
        rope = self.model.rotary(places[None] if position_ids is None else position_ids, x.dtype)
        hidden = [x]
        for index, layer in enumerate(self.model.layers):
            x = layer(x, rope, mask, LayerView(cache, index) if cache is not None else None, attend)
            hidden.append(x)
        hidden[-1] = self.model.norm(x)
        return hidden

    def _hide_left_padding(
        self, input_ids: Tensor | None, mask: Tensor | None, cache: Cache | None, past: int
    ) -> Tensor | None:
        """The mask [B,S] without the pads before a row's first token; the cache remembers them."""
        if past:
            hidden = getattr(cache, _LEFT_PADDING, None)
        elif input_ids is None or self.config.pad_token_id is None:
            hidden = None
        else:
            hidden = (input_ids == self.config.pad_token_id).cumprod(dim=1).bool()  # [B,T]
            if mask is not None:
                hidden &= mask.bool()  # the others are hidden already
            if not hidden.any() or hidden.all(dim=1).any():
                return mask
            warn_once(
                "left padding without an attention mask is hidden from attention; upstream attends "
                "to it, so guidance differs where a negative prompt is shorter than its batch"
            )
            if cache is not None:
                setattr(cache, _LEFT_PADDING, hidden)
        if hidden is None:
            return mask
        if mask is None:
            new = 1 if input_ids is None else input_ids.shape[1]
            mask = hidden.new_ones(hidden.shape[0], past + new)
        mask = mask.bool().clone()
        mask[:, : hidden.shape[1]] &= ~hidden
        return mask

    def _seen(self, input_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        return self._hide_left_padding(input_ids, mask, None, 0)

    def _decoder(self) -> tuple[Any, ours_config.LanguageModelConfig]:
        return self.model, self.config.to_language_model()

    def prepare_inputs_for_generation(  # type: ignore[override]  # the rest is passed on
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers', and for loops written for transformers 4: all ids so far may be given.

        Those that the cache holds are then left out.
        """
        if next_sequence_length is None and past_key_values is not None:
            next_sequence_length = input_ids.shape[1] - int(past_key_values.get_seq_length())
        return super().prepare_inputs_for_generation(  # type: ignore[misc]  # typed for a protocol
            input_ids,  # type: ignore[arg-type]  # any integer tensor
            next_sequence_length,
            past_key_values,
            **kwargs,
        )

    def _has_unfinished_sequences(
        self,
        this_peer_finished: bool,
        synced_gpus: bool,
        device: torch.device,
        cur_len: int | None = None,
        max_length: int | None = None,
    ) -> bool:
        """As transformers'; the last two arguments are those that loops for version 4 give."""
        return super()._has_unfinished_sequences(this_peer_finished, synced_gpus, device)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def _init_weights(self, module: Any) -> None:
        """Weights are filled before transformers asks."""


_LEFT_PADDING = "_emu3_left_padding"


def _wanted(default: bool | None, asked: bool | None) -> bool:
    return bool(default if asked is None else asked)


def _next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each label given the tokens before it; -100 is ignored."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(logits.device))


def _config_of(folder: Path, ours: ours_config.Emu3Config) -> Emu3Config:
    """config.json, or its translation from another layout."""
    if detect(folder) == "baai":
        return Emu3Config.from_pretrained(str(folder))
    if ours.language_model is None:
        raise CheckpointError(f"{folder} holds no language model")
    ids = ours.vocabulary
    return Emu3Config(
        **dialects.to_foreign(ours.language_model, dialects.BAAI_LANGUAGE_MODEL),
        pad_token_id=ids.pad,
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
        img_token_id=ids.image_token,
        boi_token_id=ids.image_start,
        eoi_token_id=ids.image_end,
        eol_token_id=ids.end_of_line,
        eof_token_id=ids.end_of_frame,
        image_area=ours.image.image_area,
    )
