"""Image in, text out: encoder, projection where the widths differ, decoder with cross-attention.

Shapes: B images, S image tokens, E encoder channels, M channels that the decoder's cross-attention
reads, T text tokens, V vocabulary. Source: TrOCR (arXiv 2109.10282), section 2, for the scheme.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder import parts

IGNORED = -100
"""A label that is no target."""


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of a batch of images, computed once."""

    hidden: Tensor
    """The encoder's last hidden state [B, S, E]."""
    memory: Tensor
    """The same in the width of the decoder's cross-attention [B, S, M]."""
    mask: Tensor | None = None
    """[B, S], zero for image tokens that are padding."""
    hidden_states: tuple[Tensor, ...] | None = None
    """Each [B, s, e]: feature maps are flattened."""
    attentions: tuple[Tensor, ...] | None = None


class VisionEncoderDecoder(nn.Module):
    """Any image encoder with any text decoder.

    encoder: pixels [B, C, H, W] -> tokens [B, S, E] or a feature map [B, E, h, w].
    decoder: a causal language model with cross-attention.
    Both are transformers' models. Tensor names: `encoder.`, `decoder.`, `enc_to_dec_proj.`.
    """

    encoder: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.join(encoder, decoder)

    def join(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Takes the parts. Raises ConfigError for a pair that cannot work."""
        parts.check_encoder(encoder)
        parts.check_decoder(decoder)
        self.encoder, self.decoder = encoder, decoder
        self.encoder_width = parts.encoder_width(encoder.config)
        width = parts.memory_width(encoder.config, decoder.config)
        if width != self.encoder_width:
            self.enc_to_dec_proj = nn.Linear(self.encoder_width, width)
            nn.init.normal_(self.enc_to_dec_proj.weight, std=0.02)
            nn.init.zeros_(self.enc_to_dec_proj.bias)
        parts.mend_position_tables(decoder)

    def encode(
        self,
        pixel_values: Tensor,
        mask: Tensor | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        instead: Any = None,
        **options: Any,
    ) -> Encoded:
        """pixels [B, C, H, W] -> Encoded. `options` are arguments of the encoder.

        instead: a copy of the encoder to use, in another dtype.

        Raises TypeError for an option that the encoder does not know, InputError for pixels of
        another shape.
        """
        self._check_pixels(pixel_values)
        encoder = self.encoder if instead is None else instead
        known = parts.arguments(type(encoder).forward)
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"the encoder {type(encoder).__name__} takes no {unknown[0]!r}")
        wishes = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
        }
        wishes = {name: wish for name, wish in wishes.items() if name in known or "**" in known}
        pixels = pixel_values if instead is None else pixel_values.to(instead.dtype)
        with parts.eager_attention(encoder) if output_attentions else nullcontext():
            out = encoder(pixel_values=pixels, **wishes, **options)
        hidden = tokens(out[0], self.encoder_width)
        hidden = hidden if instead is None else hidden.to(pixel_values.dtype)
        if hidden.shape[-1] != self.encoder_width:
            raise InputError(
                f"the encoder gives {hidden.shape[-1]} channels, not the {self.encoder_width} "
                "that its configuration states"
            )
        maps = out.get("hidden_states") if output_hidden_states else None
        return Encoded(
            hidden=hidden,
            memory=self.project(hidden),
            mask=mask,
            hidden_states=None if maps is None else tuple(tokens(m) for m in maps),
            attentions=out.get("attentions") if output_attentions else None,
        )

    def _check_pixels(self, pixel_values: Tensor) -> None:
        shape = tuple(pixel_values.shape)
        if len(shape) != 4:
            raise InputError(f"pixel_values must be (batch, channels, height, width), not {shape}")
        channels = getattr(self.encoder.config, "num_channels", shape[1])
        if shape[1] != channels:
            raise InputError(
                f"pixel_values have {shape[1]} channels, the encoder reads {channels}: "
                "convert the pictures to RGB first"
            )

    def project(self, hidden: Tensor) -> Tensor:
        """[B, S, E] -> [B, S, M]."""
        if hasattr(self, "enc_to_dec_proj"):
            return self.enc_to_dec_proj(hidden)
        return hidden.contiguous()  # GPT2 views it; a caller's may be a slice

    def decode(
        self,
        memory: Tensor,
        mask: Tensor | None = None,
        *,
        output_attentions: bool = False,
        **options: Any,
    ) -> Any:
        """memory [B, S, M] and the decoder's arguments -> the decoder's output, logits [B, T, V].

        Raises InputError for a mask that does not fit the memory or an id outside the vocabulary.
        """
        check_mask(mask, memory)
        ids = options.get("input_ids")
        if ids is not None:
            self.check_ids(ids, "decoder_input_ids")
        options |= {"encoder_hidden_states": memory, "encoder_attention_mask": mask}
        options["output_attentions"] = output_attentions
        with parts.eager_attention(self.decoder) if output_attentions else nullcontext():
            return self.decoder(**options, return_dict=True)

    def check_ids(self, ids: Tensor, name: str, but: int | None = None) -> None:
        """Raises InputError for ids (all `but` one) that the decoder has no embedding for.

        On a CPU only: a device would have to be waited for.
        """
        if ids.device.type != "cpu":
            return
        ids = ids if but is None else ids[ids != but]
        if not ids.numel():
            return
        size = self.decoder.get_input_embeddings().num_embeddings
        highest, lowest = int(ids.max()), int(ids.min())
        if highest >= size or lowest < 0:
            wrong = highest if highest >= size else lowest
            raise InputError(
                f"{name} hold id {wrong}, the decoder's vocabulary has {size}: the tokenizer does "
                "not match the decoder (or resize_token_embeddings is needed)"
            )

    def forward(self, pixel_values: Tensor, ids: Tensor) -> Tensor:
        """pixels [B, C, H, W], ids [B, T] -> logits [B, T, V]."""
        encoded = self.encode(pixel_values)
        return self.decode(encoded.memory, encoded.mask, input_ids=ids, use_cache=False).logits


def check_mask(mask: Tensor | None, memory: Tensor) -> None:
    """Raises InputError for a mask that does not fit memory [B, S, M]."""
    if mask is not None and mask.shape != memory.shape[:2]:
        raise InputError(
            f"encoder_attention_mask has shape {tuple(mask.shape)}; the images have "
            f"{tuple(memory.shape[:2])} (batch, tokens)"
        )


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """Labels [B, T] -> what the decoder reads when it predicts them: start, then all but the last.

    Ignored labels are read as `pad`.
    """
    ids = labels.roll(1, dims=-1)
    ids[..., 0] = start
    return ids.masked_fill(ids == IGNORED, pad)


def text_loss(logits: Tensor, labels: Tensor, items: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of logits [B, T, V] against labels [B, T], in float32.

    The mean over the labels that count; with `items`, their sum divided by it: gradients of parts
    of a batch then add up to those of the whole.
    """
    scores = logits.reshape(-1, logits.shape[-1]).float()
    targets = labels.reshape(-1).to(scores.device)
    if items is None:
        return F.cross_entropy(scores, targets, ignore_index=IGNORED)
    total = F.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
    return total / (items.to(total.device) if isinstance(items, torch.Tensor) else items)


def tokens(features: Tensor, width: int | None = None) -> Tensor:
    """A feature map [B, E, h, w] (or [B, h, w, E]) as tokens [B, h*w, E]."""
    if features.ndim != 4:
        return features
    if width is not None and features.shape[1] != width and features.shape[-1] == width:
        return features.flatten(1, 2)  # [B, h, w, E] -> [B, h*w, E]
    return features.flatten(2).mT  # [B, E, h, w] -> [B, h*w, E]
