"""What the encoder found, in the form that transformers' callers and its `generate` expect."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from dromaius.models.vision_encoder_decoder.model import Encoded


@dataclass
class EncoderOutput(BaseModelOutput):
    """An encoder's output that also carries what the decoder reads.

    `memory` [B, S, M] is `last_hidden_state` [B, S, E] projected to the decoder's width, computed
    once; `attention_mask` [B, S] is zero for image tokens that are padding.
    """

    memory: Any = None
    attention_mask: Tensor | None = None


def to_output(encoded: Encoded) -> EncoderOutput:
    """Our value as transformers' kind."""
    return EncoderOutput(
        last_hidden_state=encoded.hidden,
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
        memory=encoded.memory,
        attention_mask=encoded.mask,
    )


def to_own(given: Any) -> EncoderOutput:
    """A caller's `encoder_outputs` (an output, a tuple, or the hidden state [B, S, E] itself).

    The result is a new object: `generate` repeats its tensors for beams in place.
    """
    if isinstance(given, torch.Tensor):
        return EncoderOutput(last_hidden_state=given)
    if isinstance(given, (tuple, list)):
        return EncoderOutput(*given[:3])
    names = ("last_hidden_state", "hidden_states", "attentions", "memory", "attention_mask")
    return EncoderOutput(**{name: given.get(name) for name in names})
