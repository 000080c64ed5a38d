"""Drawing the next id, with noise that is a function and not a state.

The noise of an id at a place is a hash of (seed, position, id). It does not depend on the batch,
the order of computation or the device, so a picture can be drawn alone, in a batch, in parts or
in parallel and come out the same. Legend: B rows, V ids.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dromaius.nn.kernels import library

FEW = 4
"""Where top-k leaves less than this part of the ids, only those get noise."""
_GOLDEN = 0x9E3779B97F4A7C15
_POSITION = 0xD1B54A32D192ED03
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer that torch stores it in."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of 64-bit patterns (torch's >> copies the sign)."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX_2)
    return x ^ _shift_right(x, 31)


def uniform(seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """Noise in (0, 1) for every id: seeds [B], positions [B], ids [V] -> float64 [B,V].

    With m the SplitMix64 finaliser and all sums modulo 2^64:
    h = m(m(m(seed + G) + position * P) + id * G); the result is (h >> 12, plus a half) / 2^52,
    where G = 0x9E3779B97F4A7C15 and P = 0xD1B54A32D192ED03. 53 significant bits: never rounded.
    """
    row = _mix(_mix(seeds + _signed(_GOLDEN)) + positions * _signed(_POSITION))  # [B]
    h = _mix(row[:, None] + ids * _signed(_GOLDEN))  # [B,V]
    return (_shift_right(h, 12).double() + 0.5) * 2.0**-52


def gumbel(seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """-log(-log u): adding it to log-probabilities and taking the argmax draws from them.

    Returns float32 [B,V].
    """
    return -(-uniform(seeds, positions, ids).log()).log().float()


@dataclass(frozen=True)
class Sampler:
    """How an id is drawn from scores; the same for all rows of a batch."""

    temperature: float = 1.0
    """0 takes the likeliest id."""
    top_k: int | None = None
    """Keep the k best ids, and all that tie with the k-th."""
    top_p: float | None = None
    """Keep the fewest ids whose probabilities reach p together."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def draw(self, scores: Tensor, seeds: Tensor, positions: Tensor, first_id: int) -> Tensor:
        """Index of the id drawn in each row.

        Args:
            scores: float32 [B,V], -inf where an id is not allowed.
            seeds: int64 [B].
            positions: int64 [B], place of the new id in its sequence of generated tokens.
            first_id: id of column 0 (columns are consecutive ids).

        Returns:
            int64 [B], column indices.
        """
        if self.greedy:
            return scores.argmax(-1)
        if self._few_stay(scores):
            return _draw_few(self._tempered(scores), self.top_k or 0, seeds, positions, first_id)
        ids = torch.arange(first_id, first_id + scores.shape[-1], device=scores.device)
        return (self.keep(scores) + gumbel(seeds, positions, ids)).argmax(-1)

    def keep(self, scores: Tensor) -> Tensor:
        """Scores after temperature, top-k and top-p, in that order; dropped ids are -inf."""
        scores = self._tempered(scores)
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scores.sort(descending=False)
            below = ordered.softmax(-1).cumsum(-1)
            drop = below <= 1 - self.top_p
            drop[..., -1] = False  # the likeliest always stays
            drop = torch.zeros_like(drop).scatter(-1, order, drop)
            scores = scores.masked_fill(drop, -torch.inf)
        return scores

    def _tempered(self, scores: Tensor) -> Tensor:
        return scores if self.temperature in (0, 1) else scores / self.temperature

    def _few_stay(self, scores: Tensor) -> bool:
        """Whether a kernel draws faster: noise is made only for the ids that top-k leaves."""
        return (
            self.top_k is not None
            and self.top_k <= scores.shape[-1] // FEW
            and self.top_p in (None, 1)
            and scores.device.type == "cpu"
            and scores.dtype == torch.float32
            and _kernel() is not None
        )


def _draw_few(
    scores: Tensor, top_k: int, seeds: Tensor, positions: Tensor, first_id: int
) -> Tensor:
    """`Sampler.draw` by `nn/kernels/draw.cpp`: the same ids, with the same noise."""
    scores, seeds, positions = scores.contiguous(), seeds.contiguous(), positions.contiguous()
    rows, ids = scores.shape
    drawn = torch.empty(rows, dtype=torch.long)
    given = seeds.data_ptr(), positions.data_ptr(), first_id
    threads = torch.get_num_threads()
    _kernel()(scores.data_ptr(), rows, ids, top_k, *given, drawn.data_ptr(), threads)
    return drawn


@cache
def _kernel() -> Any:
    """The C function, None where there is none."""
    found = library("draw")
    if found is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.draw_ids.argtypes = [
        pointer,
        *[number] * 3,
        *[pointer] * 2,
        number,
        pointer,
        ctypes.c_int,
    ]
    found.draw_ids.restype = None
    return found.draw_ids
