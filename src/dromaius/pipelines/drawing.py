"""Pictures on their way: their records, their codes so far, and pixels of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dromaius.engine.jacobi import LastPass
from dromaius.engine.passes import Passes
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
    accelerate: str | None = None
    """The form of decoding if the picture depends on it, and with it on the window: "coupled"."""
    window: int | None = None


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
        self.passes = 0
        """Forward passes so far."""
        self.accelerate, self.reason = "", ""
        """The mode in which codes are drawn, and why if "auto" chose it; empty until known."""
        self._width = max(grid.width for grid in grids)
        self._flat = torch.full((len(grids), self.steps), -1)
        self._last: LastPass | None = None
        self._begun = [0] * len(grids)

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
            None if self._last is None else _numbers(self._last),
        )

    def begin(self, file: StateFile) -> tuple[list[list[int]], LastPass | None]:
        """Takes over what a state file holds, if there is one: the codes of each picture.

        A coupled drawing also needs its last pass; without one, it begins anew.
        """
        drawn, found = [grid.drawn for grid in self._grids], file.read()
        if found is None:
            return [[] for _ in drawn], None
        codebook = self._model.vocabulary.codebook_size
        begun, last = file.begun(found, self.state(), drawn, codebook), None
        window = self.records[0]["window"]
        if window and any(begun) and list(map(len, begun)) != drawn:
            numbers = file.last_pass(found, begun, drawn, codebook, window)
            last = None if numbers is None else _last_pass(numbers)
            begun = [[] for _ in drawn] if last is None else begun
        for row, codes in zip(self._flat, begun, strict=True):
            row[: len(codes)] = torch.tensor(codes, dtype=torch.long)
        missing = max(most - len(codes) for most, codes in zip(drawn, begun, strict=True))
        self.step = self.steps - missing
        self._begun = [len(codes) for codes in begun]
        self._last = last
        return begun, last

    def advance(self, codes: Tensor, passes: Passes) -> None:
        """Shows `codes` [B, most] behind a pass."""
        rows, self.step = self.step // self._width, self.steps - passes.missing
        self._flat, self._last = codes, passes.last
        self.passes, self.accelerate, self.reason = passes.count, passes.chosen, passes.reason
        self.closes_row = self.step // self._width > rows or self.step == self.steps

    @property
    def tokens(self) -> list[int]:
        """Codes that were drawn of each picture, without those that a state file held."""
        counts = (self._flat >= 0).sum(1).tolist()
        return [count - begun for count, begun in zip(counts, self._begun, strict=True)]

    def _picture(self, codes: Tensor) -> Image.Image:
        picture = self._model.decode_image(codes.clamp(min=0))
        if (undrawn := codes < 0).any():
            factor = self._model.spatial_factor
            mask = undrawn.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
            picture.paste(UNDRAWN_GREY, mask=Image.fromarray(mask.numpy().astype("uint8") * 255))
        return picture


def _numbers(last: LastPass) -> NDArray[np.int32]:
    """[B, 3+2K]: how many codes were certain before and behind, what was fed, what was drawn."""
    certain = torch.stack((last.before, last.after), 1)
    numbers = torch.cat((certain, last.drafts.cpu(), last.drawn.cpu()), 1)
    return numbers.numpy().astype(np.int32)


def _last_pass(numbers: NDArray[np.int32]) -> LastPass:
    certain, codes = torch.from_numpy(numbers.astype(np.int64)).split((2, numbers.shape[1] - 2), 1)
    window = codes.shape[1] // 2
    return LastPass(certain[:, 0], certain[:, 1], codes[:, :window], codes[:, window:])
