"""Emu3Model and Emu3ForConditionalGeneration: both halves behind transformers' interface.

Legend: B batch, T new tokens, C channels, V vocabulary, h/w grid of codes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from dromaius.compat.transformers.base import Emu3PreTrainedModel, language_view, reject
from dromaius.compat.transformers.configuration import Emu3Config, own_config
from dromaius.compat.transformers.generation import Emu3GenerationMixin
from dromaius.compat.transformers.text_model import Emu3TextModel, Past, with_head
from dromaius.compat.transformers.vocabulary import Emu3ImageVocabularyMapping
from dromaius.compat.transformers.vqvae import Emu3VQVAE, Emu3VQVAEModelOutput, ImageSizes
from dromaius.models.emu3 import weights
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.nn.linear import Linear

TAIL = 3
"""Ids after the last row of a generated picture: end of frame, end of image, end of text."""


class Emu3Model(Emu3PreTrainedModel):
    """The decoder and the vision tokenizer: ids and pictures -> hidden states."""

    def __init__(self, config: Emu3Config) -> None:
        config = own_config(config, Emu3Config)
        super().__init__(config)
        self.text_model = Emu3TextModel(config.text)
        self.vqmodel = Emu3VQVAE(config.vision)
        self.vocabulary_mapping = Emu3ImageVocabularyMapping.from_config(config)
        self.post_init()

    def halves(self) -> Mapping[str, nn.Module]:
        return {
            weights.LANGUAGE: language_view(self.text_model),
            weights.VISION: self.vqmodel.tokenizer,
        }

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_image_tokens(self, pixel_values: Tensor, image_sizes: ImageSizes = None) -> Tensor:
        """Ids of all pictures one after another, [sum of h*(w+1)], rows closed by end-of-line."""
        codes = self.vqmodel.encode_pictures(pixel_values, image_sizes).image_tokens
        return torch.cat(self._ids(codes))

    def get_image_features(
        self,
        pixel_values: Tensor,
        image_sizes: ImageSizes = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Emu3VQVAEModelOutput | tuple[Any, ...]:
        """The vision tokenizer's output, with `pooler_output`: embeddings [h*(w+1),C] a picture."""
        reject(kwargs, "get_image_features()")
        output = self.vqmodel.encode_pictures(pixel_values, image_sizes)
        embed = self.text_model.embed_tokens
        ids = self._ids(output.image_tokens)
        output.pooler_output = tuple(embed(i.to(embed.weight.device)) for i in ids)  # type: ignore[assignment]  # one per picture, as upstream
        keep_dict = self.config.return_dict if return_dict is None else return_dict
        return output if keep_dict else output.to_tuple()

    def _ids(self, pictures: list[Tensor] | None) -> list[Tensor]:
        return [self.vocabulary_mapping.convert_img2bpe(p).flatten() for p in pictures or ()]

    @torch.no_grad()
    def decode_image_tokens(self, image_tokens: Tensor, height: int, width: int) -> Tensor:
        """Pixels [B,3,8h,8w] of generated pictures.

        Args:
            image_tokens: ids [B, h*(w+1)+3] as `generate` appends them to the prompt: the rows,
                then end of frame, end of image and end of text; more ids may only be padding.
                An id in a row that is not visual counts as code 0.
            height, width: rows and columns of codes (numbers or 0-d tensors).

        Raises:
            ValueError: another number of ids, or rows that are shifted against the grid.
        """
        height, width = int(height), int(width)
        cells = height * (width + 1)
        if image_tokens.ndim != 2:
            raise ValueError(f"image_tokens must be [batch, ids], got {tuple(image_tokens.shape)}")
        extra = image_tokens[:, cells + TAIL :]
        padding = torch.tensor(self.config.text.pad_token_id or 0).to(extra)
        if image_tokens.shape[1] < cells + TAIL or (extra != padding).any():
            raise ValueError(
                f"a {height}x{width} picture takes {cells + TAIL} ids ({height} rows of "
                f"{width}+1, then end of frame, end of image, end of text), "
                f"got {image_tokens.shape[1]}"
            )
        rows = image_tokens[:, :cells].unflatten(1, (height, width + 1))
        line_end = torch.tensor(self.vocabulary_mapping.eol_token_id or 0).to(rows)
        shifted = (rows[..., -1] != line_end) & (rows[..., :-1] == line_end).any(-1)  # [B,h]
        if shifted.any():
            picture, row = shifted.nonzero()[0].tolist()
            raise ValueError(
                f"picture {picture}: row {row} does not end where a {height}x{width} grid says; "
                "the prompts must be padded left, and height and width be the generated ones"
            )
        return self.vqmodel.decode(self.vocabulary_mapping.convert_bpe2img(rows))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: ImageSizes = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """As `Emu3TextModel.forward`, with pictures put where the ids are `<image>`.

        `pixel_values` [N,3,H,W] are all pictures of the batch in reading order; `image_sizes` their
        sizes in pixels without padding. `mm_encoder_outputs` holds pictures already encoded.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        pictures = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            if pictures is not None:
                raise ValueError("give one of pixel_values and mm_encoder_outputs")
            pictures = self.get_image_features(pixel_values, image_sizes, return_dict=True)
        if inputs_embeds is None:
            inputs_embeds = self.text_model.embed_tokens(input_ids)
        if pictures is not None:
            inputs_embeds = self._put_pictures(input_ids, inputs_embeds, pictures.pooler_output)
        return self.text_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            cache_position=cache_position,
            **kwargs,
        )

    def _put_pictures(self, ids: Tensor | None, embeds: Tensor, pictures: Any) -> Tensor:
        """Replace the embeddings of placeholders, in order, by those of the pictures."""
        placeholder = self.vocabulary_mapping.image_token_id
        if placeholder is None:
            raise ValueError("the configuration's vocabulary_map names no <image>")
        if ids is not None:
            places = ids == placeholder  # [B,T]
        else:
            vector = self.text_model.embed_tokens(torch.tensor(placeholder, device=embeds.device))
            places = (embeds == vector).all(-1)
        found, needed = int(places.sum()), sum(len(picture) for picture in pictures)
        if found != needed:
            raise ValueError(f"the prompt has {found} <image> ids, the pictures take {needed}")
        # A copy, since the caller's embeddings stay as they are.
        rows = torch.cat(list(pictures)).to(embeds)
        return embeds.masked_scatter(places[..., None], rows)


class Emu3ForConditionalGeneration(Emu3PreTrainedModel, Emu3GenerationMixin):
    """The whole model: ids and pictures -> logits, `generate`, and pixels of generated ids."""

    input_modalities = ("image", "text")  # type: ignore[assignment]  # as upstream
    output_modalities = ("image", "text")  # type: ignore[assignment]  # as upstream
    _tied_weights_keys = {"lm_head.weight": "model.text_model.embed_tokens.weight"}

    def __init__(self, config: Emu3Config) -> None:
        config = own_config(config, Emu3Config)
        super().__init__(config)
        self.model = Emu3Model(config)
        self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.post_init()

    def halves(self) -> Mapping[str, nn.Module]:
        return {
            weights.LANGUAGE: language_view(self.model.text_model, self.lm_head),
            weights.VISION: self.model.vqmodel.tokenizer,
        }

    @property
    def text_model(self) -> Emu3TextModel:
        return self.model.text_model

    @property
    def vqmodel(self) -> Emu3VQVAE:
        return self.model.vqmodel

    @property
    def vocabulary_mapping(self) -> Emu3ImageVocabularyMapping:
        return self.model.vocabulary_mapping

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def _decoder(self) -> tuple[Any, LanguageModelConfig]:
        return self.model.text_model, self.config.text.to_ours()

    def get_image_tokens(self, pixel_values: Tensor, image_sizes: ImageSizes = None) -> Tensor:
        """See `Emu3Model.get_image_tokens`."""
        return self.model.get_image_tokens(pixel_values, image_sizes)

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """See `Emu3Model.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    def decode_image_tokens(self, image_tokens: Tensor, height: int, width: int) -> Tensor:
        """See `Emu3Model.decode_image_tokens`."""
        return self.model.decode_image_tokens(image_tokens, height, width)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: ImageSizes = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        labels: Tensor | None = None,
        num_logits_to_keep: int | None = None,
        logits_to_keep: int | Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Arguments and results as seed 000 documents them for this class's forward."""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        keep = num_logits_to_keep, logits_to_keep
        return with_head(self, outputs, labels, keep, num_items_in_batch, return_dict)
