"""`generate` with the right ids and lengths: what is set anywhere counts, the latest first."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from dromaius.compat.vision_encoder_decoder.configuration import VisionEncoderDecoderConfig
from dromaius.compat.vision_encoder_decoder.ids import TokenIds
from dromaius.compat.vision_encoder_decoder.outputs import EncoderOutput
from dromaius.compat.vision_encoder_decoder.searching import write_texts
from dromaius.errors import ContextError
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.decoding.acceleration import Acceleration, accelerated
from dromaius.models.vision_encoder_decoder.decoding.own_products import own_products

_NEW_TOKENS = 20
"""transformers' length when none is given: so many tokens after the prompt."""

_NOT_THE_ENCODERS = frozenset(
    "self ** pixel_values return_dict output_attentions output_hidden_states".split()
)
"""Arguments of an encoder's forward that `generate` deals with itself."""

_THEIRS = (
    "assistant_model prompt_lookup_num_tokens assistant_early_exit use_mtp custom_generate "
    "penalty_alpha num_beam_groups constraints force_words_ids dola_layers guidance_scale "
    "stop_strings past_key_values synced_gpus"
).split()
"""Settings that need transformers' own loops: other searches, a cache that was handed in."""
_DECODER_ARGUMENTS = ("decoder_input_ids", "decoder_attention_mask", "decoder_start_token_id")


class DecodingSettings(TokenIds):
    """The part of the model that knows start, padding and end, and how long a text may be.

    An id comes from `generate`'s arguments, else from what was last assigned to `model.config` or
    `model.generation_config`, else from generation_config.json, else from the decoder's
    configuration.
    """

    config: VisionEncoderDecoderConfig
    generation_config: GenerationConfig
    decoder: Any
    _acceleration = Acceleration()

    def vocabulary_size(self) -> int:
        """Tokens that the decoder has embeddings for."""
        return self.decoder.get_input_embeddings().num_embeddings

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Text for images; arguments and results are transformers'.

        Args:
            inputs: pixels [B, C, H, W], as is `pixel_values`.
            encoder_attention_mask: [B, S], zero for image tokens that are padding.

        A length beyond the decoder's positions is cut to them.
        Raises ContextError for a prompt that leaves no room.
        """
        self.read_config()
        pixels = kwargs.pop("pixel_values", inputs)
        kwargs |= self._bounds(generation_config, kwargs)
        if kwargs.get("assistant_model") is not None:  # it reads the pixels too
            return super().generate(pixels, generation_config, **kwargs)  # type: ignore[misc]  # a mixin
        encoded = self._encode_for(pixels, generation_config, kwargs)
        kwargs["encoder_outputs"] = encoded
        if self._is_ours(generation_config, kwargs):
            # transformers prepares ids, rules and lengths, and repeats for beams what it is given:
            # without channels that costs nothing.
            bare = encoded.last_hidden_state[..., :0]
            kwargs["encoder_outputs"] = EncoderOutput(last_hidden_state=bare)
            streamer = kwargs.get("streamer")
            kwargs["custom_generate"] = partial(
                write_texts,
                encoded=encoded,
                instead=self._acceleration.matrices,
                streamer=streamer,
            )
        return super().generate(None, generation_config, **kwargs)  # type: ignore[misc]  # a mixin

    def accelerate(
        self, *, encoder: str | None = "bfloat16", decoder: str | None = "int8"
    ) -> "DecodingSettings":
        """Makes `generate` faster, and its text nearly the same; returns the model.

        The model's own weights stay, beside copies that only `generate` uses: what is trained,
        saved or returned by a forward pass does not change. Call it again after weights have
        changed or moved; with None for both parts `generate` is exact again.

        Args:
            encoder: "bfloat16" (or "float16").
            decoder: "int8", "int4" or "fp8".

        Raises InputError for another word, or a decoder that has to be called as a module.
        """
        model: Any = self
        self._acceleration = accelerated(model, encoder, decoder)
        return self

    def _is_ours(self, settings: Any, kwargs: dict[str, Any]) -> bool:
        """Whether our loop can write what is asked for."""
        theirs = (_setting(name, kwargs, settings, self.generation_config) for name in _THEIRS)
        if any(value not in (None, False, 0, 1) for value in theirs):
            return False
        return all(
            name in _DECODER_ARGUMENTS or value is None or not name.startswith("decoder_")
            for name, value in kwargs.items()
        )

    def _encode_for(self, pixels: Any, settings: Any, kwargs: dict[str, Any]) -> Any:
        """Encodes the images; takes the encoder's own arguments out of `kwargs`."""
        model: Any = self
        mask = kwargs.pop("encoder_attention_mask", None)
        given = kwargs.pop("encoder_outputs", None)
        known = parts.arguments(type(model.encoder).forward) - _NOT_THE_ENCODERS
        options = {name: kwargs.pop(name) for name in known & set(kwargs)}
        for name in ("output_attentions", "output_hidden_states"):
            options[name] = bool(_setting(name, kwargs, settings, self.generation_config))
        if (encoder := self._acceleration.encoder) is not None:
            options["instead"] = encoder
        with own_products(model.encoder):
            return model._encoded(pixels, given, mask, **options)

    def _bounds(self, generation_config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments that cut the text to the decoder's positions; none where it fits."""
        limit = parts.max_positions(self.decoder)
        if limit is None:
            return {}
        prompt = kwargs.get("decoder_input_ids")
        held = 1 if prompt is None else prompt.shape[1]
        if held >= limit:
            raise ContextError(
                f"a prompt of {held} tokens leaves no room in the decoder's {limit} positions"
            )
        read = (kwargs, generation_config, self.generation_config)
        new, longest = _setting("max_new_tokens", *read), _setting("max_length", *read)
        if new is not None:
            wanted = held + new
        else:
            wanted = held + _NEW_TOKENS if longest is None else longest
        if wanted + (prompt is not None) <= limit:  # a start id may come before a prompt
            return {}
        bound: dict[str, Any] = {"max_length": limit, "max_new_tokens": None}
        for name in ("min_length", "min_new_tokens"):
            if (least := _setting(name, *read)) is not None:
                bound[name] = min(least, limit if name == "min_length" else limit - held)
        return bound


def _setting(name: str, kwargs: dict[str, Any], *configs: Any) -> Any:
    """The first that is given."""
    values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)
