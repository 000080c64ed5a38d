"""Several codes a pass: drafts are checked together, and those that hold are kept.

A pass feeds the last certain code and drafts of the next ones, and gets what the model says after
each of them. Drafts are good up to the first that the model, given all before it, would not have
drawn; that one is put right, and what lies behind it becomes the next pass's drafts. Every pass
makes at least one code certain, so that it never takes more passes than drawing one by one.

Two forms, both exact (specs/decoding.md 1.3 and 1.4; Teng et al. 2024, So et al. 2025):

- "seed-exact": a draft holds if it is what the picture's own noise would draw. The picture is that
  of plain decoding, code for code.
- "coupled": a draft holds with the probability min(1, p/q) of speculative sampling, and is redrawn
  from what p has more than q if not. The picture has plain decoding's distribution; there are fewer
  passes.

Legend: B pictures, R rows, K codes in the window, T tokens, V visual ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dromaius.engine.canvas import Canvas, GridRequest
from dromaius.engine.rows import NextToken
from dromaius.engine.sampling import Sampler
from dromaius.engine.speculative import PassNoise, speculate

FORMS = ("seed-exact", "coupled")
WINDOW = 16


@dataclass(frozen=True)
class Jacobi:
    """How drafts are made and judged."""

    form: str = "seed-exact"
    window: int = WINDOW
    """Drafts a pass; 0 draws one by one."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if self.window < 0:
            raise ValueError(f"window must be 0 or more drafts, got {self.window}")


@dataclass(frozen=True)
class LastPass:
    """What a pass was fed and what it drew: with the codes before it, all that follows from it."""

    before: Tensor
    """int64 [B], codes of each picture that were certain before it."""
    after: Tensor
    """int64 [B], and behind it."""
    drafts: Tensor
    """int64 [B,K], what it was fed."""
    drawn: Tensor
    """int64 [B,1+K], what it drew; `after - before` of them are certain."""


@dataclass(frozen=True)
class Certain:
    """Where pictures stand behind a pass."""

    codes: Tensor
    """int64 [B, most codes], -1 where nothing is certain; the same tensor in every pass."""
    missing: int
    """Codes that the picture that misses most still misses."""
    last: LastPass | None = None
    """What a drawing in the coupled form needs to go on from here to the same pictures."""


@torch.no_grad()
def draw_grids_in_passes(
    model: NextToken,
    requests: Sequence[GridRequest],
    sampler: Sampler,
    how: Jacobi,
    last: LastPass | None = None,
) -> Iterator[Certain]:
    """As `draw_grids`, with as many codes a pass as hold; each picture goes at its own pace.

    A coupled drawing that was stopped behind `last` goes on from it: that pass is fed once more,
    because later drafts are judged by the distributions that it gave.

    Yields:
        After each forward pass what is certain (going on from `last`: from the second pass on).
    """
    if last is not None:
        # the code before its drafts is fed by the pass itself, as it was then
        codes = (last.before - 1).tolist()
        shorter = [replace(r, begun=r.begun[:n]) for r, n in zip(requests, codes, strict=True)]
        window = _Window(Canvas(model, shorter), sampler, how)
        window.canvas.rows.prefill()
        window.again(requests, last)
    else:
        window = _Window(Canvas(model, requests), sampler, how)
        if window.missing:
            window.begin(window.canvas.rows.prefill())
    yield window.certainty()
    while window.missing:
        window.advance()
        yield window.certainty()


