"""Decoding loops over ids: pictures on a grid, and text.

Legend: B pictures or prompts, R rows of the batch (2B with guidance), T tokens, V ids, N passes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dromaius.engine.canvas import Canvas, GridRequest
from dromaius.engine.rows import NextToken, Rows
from dromaius.engine.sampling import Sampler


@torch.no_grad()
def draw_grids(
    model: NextToken, requests: Sequence[GridRequest], sampler: Sampler
) -> Iterator[Tensor]:
    """Draw pictures of any sizes together, one visual id of each per forward pass.

    Guidance runs in the same forward as further rows. Line ends are never predicted: they are
    fed together with the id before them. Noise depends on (seed, offset in the picture, id) alone.
    What each pass feeds and draws is known beforehand, because the sizes are.

    Yields:
        After each pass the codes so far, int64 [B, most codes], row-major per picture, -1 where
        nothing is drawn yet; always the same tensor, filled further. The number of items is the
        number of forward passes: the codes still missing of the picture that misses most.
    """
    canvas = Canvas(model, requests)
    plan = Schedule(canvas)
    if not plan.passes:
        yield canvas.codes
        return
    logits = canvas.rows.prefill()  # [R,V]
    pictures = torch.arange(len(requests), device=canvas.codes.device)
    for step in range(plan.passes):
        index, active = plan.index[step], plan.active[step]
        scores = canvas.scores(logits, index)
        drawn = sampler.draw(scores, canvas.seeds, plan.offset[step], canvas.start)  # [B]
        place = index.clamp(max=canvas.codes.shape[1] - 1)
        canvas.codes[pictures, place] = torch.where(active, drawn, canvas.codes[pictures, place])
        if step + 1 < plan.passes:
            if canvas.guided and plan.lowest[step + 1] >= canvas.last_guided:
                canvas.stop_guidance()
            ids = (drawn + canvas.start)[:, None]  # [B,1]
            if plan.line_ends[step]:
                ids = torch.cat((ids, torch.full_like(ids, canvas.end_of_line)), dim=1)
            rows = slice(len(requests) * canvas.copies)
            start, last = plan.start[step, rows], plan.last[step, rows]
            ids = ids.repeat(canvas.copies, 1)
            logits = canvas.rows.step(ids, start, last, plan.visible[step])
        yield canvas.codes


class Schedule:
    """What every pass draws and what is fed behind it, for all passes at once.

    Tensors [N,B] (rows: [N,R]) on the canvas's device; lists where the host decides.
    """

    def __init__(self, canvas: Canvas) -> None:
        device, copies = canvas.codes.device, canvas.copies
        self.passes = int((canvas.drawn - canvas.begun).max())
        index = canvas.begun + torch.arange(self.passes)[:, None]
        active = index < canvas.drawn
        closes = index % canvas.width == canvas.width - 1
        fed = active * (1 + closes.long())
        lengths = torch.tensor([len(prompt) for prompt in canvas.rows.prompts])  # [R]
        start = lengths + (fed.cumsum(0) - fed).repeat(1, copies)  # [N,R]
        self.visible = (start + fed.repeat(1, copies)).amax(1).tolist()
        """How far the rows reach behind each pass."""
        self.line_ends = (fed == 2).any(1).tolist()
        self.lowest = index.masked_fill(~active, 2**62).amin(1).tolist()
        """The least code that a pass draws."""
        self.index, self.active = index.to(device), active.to(device)
        self.offset = (index + index // canvas.width).to(device)
        """Place among the picture's tokens, line ends counted: the noise depends on it."""
        self.start = start.to(device)
        self.last = (fed - 1).clamp(min=0).repeat(1, copies).to(device)


@torch.no_grad()
def write_text(
    model: NextToken,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampler: Sampler,
    seeds: Sequence[int],
) -> Iterator[list[int | None]]:
    """Continue prompts token by token until each meets a stop id or the limit.

    Yields:
        After each pass one new id per prompt, None for a prompt that has ended; a stop id itself
        is not shown.
    """
    rows = Rows(model, prompts, [max_new_tokens] * len(prompts))
    seeds_ = torch.tensor(list(seeds), device=rows.device)
    start = torch.tensor([len(prompt) for prompt in prompts], device=rows.device)
    longest, first = max(map(len, prompts)), torch.zeros_like(start)
    running = [True] * len(prompts)
    logits = rows.prefill()
    for index in range(max_new_tokens):
        positions = torch.full_like(seeds_, index)
        drawn = sampler.draw(logits.float(), seeds_, positions, 0)
        ids = drawn.tolist()
        running = [on and i not in stop_ids for on, i in zip(running, ids, strict=True)]
        if not any(running):
            return
        yield [i if on else None for on, i in zip(running, ids, strict=True)]
        if index + 1 < max_new_tokens:
            # A row that has ended goes on unseen, so that positions need no list of their own.
            logits = rows.step(drawn[:, None], start + index, first, longest + index + 1)
