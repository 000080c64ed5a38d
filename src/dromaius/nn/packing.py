"""Matrices in few bits: how they are rounded, laid out in bytes, and read back.

A form is chosen per matrix. Columns of a row share a scale group by group, w = scale * number, or
in int4 w = low + scale * number: sixteen levels are too few to waste those beyond the group's own
extremes. Scales and lows are bfloat16, and numbers are chosen for the scale as it is stored.

| kind | a number            | bytes of a row of I columns, scales aside                          |
|------|---------------------|--------------------------------------------------------------------|
| int8 | -127..127           | I                                                                  |
| int4 | 0..15               | 16 per 32 columns: byte b holds column b (low half) and 16+b (high) |
| fp8  | float8_e4m3fn       | I                                                                  |

Legend: O outputs (rows), I inputs (columns), G groups of a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("int8", "int4", "fp8")
GROUPS = (0, 32, 64, 128)
"""Columns that share a scale; 0 is a whole row."""
BLOCK = 32
"""Columns that int4 packs together; a row is filled up to a multiple."""
AT_ONCE = 2**21
"""Numbers that are rounded at a time: bounds what rounding holds beside its result."""
_LARGEST = {"int8": 127.0, "fp8": 448.0}
_STORED = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn}
_FITS = 3
"""Least-squares fits of scale and low to the numbers chosen, each followed by a new choice."""


@dataclass(frozen=True)
class Form:
    """How one matrix is stored."""

    kind: str
    group: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if isinstance(self.group, bool) or self.group not in GROUPS:
            raise ValueError(f"group must be one of {GROUPS} (0: a whole row), got {self.group!r}")

    def tensors(self, outputs: int, inputs: int) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
        """Name -> shape and dtype of what is stored of a matrix [O,I]."""
        columns = -(-inputs // BLOCK) * BLOCK // 2 if self.kind == "int4" else inputs
        groups = -(-inputs // self.group) if self.group else 1
        found = {
            "packed": ((outputs, columns), _STORED[self.kind]),
            "scales": ((outputs, groups), torch.bfloat16),
        }
        if self.kind == "int4":
            found["lows"] = ((outputs, groups), torch.bfloat16)
        return found


def pack(weight: Tensor, form: Form) -> dict[str, Tensor]:
    """weight [O,I] of any float dtype -> the tensors of `Form.tensors`, on its device.

    Raises ValueError for numbers that are not finite.
    """
    outputs, inputs = weight.shape
    found = {
        name: torch.empty(shape, dtype=dtype, device=weight.device)
        for name, (shape, dtype) in form.tensors(outputs, inputs).items()
    }
    if weight.is_meta:
        return found
    rows = max(1, AT_ONCE // inputs)
    for start in range(0, outputs, rows):
        part = slice(start, start + rows)
        wide = weight[part].detach().float()
        if not wide.isfinite().all():
            raise ValueError("numbers that are not finite cannot be quantized")
        for name, tensor in _ROUND[form.kind](_grouped(wide, form.group), form, inputs).items():
            found[name][part] = tensor
    return found


def unpack(stored: Mapping[str, Tensor], form: Form, inputs: int, dtype: torch.dtype) -> Tensor:
    """The matrix [O,I] that `pack`'s tensors (or the same rows of each) stand for."""
    packed, scales = stored["packed"], stored["scales"].float()[..., None]
    if form.kind == "int4":
        blocks = packed.unflatten(1, (-1, BLOCK // 2))  # [O,blocks,16]
        packed = torch.cat((blocks & 15, blocks >> 4), dim=-1).flatten(1)[:, :inputs]
    wide = _grouped(packed.float(), form.group) * scales  # [O,G,group]
    if form.kind == "int4":
        wide = wide + stored["lows"].float()[..., None]
    return wide.flatten(1)[:, :inputs].to(dtype)


def _grouped(rows: Tensor, group: int) -> Tensor:
    """[O,I] -> [O,G,group]; the last group is filled up with the row's last number."""
    if not group:
        return rows[:, None]
    missing = -rows.shape[1] % group
    if missing:
        rows = torch.cat((rows, rows[:, -1:].expand(-1, missing)), dim=1)
    return rows.unflatten(1, (-1, group))


def _stored_scale(scale: Tensor) -> Tensor:
    """As bfloat16 holds it; 1 where all numbers are equal, so that nothing is divided by 0."""
    scale = scale.bfloat16().float()
    return torch.where(scale == 0, 1.0, scale)


def _round_symmetric(x: Tensor, form: Form, inputs: int) -> dict[str, Tensor]:
    """x [O,G,group] -> numbers whose largest is that of the kind."""
    largest = _LARGEST[form.kind]
    scale = _stored_scale(x.abs().amax(-1, keepdim=True) / largest)
    numbers = (x / scale).clamp(-largest, largest)  # the scale may have been rounded down
    if form.kind == "int8":
        numbers = numbers.round()
    packed = numbers.flatten(1)[:, :inputs].to(_STORED[form.kind])
    return {"packed": packed, "scales": scale[..., 0].bfloat16()}


def _round_affine(x: Tensor, form: Form, inputs: int) -> dict[str, Tensor]:
    """x [O,G,group] -> sixteen levels from the least number to the largest, then fitted.

    Fitting line and numbers in turn lessens the squared error; the best of all rounds is kept.
    """
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale, low = _stored_scale((high - low) / 15), low.bfloat16().float()
    best = _numbers(x, scale, low)
    chosen, least = (best, scale, low), _error(x, best, scale, low)
    numbers, middle = best, x.mean(-1, keepdim=True)
    for _ in range(_FITS):
        away = numbers - numbers.mean(-1, keepdim=True)
        slope = (away * (x - middle)).sum(-1, keepdim=True) / (away**2).sum(-1, keepdim=True)
        scale = _stored_scale(torch.where(slope.isfinite(), slope, scale))
        low = (middle - scale * numbers.mean(-1, keepdim=True)).bfloat16().float()
        numbers = _numbers(x, scale, low)
        error = _error(x, numbers, scale, low)
        better, least = error < least, torch.minimum(error, least)
        pairs = zip((numbers, scale, low), chosen, strict=True)
        chosen = tuple(torch.where(better, new, old) for new, old in pairs)  # type: ignore[assignment]  # three of them
    numbers, scale, low = chosen
    flat = numbers.flatten(1)[:, :inputs].to(torch.uint8)
    blocks = F.pad(flat, (0, -inputs % BLOCK)).unflatten(1, (-1, BLOCK))  # [O,blocks,32]
    half = BLOCK // 2
    packed = (blocks[..., :half] | blocks[..., half:] << 4).flatten(1)
    return {"packed": packed, "scales": scale[..., 0].bfloat16(), "lows": low[..., 0].bfloat16()}


def _numbers(x: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    return ((x - low) / scale).round().clamp(0, 15)


def _error(x: Tensor, numbers: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    return ((low + scale * numbers - x) ** 2).sum(-1, keepdim=True)


_ROUND: dict[str, Callable[[Tensor, Form, int], dict[str, Tensor]]] = {
    "int8": _round_symmetric,
    "int4": _round_affine,
    "fp8": _round_symmetric,
}
