"""The language model of the BAAI repositories as a transformers model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from dromaius.compat.baai.configuration import Emu3Config
from dromaius.compat.baai.loading import as_dtype, attention_implementation, read_options
from dromaius.errors import CheckpointError, warn_once
from dromaius.models.emu3 import config as ours_config
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import detect, read_config
from dromaius.models.emu3.weights import load_language_model
from dromaius.nn.attention import Attend, attention_probabilities, sdpa


class Emu3ForCausalLM(PreTrainedModel, GenerationMixin):
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
        past_key_values: Cache | None = None,
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
            past_key_values: a transformers cache; a new one is made if `use_cache` says so.
            labels: ids [B,T], -100 where ignored; the loss compares each with the token before.
            token_type_ids: ignored, the tokenizers of transformers 4 return them.

        Padding at the left that the mask calls visible is hidden (one warning): upstream attends
        to it, which changes guidance wherever a negative prompt is the shorter one of a batch.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.model.embed(input_ids) if inputs_embeds is None else inputs_embeds  # [B,T,C]
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if attention_mask is None or attention_mask.ndim == 2:
            attention_mask = self._hide_left_padding(input_ids, attention_mask, past_key_values)
        mask = _visible(x.shape[1], past, attention_mask, past_key_values, x.device)
        if position_ids is None:
            position_ids = torch.arange(past, past + x.shape[1], device=x.device)[None]

        hidden = self._list_if("hidden_states", output_hidden_states)
        attentions = self._list_if("attentions", output_attentions)
        x = self._layers(x, position_ids, mask, past_key_values, hidden, attentions)
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, rows]).float()  # [B,T,V]
        output = CausalLMOutputWithPast(
            loss=None if labels is None else _next_token_loss(logits, labels),
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=None if hidden is None else tuple(hidden),
            attentions=None if attentions is None else tuple(attentions),
        )
        return output if return_dict is not False else output.to_tuple()

    def _list_if(self, what: str, asked: bool | None) -> list[Tensor] | None:
        """A list to fill where the caller, or else the configuration, wants `what`."""
        wanted = getattr(self.config, f"output_{what}", False) if asked is None else asked
        return [] if wanted else None

    def _layers(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        hidden: list[Tensor] | None,
        attentions: list[Tensor] | None,
    ) -> Tensor:
        """Run the stack; collect what goes into each layer, and attention probabilities."""
        rope = self.model.rotary(positions, x.dtype)
        attend = sdpa if attentions is None else _recording(attentions)
        for index, layer in enumerate(self.model.layers):
            if hidden is not None:
                hidden.append(x)
            view = None if cache is None else _LayerCache(cache, index)
            x = layer(x, rope, mask, view, attend)
        x = self.model.norm(x)
        if hidden is not None:
            hidden.append(x)
        return x

    def _hide_left_padding(
        self, input_ids: Tensor | None, mask: Tensor | None, cache: Cache | None
    ) -> Tensor | None:
        """The mask [B,S] without pads before the first token; the cache remembers them."""
        pad, cached = self.config.pad_token_id, cache is not None and cache.get_seq_length() > 0
        if cached:
            hidden = getattr(cache, _LEFT_PADDING, None)
        elif input_ids is None or pad is None:
            hidden = None
        else:
            hidden = (input_ids == pad).cumprod(dim=1).bool()  # [B,T]
            hidden &= ~hidden.all(dim=1, keepdim=True)
            seen = hidden if mask is None else hidden & mask.bool()
            if not seen.any():
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
            assert input_ids is not None
            past = cache.get_seq_length() if cache is not None and cached else 0
            mask = input_ids.new_ones(input_ids.shape[0], past + input_ids.shape[1])
        mask = mask.bool().clone()
        mask[:, : hidden.shape[1]] &= ~hidden.to(mask.device)
        return mask

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def _init_weights(self, module: Any) -> None:
        """Weights are filled before transformers asks."""


_LEFT_PADDING = "_emu3_left_padding"


class _LayerCache:
    """One layer of a transformers cache, as our attention sees it."""

    def __init__(self, cache: Cache, layer: int) -> None:
        self.cache, self.layer = cache, layer

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(keys, values, self.layer)


def _visible(
    new: int, past: int, mask: Tensor | None, cache: Cache | None, device: torch.device
) -> Tensor | None:
    """bool [B,1,T,S], True where a token may look; None: plain causal over the new tokens."""
    if mask is not None and mask.ndim == 4:
        return mask if mask.dtype == torch.bool else mask >= 0
    if past == 0 and (mask is None or bool(mask.all())):
        if cache is None or cache.get_mask_sizes(new, 0) == (new, 0):
            return None
    length, offset = (new, 0) if cache is None else cache.get_mask_sizes(new, 0)
    keys = torch.arange(offset, offset + length, device=device)
    visible = keys[None] <= torch.arange(past, past + new, device=device)[:, None]  # [T,S]
    visible = visible[None, None]
    if mask is not None:
        padding = F.pad(mask.bool(), (0, max(0, offset + length - mask.shape[1])))  # static caches
        visible = visible & padding[:, None, None, keys]
        # A padded query sees nothing, which softmax cannot express: let it see itself.
        itself = keys[None] == torch.arange(past, past + new, device=device)[:, None]
        visible = visible | itself[None, None]
    return visible


def _recording(attentions: list[Tensor]) -> Attend:
    """Attention that also keeps its probabilities [B,H,T,S]."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        attentions.append(attention_probabilities(q, k, mask))
        return sdpa(q, k, v, mask, dropout)

    return attend


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
