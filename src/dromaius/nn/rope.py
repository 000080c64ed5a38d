"""Rotary position embedding in the six variants that published configurations use.

Rotate-half layout: the first and the second half of a head form the pairs that are rotated.
Legend: B batch, T tokens, H heads, D head dim.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dromaius.nn import few_tokens

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_NEEDS_FACTOR = ("linear", "dynamic", "llama3")


@dataclass(frozen=True)
class RopeParameters:
    """How positions turn into angles.

    Field names are those of the `rope_scaling` / `rope_parameters` entry of a configuration
    (transformers documentation of Emu3TextConfig, seed 000).
    """

    dim: int
    """Size of one head; angles exist for dim / 2 pairs."""
    max_position_embeddings: int
    """Context the model was configured for; `dynamic` stretches beyond it."""
    rope_theta: float = 1_000_000.0
    """Base of the geometric series of wavelengths."""
    rope_type: str = "default"
    factor: float | None = None
    """How many times longer than the original context the model should reach."""
    original_max_position_embeddings: int | None = None
    """Context of the original training (yarn, longrope, llama3); default: the configured one."""
    attention_factor: float | None = None
    """Multiplies cos and sin (yarn, longrope); None: the value that the method's paper gives."""
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise ValueError(
                f"unknown rope_type {self.rope_type!r}; known: {', '.join(ROPE_TYPES)}"
            )
        if self.rope_type in _NEEDS_FACTOR and self.factor is None:
            raise ValueError(f"rope_type {self.rope_type!r} needs a factor")
        if self.factor is not None and not self.factor > 0:
            raise ValueError(f"rope scaling: factor must be positive, got {self.factor!r}")
        if self.rope_type == "llama3" and None in (self.low_freq_factor, self.high_freq_factor):
            raise ValueError("rope_type 'llama3' needs low_freq_factor and high_freq_factor")
        if self.rope_type == "longrope":
            for name in ("short_factor", "long_factor"):
                values = getattr(self, name)
                if values is None or len(values) != self.dim // 2:
                    raise ValueError(f"rope_type 'longrope' needs {self.dim // 2} values in {name}")

    @property
    def original_context(self) -> int:
        return self.original_max_position_embeddings or self.max_position_embeddings

    @property
    def stretch(self) -> float:
        """The scaling factor; where absent, configured over original context."""
        if self.factor is not None:
            return self.factor
        return self.max_position_embeddings / self.original_context

    @classmethod
    def from_config(
        cls, scaling: dict[str, Any] | None, *, dim: int, max_positions: int, theta: float
    ) -> "RopeParameters":
        """Read a `rope_scaling` dictionary (None is the plain method).

        Raises ValueError for an unknown type or key.
        """
        values = dict(scaling or {})
        values.setdefault("rope_type", values.pop("type", None) or "default")
        values.pop("type", None)
        values.setdefault("rope_theta", theta)
        if values.pop("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError("partial_rotary_factor other than 1 is not supported")
        known = set(cls.__dataclass_fields__) - {"dim", "max_position_embeddings"}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown key in rope scaling: {', '.join(unknown)}")
        for name in ("short_factor", "long_factor"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(dim=dim, max_position_embeddings=max_positions, **values)


class RotaryEmbedding(nn.Module):
    """Positions [B,T] -> (cos, sin), each [B,T,D] in the dtype asked for.

    Frequencies are a function of the positions alone (no state grows with use), so the same
    call gives the same numbers whatever came before.
    """

    def __init__(self, rope: RopeParameters) -> None:
        super().__init__()
        self.rope = rope
        self._frequencies: dict[torch.device, Tensor] = {}

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        frequencies = self._inverse_frequencies(positions)
        angles = positions[..., None].float() * frequencies  # [B,T,D/2]
        angles = torch.cat((angles, angles), dim=-1)  # [B,T,D]
        scale = attention_scale(self.rope)
        cos, sin = angles.cos(), angles.sin()
        if scale != 1:
            cos, sin = cos * scale, sin * scale
        return cos.to(dtype), sin.to(dtype)

    def _inverse_frequencies(self, positions: Tensor) -> Tensor:
        if self.rope.rope_type in ("dynamic", "longrope"):
            return inverse_frequencies(self.rope, positions.device, positions.max() + 1)
        if positions.device not in self._frequencies:
            self._frequencies[positions.device] = inverse_frequencies(self.rope, positions.device)
        return self._frequencies[positions.device]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the heads of x [B,H,T,D] by the angles in cos and sin [B,T,D]."""
    if few_tokens.applies(x, cos, sin):
        return few_tokens.rotate(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return x * cos[:, None] + rotated * sin[:, None]


def attention_scale(rope: RopeParameters) -> float:
    """The factor on cos and sin: 1, but for yarn (arXiv 2309.00071) and longrope (2402.13753)."""
    if rope.rope_type not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.rope_type == "longrope":
        if rope.stretch <= 1.0:
            return 1.0
        return math.sqrt(1 + math.log(rope.stretch) / math.log(rope.original_context))
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_scale(rope.stretch, rope.mscale) / _yarn_scale(
            rope.stretch, rope.mscale_all_dim
        )
    return _yarn_scale(rope.stretch, 1.0)


def inverse_frequencies(
    rope: RopeParameters, device: torch.device, length: Tensor | None = None
) -> Tensor:
    """Angle per position for each pair, float32 [D/2].

    Args:
        rope: the method and its numbers.
        device: where the result lives.
        length: tokens in the sequence as a 0-d tensor; `dynamic` and `longrope` depend on it.
    """
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.float32, device=device) / rope.dim
    plain = 1.0 / rope.rope_theta**exponents
    match rope.rope_type:
        case "linear":
            return plain / rope.stretch
        case "dynamic":
            return _dynamic(rope, exponents, length)
        case "yarn":
            return _yarn(rope, rope.rope_theta**exponents)
        case "longrope":
            return _longrope(rope, exponents, length)
        case "llama3":
            return _llama3(rope, plain)
    return plain


def _dynamic(rope: RopeParameters, exponents: Tensor, length: Tensor | None) -> Tensor:
    """NTK-aware base change that starts beyond the configured context."""
    context = float(rope.max_position_embeddings)
    reach = torch.full((), context, device=exponents.device)
    if length is not None:
        reach = torch.maximum(length.float(), reach)
    growth = rope.stretch * reach / context - (rope.stretch - 1)
    base = rope.rope_theta * growth ** (rope.dim / (rope.dim - 2))
    return 1.0 / base**exponents


def _longrope(rope: RopeParameters, exponents: Tensor, length: Tensor | None) -> Tensor:
    """One table of divisors within the original context, another beyond it."""
    short = _constants(tuple(rope.short_factor or ()), exponents.device)
    long = _constants(tuple(rope.long_factor or ()), exponents.device)
    divisors = short
    if length is not None:
        divisors = torch.where(length > rope.original_context, long, short)
    return 1.0 / (divisors * rope.rope_theta**exponents)


@cache
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers of a configuration on a device; copied there once, since a copy waits for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _yarn_scale(stretch: float, mscale: float) -> float:
    return 1.0 if stretch <= 1 else 0.1 * mscale * math.log(stretch) + 1.0


def _yarn(rope: RopeParameters, wavelengths: Tensor) -> Tensor:
    """Fast pairs keep their frequency, slow pairs are stretched, a linear ramp lies between."""

    def pair_at(rotations: float) -> float:
        """Index of the pair that turns so many times within the original context."""
        turns = rope.original_context / (rotations * 2 * math.pi)
        return rope.dim * math.log(turns) / (2 * math.log(rope.rope_theta))

    low, high = pair_at(rope.beta_fast or 32), pair_at(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001  # the ramp below divides by the difference
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32, device=wavelengths.device)
    keep = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    return (1 - keep) / (rope.stretch * wavelengths) + keep / wavelengths


def _llama3(rope: RopeParameters, plain: Tensor) -> Tensor:
    """Llama 3.1: long wavelengths are divided by the factor, medium ones blended."""
    assert rope.low_freq_factor is not None and rope.high_freq_factor is not None
    context, low, high = rope.original_context, rope.low_freq_factor, rope.high_freq_factor
    wavelength = 2 * math.pi / plain
    blend = ((context / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * plain / rope.stretch + blend * plain
