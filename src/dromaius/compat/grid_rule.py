"""Which ids may follow while a picture is generated, for transformers' prefix constraint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dromaius.engine.token_grid import TokenGrid
from dromaius.errors import warn_once
from dromaius.models.emu3.vocabulary import Vocabulary

UPSTREAM_MIN_SIDE = 3


@dataclass(frozen=True)
class GridRule:
    """(row of the batch, ids so far [T]) -> allowed ids.

    For transformers' PrefixConstrainedLogitsProcessor. A pure function of the ids: it can
    be used for any number of prompts and batches. Upstream's keeps the position of the first
    prompt it saw for each row, and is wrong for the next prompt.
    """

    heights: tuple[int, ...]
    widths: tuple[int, ...]
    vocabulary: Vocabulary

    @classmethod
    def from_sizes(cls, height: Any, width: Any, vocabulary: Vocabulary) -> "GridRule":
        """Sizes in codes: one for all rows or one each, as int, sequence, array or tensor.

        Raises ValueError for sizes that do not pair up or are not positive.
        """
        heights, widths = _whole_numbers(height), _whole_numbers(width)
        if len(heights) != len(widths) or not heights:
            raise ValueError(f"{len(heights)} heights and {len(widths)} widths do not pair up")
        if min(heights + widths) < 1:
            raise ValueError(f"grid sides must be positive, got {heights} x {widths}")
        if min(widths) < UPSTREAM_MIN_SIDE:
            warn_once(
                f"grids under {UPSTREAM_MIN_SIDE} codes wide end properly here; upstream replaces "
                "their end of image or end of sequence by a line end"
            )
        return cls(heights, widths, vocabulary)

    def __call__(self, batch_id: int, input_ids: Tensor) -> Tensor:
        """Raises ValueError if the row has no picture header or no size was given for it."""
        ids = self.vocabulary
        height, width = self._size(batch_id)
        starts = (input_ids == ids.image_token).nonzero()
        if not len(starts):
            raise ValueError(f"row {batch_id} holds no image token (id {ids.image_token})")
        offset = len(input_ids) - int(starts[-1])  # the first generated id has offset 1
        last = height * (width + 1)
        if offset <= last:
            if offset % (width + 1):
                return torch.arange(ids.visual_start, ids.visual_stop, device=input_ids.device)
            forced = ids.end_of_line
        else:
            closing = (ids.end_of_frame, ids.image_end, ids.eos)
            forced = closing[offset - last - 1] if offset - last <= len(closing) else ids.pad
        return torch.tensor([forced], device=input_ids.device)

    def grid(self, batch_id: int) -> TokenGrid:
        """The same rule for one row of the batch, as the engine takes it.

        Raises ValueError if no size was given for the row.
        """
        ids = self.vocabulary
        return TokenGrid(
            *self._size(batch_id),
            visual_start=ids.visual_start,
            visual_stop=ids.visual_stop,
            end_of_line=ids.end_of_line,
            end_of_frame=ids.end_of_frame,
            image_end=ids.image_end,
            eos=ids.eos,
        )

    def _size(self, batch_id: int) -> tuple[int, int]:
        if len(self.heights) > 1 and batch_id >= len(self.heights):
            raise ValueError(f"row {batch_id} has no size: {len(self.heights)} were given")
        row = batch_id if len(self.heights) > 1 else 0
        return self.heights[row], self.widths[row]


def _whole_numbers(value: Any) -> tuple[int, ...]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    elif hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    if isinstance(value, Sequence):
        return tuple(int(v) for v in value)
    return (int(value),)
