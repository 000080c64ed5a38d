"""What the JAX and TensorFlow classes return: fields by name, by attribute and by position.

Arrays are the framework's own. A field that was not asked for is None and has no position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Output:
    """`out.logits`, `out["logits"]`, `out[0]`; jitted functions may return it."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there."""
        return tuple(self[name] for name in self.keys())

    def keys(self) -> list[str]:
        """Names of the fields that are there."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def values(self) -> list[Any]:
        """The fields that are there."""
        return list(self.to_tuple())

    def items(self) -> list[tuple[str, Any]]:
        """Names and fields that are there."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, otherwise: Any = None) -> Any:
        """A field, or `otherwise`."""
        return self[name] if name in self else otherwise

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    # TensorFlow's protocol for values that functions take and return
    def __tf_flatten__(self) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        return tuple(self.keys()), self.to_tuple()

    @classmethod
    def __tf_unflatten__(cls, names: tuple[str, ...], values: tuple[Any, ...]) -> Output:
        return cls(**dict(zip(names, values, strict=True)))


@dataclass
class EncoderOutput(Output):
    """Of B images with S tokens."""

    last_hidden_state: Any = None
    """[B, S, E]."""
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class DecoderOutput(Output):
    """Of B texts with T tokens."""

    logits: Any = None
    """[B, T, V]."""
    past_key_values: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None


@dataclass
class Seq2SeqOutput(Output):
    """Of the whole model."""

    loss: Any = None
    logits: Any = None
    """[B, T, V]."""
    past_key_values: Any = None
    decoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_last_hidden_state: Any = None
    """[B, S, E]."""
    encoder_hidden_states: tuple[Any, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, encoded: EncoderOutput, decoded: DecoderOutput, loss: Any = None) -> Seq2SeqOutput:
        """Both halves as one."""
        return cls(
            loss=loss,
            logits=decoded.logits,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


@dataclass
class GenerateOutput(Output):
    """Of a search."""

    sequences: Any = None
    """[B * N, L] token ids."""
    scores: Any = None
    """[B * N] sums of log-probabilities over (new tokens) ** length_penalty; of beams only."""


OUTPUTS = (EncoderOutput, DecoderOutput, Seq2SeqOutput, GenerateOutput)
