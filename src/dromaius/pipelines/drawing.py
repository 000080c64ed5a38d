"""Pictures on their way: their records, their codes so far, and pixels of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dromaius.engine.token_grid import TokenGrid
from dromaius.pipelines.state import State, StateFile

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

UNDRAWN_GREY = (127, 127, 127)


@dataclass(frozen=True)
class Record:
    """One picture as it will be drawn: every default filled in."""

    prompt: str
    negative_prompt: str
    height: int
    width: int
    guidance: float
    seed: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    guided: tuple[float, float] = (0.0, 1.0)


class Drawing:
    """Pictures on their way: codes so far, and the record of each picture."""

    def __init__(self, model: Emu3, records: Sequence[Record], grids: Sequence[TokenGrid]) -> None:
        self._model, self._grids = model, grids
        self.records = [asdict(record) for record in records]
        self.step = 0
        """Codes that are drawn of the picture that has most."""
        self.steps = max(grid.drawn for grid in grids)
        self.closes_row = False
        """Whether the last step closed a row of the widest picture."""
        self._width = max(grid.width for grid in grids)
        self._flat = torch.full((len(grids), self.steps), -1)

    @property
    def codes(self) -> list[Tensor]:
        """One int64 grid [h,w] a picture, -1 where nothing is drawn yet."""
        pairs = zip(self._flat.cpu(), self._grids, strict=True)
        return [row[: grid.drawn].view(grid.height, grid.width) for row, grid in pairs]

    def pictures(self) -> list[Image.Image]:
        """Decode what is there; the part that is not drawn yet is grey."""
        return [self._picture(codes) for codes in self.codes]

    def save(self, path: str | Path | StateFile) -> None:
        """Writes what is drawn to a file from which `generate_image(..., state=path)` goes on."""
        StateFile.at(path).write(self.state())

    def state(self) -> State:
        """What a state file holds of these pictures."""
        return State(
            self._model.hash,
            str(self._model.dtype).removeprefix("torch."),
            self.records,
            self._flat.cpu().numpy().astype(np.int32),
            self.step == self.steps,
        )

    def begin(self, file: StateFile) -> list[list[int]]:
        """Takes over what a state file holds, if there is one: the codes of each picture."""
        drawn, found = [grid.drawn for grid in self._grids], file.read()
        if found is None:
            return [[] for _ in drawn]
        codebook = self._model.vocabulary.codebook_size
        begun = file.begun(found, self.state(), drawn, codebook)
        for row, codes in zip(self._flat, begun, strict=True):
            row[: len(codes)] = torch.tensor(codes, dtype=torch.long)
        missing = max(most - len(codes) for most, codes in zip(drawn, begun, strict=True))
        self.step = self.steps - missing
        return begun

    def advance(self, codes: Tensor, step: int) -> None:
        """Shows `codes` [B, most] of which `step` are drawn of the picture that has most."""
        rows = self.step // self._width
        self._flat, self.step = codes, step
        self.closes_row = step // self._width > rows or step == self.steps

    def _picture(self, codes: Tensor) -> Image.Image:
        picture = self._model.decode_image(codes.clamp(min=0))
        if (undrawn := codes < 0).any():
            factor = self._model.spatial_factor
            mask = undrawn.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
            picture.paste(UNDRAWN_GREY, mask=Image.fromarray(mask.numpy().astype("uint8") * 255))
        return picture