class _Window:
    """Drafts of all pictures, and how far each picture is certain."""

    def __init__(self, canvas: Canvas, sampler: Sampler, how: Jacobi) -> None:
        self.canvas, self.sampler, self.size = canvas, sampler, how.window
        self.coupled = how.form == "coupled" and not sampler.greedy and how.window > 0
        self.certain: list[int] = canvas.begun.tolist()
        """Codes of each picture that are final."""
        self.lengths = [len(prompt) for prompt in canvas.rows.prompts]
        """Tokens of each row whose keys stand in the cache for good."""
        device, size = canvas.codes.device, max(1, how.window)
        self.drafts = torch.zeros(len(canvas.grids), size, dtype=torch.long, device=device)
        self.drawn_from: Tensor | None = None
        """What the drafts were drawn from, log-probabilities [B,K,V] (coupled form)."""
        self.last: LastPass | None = None

    @property
    def missing(self) -> int:
        """Codes that the picture that misses most still misses."""
        pairs = zip(self.certain, self.canvas.grids, strict=True)
        return max(grid.drawn - n for n, grid in pairs)

    def certainty(self) -> Certain:
        return Certain(self.canvas.codes, self.missing, self.last)

    def begin(self, logits: Tensor) -> None:
        """The first code of each picture, and drafts behind it drawn from the same scores."""
        index = torch.tensor(self.certain, device=logits.device)
        scores = self.canvas.scores(logits, index)[:, None]  # [B,1,V]
        places = self._places(1 + self.size)  # [B,1+K]
        drawn = self._draw(scores.expand(-1, places.shape[1], -1), places)
        self._settle(drawn[:, :1], [1] * len(self.certain))
        if self.size:
            self.drafts = drawn[:, 1:]
            self.drawn_from = self._shares(scores).expand(-1, self.size, -1)

    def advance(self) -> None:
        """One forward pass."""
        places = self._places(1 + self.size)  # [B,1+K]
        scores, fed = self._forward(places)
        kept, drawn = self._judge(scores, places)
        self._conclude(scores, drawn, self._counts(kept), fed)

    def again(self, requests: Sequence[GridRequest], last: LastPass) -> None:
        """A pass that was made before: what it drew is known, what it drew from is not."""
        for row, request, n in zip(self.canvas.codes, requests, last.before.tolist(), strict=True):
            row[:n] = torch.tensor(list(request.begun[:n]), dtype=torch.long)
        self.certain = last.before.tolist()
        device = self.canvas.codes.device
        self.drafts, drawn = last.drafts.to(device), last.drawn.to(device)
        scores, fed = self._forward(self._places(1 + self.size))
        self._conclude(scores, drawn, (last.after - last.before).tolist(), fed)

    # --- one pass, part by part ------------------------------------------------------------------

    def _forward(self, places: Tensor) -> tuple[Tensor, list[list[int]]]:
        """Scores [B,1+K,V] of the codes at `places`, and the `good` tokens of `_tokens`."""
        canvas = self.canvas
        if canvas.guided and self._lowest() >= canvas.last_guided:
            canvas.stop_guidance()
            self.lengths = self.lengths[: len(canvas.grids)]
        ids, take, good = self._tokens()
        copies = canvas.copies
        start = torch.tensor(self.lengths, device=ids.device)
        visible = min(max(self.lengths) + ids.shape[1], canvas.rows.cache.slots)
        logits = canvas.rows.window(ids.repeat(copies, 1), start, visible)  # [R,T,V]
        wanted = take.repeat(copies, 1)[..., None].expand(-1, -1, logits.shape[-1])
        return canvas.scores(logits.gather(1, wanted), places), good

    def _conclude(
        self, scores: Tensor, drawn: Tensor, counts: list[int], good: list[list[int]]
    ) -> None:
        """So many of the codes drawn are certain now; the others are the next drafts."""
        before, drafts = torch.tensor(self.certain), self.drafts
        self._settle(drawn, counts)
        for row in range(len(self.lengths)):
            picture = row % len(counts)
            self.lengths[row] += good[picture][counts[picture]]
        if self.size:
            self._slide(scores, drawn, counts)
        if self.coupled:
            self.last = LastPass(before, torch.tensor(self.certain), drafts, drawn)

    def _tokens(self) -> tuple[Tensor, Tensor, list[list[int]]]:
        """What a pass feeds: the last certain code and the drafts, line ends between them.

        Returns ids [B,T], the token after which each code stands [B,1+K], and per picture how many
        tokens are good once so many more codes are certain.
        """
        canvas, drafts = self.canvas, self.drafts.tolist()
        lines, takes, goods = [], [], []
        for b, grid in enumerate(canvas.grids):
            n = min(self.certain[b], grid.drawn)
            codes = [int(canvas.codes[b, n - 1]), *drafts[b][: self.size]]
            ids: list[int] = []
            take, good = [], [0]
            for place, code in enumerate(codes):
                if n + place < grid.drawn:  # behind the last code nothing is drawn
                    ids.append(code + canvas.start)
                    if grid.closes_row(n - 1 + place):
                        ids.append(canvas.end_of_line)
                take.append(max(0, len(ids) - 1))
                good.append(len(ids))
            lines.append(ids)
            takes.append(take)
            goods.append(good)
        longest = max(1, *map(len, lines))
        padded = [ids + [canvas.start] * (longest - len(ids)) for ids in lines]
        device = canvas.codes.device
        return torch.tensor(padded, device=device), torch.tensor(takes, device=device), goods

    def _places(self, count: int) -> Tensor:
        """Code numbers [B,count] from each picture's first uncertain one on."""
        first = torch.tensor(self.certain, device=self.canvas.codes.device)
        return first[:, None] + torch.arange(count, device=first.device)

    def _judge(self, scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Which drafts hold, bool [B,K], and what stands at each place if all before it do."""
        if not self.coupled:
            drawn = self._draw(scores, places)
            return drawn[:, :-1] == self.drafts[:, : self.size], drawn
        assert self.drawn_from is not None
        certain = torch.tensor(self.certain, device=places.device)
        noise = PassNoise(self.canvas.seeds, certain, self._offsets(places))
        shares = self._shares(scores).exp()
        return speculate(shares, self.drawn_from.exp(), self.drafts, noise)

    def _counts(self, kept: Tensor) -> list[int]:
        """How many codes of each picture are certain now: the drafts that hold, and one more."""
        counts = kept.long().cumprod(1).sum(1).add(1).tolist()
        return [
            min(count, max(0, grid.drawn - n))
            for count, grid, n in zip(counts, self.canvas.grids, self.certain, strict=True)
        ]

    def _settle(self, drawn: Tensor, counts: list[int]) -> None:
        """Write the certain codes."""
        for b, count in enumerate(counts):
            n = self.certain[b]
            count = min(count, self.canvas.grids[b].drawn - n)
            self.canvas.codes[b, n : n + count] = drawn[b, :count]
            self.certain[b] = n + count

    def _slide(self, scores: Tensor, drawn: Tensor, counts: list[int]) -> None:
        """What lies behind the certain codes becomes drafts; new places draw from the last scores.

        A new place sees its neighbour's scores with its own noise, the best guess there is.
        """
        moved = torch.tensor(counts, device=drawn.device)[:, None]
        source = moved + torch.arange(self.size, device=drawn.device)  # [B,K] places in the window
        last = drawn.shape[1] - 1
        known = source.clamp(max=last)
        behind = scores.gather(1, known[..., None].expand(-1, -1, scores.shape[-1]))  # [B,K,V]
        fresh = self._draw(behind, self._places(self.size))
        old = drawn.gather(1, known)
        self.drafts = torch.where(source <= last, old, fresh)
        self.drawn_from = self._shares(behind) if self.coupled else None

    # --- drawing ---------------------------------------------------------------------------------

    def _draw(self, scores: Tensor, places: Tensor) -> Tensor:
        """What the pictures' own noise draws: scores [B,K,V] at code numbers [B,K] -> [B,K]."""
        count = places.shape[1]
        seeds = self.canvas.seeds[:, None].expand(-1, count).flatten()
        flat = self.sampler.draw(
            scores.flatten(0, 1), seeds, self._offsets(places).flatten(), self.canvas.start
        )
        return flat.view_as(places)

    def _shares(self, scores: Tensor) -> Tensor:
        """Log-probabilities after temperature, top-k and top-p."""
        return self.sampler.keep(scores.flatten(0, 1)).log_softmax(-1).view_as(scores)

    def _offsets(self, places: Tensor) -> Tensor:
        """Places among each picture's tokens, line ends counted."""
        width = self.canvas.width.to(places.device)[:, None]
        return places + places // width

    def _lowest(self) -> int:
        """The least code that is not certain."""
        pairs = zip(self.certain, self.canvas.grids, strict=True)
        return min(n for n, grid in pairs if n < grid.drawn)
