"""Batches of stored pictures, shown in random places on random backgrounds.

Legend: B batch, S side in pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dromaius.data.order import generator_for, shuffled
from dromaius.errors import ConfigError, InputError
from dromaius.models.emu3.config import Section


@dataclass(frozen=True)
class PictureSettings(Section):
    """Which pictures, and how they are shown."""

    folder: str
    """Holds pictures.npy (uint8 [N,S,S,4], straight alpha) and pictures.jsonl."""
    keep: dict[str, list[Any]] = field(default_factory=dict)
    """Field of pictures.jsonl -> the values that stay."""
    drop: dict[str, list[Any]] = field(default_factory=dict)
    """Field -> the values that go."""
    twice: dict[str, list[Any]] = field(default_factory=dict)
    """Field -> the values whose pictures come twice in every epoch."""
    backgrounds: tuple[tuple[int, int, int], ...] = ((255, 255, 255),)
    """RGB; the first is the usual one."""
    coloured: float = 0.0
    """Share of pictures on one of the other backgrounds."""
    shift: int = 0
    """Largest shift in pixels, either way."""
    shifted: float = 0.0
    """Share of pictures that are shifted."""
    mosaic: float = 0.0
    """Share of pictures made of four at half their size."""


class Pictures:
    """A folder of pictures; held in memory as uint8."""

    def __init__(self, settings: PictureSettings) -> None:
        """Raises InputError for a missing or damaged file, ConfigError if nothing is selected."""
        folder = Path(settings.folder)
        stored = _read_array(folder / "pictures.npy")
        records = _read_records(folder / "pictures.jsonl", len(stored))
        rows = [i for i, one in enumerate(records) if _selected(one, settings)]
        if not rows:
            raise ConfigError(f"no picture of {folder} matches the recipe's keep and drop")
        rows += [i for i in rows if settings.twice and _has(records[i], settings.twice)]
        self.settings = settings
        self.rgba = torch.from_numpy(np.ascontiguousarray(stored[rows]))  # [N,S,S,4]
        self.records = [records[row] for row in rows]

    def __len__(self) -> int:
        return len(self.records)

    def plain(self, rows: Tensor) -> Tensor:
        """Pixels on the usual background: int64 [B] -> float32 [B,3,S,S], -1..1."""
        background = torch.tensor(self.settings.backgrounds[0]).expand(len(rows), 3)
        return _composite(self.rgba[rows], background)

    def batch(self, index: int, size: int, seed: int) -> Tensor:
        """Batch number `index` of endless shuffled epochs: float32 [size,3,S,S], -1..1."""
        s = self.settings
        rows = torch.from_numpy(shuffled(len(self), index * size, size, seed))
        draw = generator_for(seed, index)
        palette = torch.tensor(s.backgrounds)
        background = palette[0].repeat(size, 1)
        coloured = torch.rand(size, generator=draw) < s.coloured
        if len(palette) > 1:
            other = torch.randint(1, len(palette), (size,), generator=draw)
            background[coloured] = palette[other[coloured]]
        rgba = self.rgba[rows]
        small = torch.rand(size, generator=draw) < s.mosaic
        shifted = (torch.rand(size, generator=draw) < s.shifted) & ~small
        moves = torch.randint(-s.shift, s.shift + 1, (size, 2), generator=draw)
        others = torch.randint(len(self), (size, 4), generator=draw)
        pixels = _composite(torch.stack([
            _move(one, *move) if moved else one
            for one, move, moved in zip(rgba, moves.tolist(), shifted.tolist(), strict=True)
        ]), background)  # fmt: skip
        for at in small.nonzero()[:, 0].tolist():
            four = _composite(self.rgba[others[at]], background[at].expand(4, 3))
            four = torch.nn.functional.avg_pool2d(four, 2)  # [4,3,S/2,S/2]
            pixels[at] = torch.cat([torch.cat(list(row), dim=-1) for row in four.chunk(2)], dim=-2)
        return pixels


def _read_array(path: Path) -> np.ndarray:
    """uint8 [N,S,S,4], mapped. Raises InputError naming the file."""
    try:
        stored = np.lib.format.open_memmap(path, mode="r")  # a plain array only, no pickle
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path} is no array that can be read: {error}") from error
    shape = stored.shape
    if stored.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 4:
        raise InputError(f"{path} must hold uint8 [N,S,S,4], not {stored.dtype} {list(shape)}")
    return stored


def _read_records(path: Path, number: int) -> list[dict[str, Any]]:
    """One object a line, `number` of them. Raises InputError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from None
    records = []
    for place, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}, line {place}: not valid JSON") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {place}: not a JSON object")
        records.append(record)
    if len(records) != number:
        raise InputError(f"{path} has {len(records)} lines for {number} pictures")
    return records


def _selected(record: Mapping[str, Any], settings: PictureSettings) -> bool:
    for key in (*settings.keep, *settings.drop, *settings.twice):
        if key not in record:
            raise ConfigError(f"pictures.jsonl has no field {key!r} to select by")
    dropped = any(record[key] in values for key, values in settings.drop.items())
    return _has(record, settings.keep) and not dropped


def _has(record: Mapping[str, Any], wanted: Mapping[str, list[Any]]) -> bool:
    return all(record[key] in values for key, values in wanted.items())


def _move(rgba: Tensor, dx: int, dy: int) -> Tensor:
    """[S,S,4] moved right and down; what leaves is lost, what is uncovered is transparent."""
    side = rgba.shape[0]
    moved = torch.zeros_like(rgba)
    to_y, to_x = (slice(max(d, 0), side + min(d, 0)) for d in (dy, dx))
    from_y, from_x = (slice(max(-d, 0), side + min(-d, 0)) for d in (dy, dx))
    moved[to_y, to_x] = rgba[from_y, from_x]
    return moved


def _composite(rgba: Tensor, background: Tensor) -> Tensor:
    """uint8 [B,S,S,4] over RGB [B,3] -> float32 [B,3,S,S], -1..1."""
    colour, alpha = rgba[..., :3].float(), rgba[..., 3:].float() / 255.0
    rgb = colour * alpha + background[:, None, None].float() * (1.0 - alpha)
    return rgb.permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0
