"""The only file that knows id numbers.

A visual id is `visual_start` plus the code, so grids of codes become ids by integer arithmetic on
tensors; no string form of a visual token exists here.
Legend: h/w grid of codes (rows, columns).
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from dromaius.models.emu3.config import VocabularyConfig


@dataclass(frozen=True)
class Vocabulary:
    """The ids with a role, and the arithmetic between codes and ids (spec section 3.2)."""

    pad: int
    bos: int
    eos: int
    image_token: int
    image_start: int
    image_end: int
    end_of_line: int
    end_of_frame: int
    visual_start: int
    codebook_size: int

    @classmethod
    def from_config(cls, config: VocabularyConfig) -> "Vocabulary":
        return cls(**asdict(config))

    @property
    def visual_stop(self) -> int:
        """One past the last visual id."""
        return self.visual_start + self.codebook_size

    def codes_to_ids(self, codes: Tensor) -> Tensor:
        """Codes int64 [...,h,w] -> ids [...,h*(w+1)]: row by row, each closed by end-of-line.

        Raises ValueError if a code is outside the codebook.
        """
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes must lie in 0..{self.codebook_size - 1}, "
                f"got {int(codes.min())}..{int(codes.max())}"
            )
        rows = codes.long() + self.visual_start
        line_ends = rows.new_full((*rows.shape[:-1], 1), self.end_of_line)
        return torch.cat((rows, line_ends), dim=-1).flatten(-2)  # [...,h,w+1] -> [...,h*(w+1)]

    def ids_to_codes(self, ids: Tensor, height: int, width: int) -> Tensor:
        """Ids [...,h*(w+1)] as `codes_to_ids` writes them -> codes [...,h,w].

        Raises ValueError if the number of ids, a line end or a visual id is not where it must be.
        """
        if ids.shape[-1] != height * (width + 1):
            raise ValueError(
                f"a {height}x{width} grid takes {height * (width + 1)} ids, got {ids.shape[-1]}"
            )
        rows = ids.unflatten(-1, (height, width + 1))
        if (rows[..., -1] != self.end_of_line).any():
            raise ValueError(f"a row of the {height}x{width} grid does not close with end-of-line")
        codes = rows[..., :-1] - self.visual_start
        if ((codes < 0) | (codes >= self.codebook_size)).any():
            raise ValueError(f"the {height}x{width} grid holds an id that is not visual")
        return codes
