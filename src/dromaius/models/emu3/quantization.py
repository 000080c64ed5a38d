"""Which of the language model's matrices are stored in few bits, how, and what that costs.

The layers of the decoder are what a pass reads, so they take the form that is asked for. Head and
embedding decide more than their share (docs/performance.md) and are int8 in every mode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

from dromaius.errors import ConfigError
from dromaius.models.emu3.section import Section
from dromaius.nn.packing import Form

MODES = ("int8", "int4", "fp8")
DEFAULT_GROUP = {"int8": 0, "int4": 64, "fp8": 0}
MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""Linear layers of a decoder layer."""


class Shape(Protocol):
    """What a plan needs to know of a language model."""

    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...


class StoredForm(Form, Section):
    """A `Form` in a file."""


@dataclass(frozen=True)
class QuantizationCost(Section):
    """How far the quantized model is from the full one, on the fixed set of
    `dromaius.evaluation.quantization`."""

    tokens: int
    """Places at which next-token distributions were compared."""
    kl_mean: float
    """Kullback-Leibler divergence of the quantized distribution from the full one, in nats."""
    kl_p95: float
    """Its 95th percentile."""
    top1: float
    """Share of the places where both find the same id likeliest."""
    codes: int
    """Codes of pictures that both models drew without chance; 0 for a model of text alone."""
    greedy: float
    """Share of those codes that are equal, place by place."""


@dataclass(frozen=True)
class QuantizationSettings(Section):
    """How the matrices of a language model are stored; None where one is kept in full."""

    layers: StoredForm
    """Of every layer of the decoder."""
    head: StoredForm | None = None
    embedding: StoredForm | None = None
    """Of a tied model the head's own."""
    cost: QuantizationCost | None = None
    """None where it was not measured."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Self:
        """Raises ConfigError for an unknown key, a wrong value or a missing one."""
        if isinstance(values, dict):
            kinds: dict[str, type[Section]] = dict.fromkeys(
                ("layers", "head", "embedding"), StoredForm
            )
            kinds["cost"] = QuantizationCost
            read = {
                name: kinds[name].from_dict(value, f"{where}.{name}")
                for name, value in values.items()
                if name in kinds and isinstance(value, dict)
            }
            values = values | read
        return super().from_dict(values, where)

    @property
    def name(self) -> str:
        """As one says it: "int4, groups of 64"."""
        group = self.layers.group
        return self.layers.kind + (f", groups of {group}" if group else "")

    def plan(self, shape: Shape) -> dict[str, Form]:
        """Module of the language model -> form: what `nn.quantized.quantize` takes.

        Raises ConfigError where head and embedding are one matrix, but two forms are given.
        """
        return dict(self._plan(shape))

    def _plan(self, shape: Shape) -> Iterator[tuple[str, Form]]:
        if shape.tie_word_embeddings and self.head != self.embedding:
            raise ConfigError("quantization: head and embedding are one matrix, with two forms")
        for layer in range(shape.num_hidden_layers):
            for matrix in MATRICES:
                yield f"model.layers.{layer}.{matrix}", self.layers
        if self.embedding is not None:
            yield "model.embed_tokens", self.embedding
        if self.head is not None:
            yield "lm_head", self.head


def settings(mode: str, group: int | None = None) -> QuantizationSettings:
    """The settings of a mode; `group` None is the mode's own.

    Raises ValueError for a mode or group that does not exist.
    """
    if mode not in MODES:
        raise ValueError(f"weights must be one of {', '.join(MODES)}, got {mode!r}")
    layers = StoredForm(mode, DEFAULT_GROUP[mode] if group is None else group)
    return QuantizationSettings(layers, StoredForm("int8"), StoredForm("int8"))
