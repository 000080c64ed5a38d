"""Pictures in the making: what is asked for, the rows that draw it, and how logits become scores.

Legend: B pictures, R rows (2B where guidance is on), T tokens, V visual ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dromaius.engine.guidance import guide, plausible
from dromaius.engine.rows import NextToken, Rows
from dromaius.engine.token_grid import TokenGrid


@dataclass(frozen=True)
class GridRequest:
    """One picture to draw."""

    prompt: Sequence[int]
    """Ids up to and including the image header."""
    grid: TokenGrid
    seed: int
    negative: Sequence[int] = ()
    """The unwanted prompt, header included; used where guidance is not 1."""
    guidance: float = 1.0
    min_p: float | None = None
    guided: tuple[float, float] = (0.0, 1.0)
    """The part of the picture that is drawn with guidance, as shares of its codes."""
    begun: Sequence[int] = ()
    """Codes that are drawn already, row by row."""

    def guided_codes(self) -> tuple[int, int]:
        """The first code with guidance, and the first one behind it without."""
        if self.guidance == 1:
            return 0, 0
        first, last = (round(share * self.grid.drawn) for share in self.guided)
        return first, last


class Canvas:
    """Codes [B, most codes] of all pictures, -1 where nothing is drawn, and the rows behind them.

    Guidance runs in the same forward: row B + b holds the unwanted prompt of picture b.
    """

    def __init__(self, model: NextToken, requests: Sequence[GridRequest]) -> None:
        self.requests, self.grids = requests, [request.grid for request in requests]
        first = self.grids[0]
        self.start, self.end_of_line = first.visual_start, first.end_of_line
        self.guided = any(request.guidance != 1 for request in requests)
        prompts = [[*request.prompt, *_ids(request)] for request in requests]
        if self.guided:
            prompts += [[*(r.negative or r.prompt), *_ids(r)] for r in requests]
        room = [request.grid.length - len(_ids(request)) for request in requests]
        span = (first.visual_start, first.visual_stop)
        self.rows = Rows(model, prompts, room * self.copies, span)
        device = self.rows.device
        self.codes = torch.full((len(requests), max(g.drawn for g in self.grids)), -1)
        for row, request in zip(self.codes, requests, strict=True):
            row[: len(request.begun)] = torch.tensor(list(request.begun), dtype=torch.long)
        self.codes = self.codes.to(device)
        self.begun = torch.tensor([len(request.begun) for request in requests])
        self.drawn = torch.tensor([grid.drawn for grid in self.grids])
        self.width = torch.tensor([grid.width for grid in self.grids])
        self.seeds = torch.tensor([request.seed for request in requests], device=device)
        self._min_p = torch.tensor([request.min_p or 0.0 for request in requests], device=device)
        self._scale = torch.tensor([float(r.guidance) for r in requests], device=device)
        self._masked = any(request.min_p for request in requests)
        guided = [request.guided_codes() for request in requests]
        self._interval = torch.tensor(guided, device=device)  # [B,2]
        self._throughout = all(
            r.guidance == 1 or r.guided_codes() == (0, r.grid.drawn) for r in requests
        )
        self.last_guided = max(stop for _, stop in guided)
        """The code from which on no picture has guidance; the host's, it is asked at each pass."""

    @property
    def copies(self) -> int:
        """Rows per picture."""
        return 2 if self.guided else 1

    def scores(self, logits: Tensor, index: Tensor) -> Tensor:
        """Logits [R,V] for code number index [B] of each picture -> scores [B,V], -inf forbidden.

        Guidance and the plausibility mask are applied, each with its picture's own settings.
        Several codes at once: [R,K,V] and [B,K] -> [B,K,V].
        """

        def each(setting: Tensor) -> Tensor:
            return setting.view(-1, *[1] * (index.ndim - 1)).expand_as(index)

        count = len(self.requests)
        scores = logits[:count].float()
        allowed = plausible(scores, each(self._min_p)) if self._masked else None
        if self.guided:
            scale = each(self._scale)
            if not self._throughout:
                first, stop = self._interval.unbind(1)
                inside = (each(first) <= index) & (index < each(stop))
                scale = torch.where(inside, scale, 1.0)
            scores = guide(scores, logits[count:], scale)
        return scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)

    def stop_guidance(self) -> None:
        """Go on without the unwanted rows."""
        self.rows.keep(len(self.requests))
        self.guided = False


def _ids(request: GridRequest) -> list[int]:
    """The begun codes as tokens: every full row is closed."""
    ids: list[int] = []
    for index, code in enumerate(request.begun):
        ids.append(request.grid.visual_start + code)
        if request.grid.closes_row(index):
            ids.append(request.grid.end_of_line)
    return ids
