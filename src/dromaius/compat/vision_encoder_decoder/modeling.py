"""`VisionEncoderDecoderModel`: the seed's class, over our composition of transformers' parts."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from dromaius.compat.vision_encoder_decoder import loading
from dromaius.compat.vision_encoder_decoder.configuration import (
    VisionEncoderDecoderConfig,
    own_kind,
)
from dromaius.compat.vision_encoder_decoder.decoding import DecodingSettings
from dromaius.compat.vision_encoder_decoder.outputs import EncoderOutput, to_output, to_own
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.model import (
    IGNORED,
    VisionEncoderDecoder,
    shift_right,
    text_loss,
    tokens,
)


class VisionEncoderDecoderModel(  # type: ignore[misc]  # generate: transformers names more arguments
    DecodingSettings, VisionEncoderDecoder, PreTrainedModel, GenerationMixin
):
    """Any image encoder of transformers with any text decoder of it.

    Args:
        config: a `VisionEncoderDecoderConfig` (copied), or None with both parts.
        encoder, decoder: models to use instead of new ones. A decoder must have been built with
            cross-attention.

    Raises:
        ValueError: neither a configuration nor both parts.
        ConfigError: parts that cannot work together, with the reason.
    """

    config: VisionEncoderDecoderConfig
    base_model_prefix = "vision_encoder_decoder"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the Trainer then hands `num_items_in_batch` to forward
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ["past_key_values"]
    _keys_to_ignore_on_load_unexpected = [
        r"^encoder\.(.+\.)?pooler\.",  # built without: nothing uses or trains it
        r"\.position_ids$",
        r"\.attn\.(masked_)?bias$",  # GPT2's old masks
    ]

    def __init__(self, config: Any = None, encoder: Any = None, decoder: Any = None) -> None:
        if config is None:
            if encoder is None or decoder is None:
                raise ValueError("give a configuration, or an encoder and a decoder")
            config = VisionEncoderDecoderConfig(encoder=encoder.config, decoder=decoder.config)
        config = own_kind(config)
        if encoder is not None:
            config.encoder = parts.encoder_config(encoder.config)
        if decoder is not None:
            config.decoder = parts.decoder_config(decoder.config)
        decoding = config.take_decoding()
        PreTrainedModel.__init__(self, config)
        self.generation_config.update(**decoding)
        encoder = parts.build_encoder(config.encoder) if encoder is None else encoder
        decoder = parts.build_decoder(config.decoder) if decoder is None else decoder
        self.join(encoder, decoder)
        config.encoder = parts.encoder_config(encoder.config)
        config.decoder = parts.decoder_config(decoder.config)
        parts.own_config(encoder, config.encoder)
        parts.own_config(decoder, config.decoder)
        self.note_ids()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Reads a checkpoint folder (or hub id) of PyTorch, TensorFlow or Flax.

        Args:
            pretrained_model_name_or_path: folder or hub id.
            **kwargs: `config`, `dtype`, `device_map`, `attn_implementation`, `revision`,
                `subfolder`, `generation_config`, `output_loading_info`, `from_tf`, `from_flax`,
                and any attribute of the configuration.

        Raises CheckpointError when files are absent or damaged, or tensors are missing or have
        another shape: never is a part of a model left random.
        """
        load = super().from_pretrained
        return loading.load_model(cls, load, pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: Any = None,
        decoder_pretrained_model_name_or_path: Any = None,
        *model_args: Any,
        **kwargs: Any,
    ) -> "VisionEncoderDecoderModel":
        """Joins a pretrained encoder and a pretrained decoder; the model is in evaluation mode.

        Args:
            *model_args: go to the encoder.
            **kwargs: `encoder_...` and `decoder_...` go to that part (`_model`: a ready object;
                `_config`: its configuration; `_dtype`, `_attn_implementation`, `_from_tf`,
                `_from_flax`, `_revision`, ...; any attribute of its configuration), `tokenizer` to
                `use_tokenizer`, others to the configuration of the whole.

        Cross-attention that the decoder did not have is new and has to be trained.
        Raises CheckpointError if any other tensor is missing, ValueError without a path or model.
        """
        tokenizer = kwargs.pop("tokenizer", None)
        start = {n: kwargs.pop(n) for n in ("decoder_start_token_id",) if n in kwargs}
        encoder_options, decoder_options = (
            {name[8:]: kwargs.pop(name) for name in list(kwargs) if name.startswith(prefix)}
            for prefix in ("encoder_", "decoder_")
        )
        encoder = loading.load_encoder(
            encoder_pretrained_model_name_or_path, *model_args, **encoder_options
        )
        decoder = loading.load_decoder(decoder_pretrained_model_name_or_path, **decoder_options)
        config = VisionEncoderDecoderConfig(
            encoder=encoder.config, decoder=decoder.config, **start, **kwargs
        )
        model = cls(config=config, encoder=encoder, decoder=decoder).eval()
        if tokenizer is not None:
            model.use_tokenizer(tokenizer)
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Writes config.json, generation_config.json and safetensors under the lasting names.

        Those are the names of transformers 4, which all versions read.
        """
        self.read_config()
        super().save_pretrained(save_directory, *args, **kwargs)

    def forward(  # type: ignore[override]  # the core's takes pixels and ids, this one what HF's do
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        encoder_attention_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Logits [B, T, V], and the loss if there are labels [B, T] (-100: no target).

        Args:
            pixel_values: [B, C, H, W], or give `encoder_outputs`.
            decoder_input_ids: [B, T]; made of the labels, shifted, if not given.
            encoder_outputs: what `encode_images` or an earlier call returned; a tuple or tensor.
            encoder_attention_mask: [B, S], zero for image tokens that are padding.
            num_items_in_batch: targets in the whole batch of which this is a part.
            **kwargs: `decoder_...` go to the decoder, others to the encoder.

        Raises:
            ValueError: no image; labels without a start id.
            TypeError: an argument that the encoder does not know.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        to_decoder = {n[8:]: kwargs.pop(n) for n in list(kwargs) if n.startswith("decoder_")}
        wishes = {
            "output_attentions": bool(_first(output_attentions, self.config.output_attentions)),
            "output_hidden_states": bool(
                _first(output_hidden_states, self.config.output_hidden_states)
            ),
        }
        encoded = self._encoded(
            pixel_values, encoder_outputs, encoder_attention_mask, **wishes, **kwargs
        )
        if labels is not None:
            self.check_ids(labels, "labels", but=IGNORED)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None and (labels is not None or self.training):
            use_cache = False  # a cache is of no use to a training step, only memory
        out = self.decode(
            encoded.memory,
            encoded.attention_mask,
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **wishes,
            **to_decoder,
        )
        result = Seq2SeqLMOutput(
            loss=None if labels is None else text_loss(out.logits, labels, num_items_in_batch),
            logits=out.logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return result if _first(return_dict, self.config.return_dict) else result.to_tuple()

    def encode_images(
        self, pixel_values: Tensor, encoder_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> EncoderOutput:
        """`encoder_outputs` for forward and generate, the projection included.

        kwargs: `output_attentions`, `output_hidden_states`, arguments of the encoder.
        """
        return to_output(self.encode(pixel_values, encoder_attention_mask, **kwargs))

    def _encoded(
        self, pixel_values: Tensor | None, given: Any, mask: Tensor | None, **kwargs: Any
    ) -> EncoderOutput:
        if given is None:
            if pixel_values is None:
                raise ValueError("give pixel_values, or encoder_outputs of an earlier call")
            return self.encode_images(pixel_values, mask, **kwargs)
        outputs = to_own(given)
        given_hidden: Any = outputs.last_hidden_state
        hidden = tokens(given_hidden, self.encoder_width)
        return replace(
            outputs,
            last_hidden_state=hidden,
            memory=self.project(hidden) if outputs.memory is None else outputs.memory,
            attention_mask=outputs.attention_mask if mask is None else mask,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels [B, T] shifted right behind the start id. Raises ValueError without one."""
        start, pad = self.start_and_pad()
        return shift_right(labels, start, pad)

    # ------------------------------------------------------------------------------ embeddings

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder."""
        return self.encoder

    def get_decoder(self) -> Any:
        """The decoder with its language model's head."""
        return self.decoder

    def get_input_embeddings(self) -> Any:
        """The decoder's."""
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Sets the decoder's."""
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The decoder's."""
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Sets the decoder's."""
        self.decoder.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resizes the decoder's vocabulary; arguments as transformers'."""
        embeddings = self.decoder.resize_token_embeddings(*args, **kwargs)
        if self.config.vocab_size is not None:
            self.config.vocab_size = self.config.decoder.vocab_size
        return embeddings


def _first(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given
