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
from dromaius.engine.sampling import Sampler, gumbel
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
        self.drafts = canvas.codes[:, :0]
        """[B,K], for the places from the first uncertain one on."""
        self.noise: Tensor | None = None
        """What plain decoding draws with there and at the next place, [B,1+K,V]."""
        self.drawn_from: Tensor | None = None
        """What the drafts were drawn from, log-probabilities [B,K,V] (coupled form)."""
        self.last: LastPass | None = None

    @property
    def missing(self) -> int:
        """Codes that the picture that misses most still misses."""
        return max(self._left)

    @property
    def _left(self) -> list[int]:
        """Codes that each picture still misses."""
        return [grid.drawn - n for n, grid in zip(self.certain, self.canvas.grids, strict=True)]

    def certainty(self) -> Certain:
        return Certain(self.canvas.codes, self.missing, self.last)

    def begin(self, logits: Tensor) -> None:
        """The first code of each picture, and drafts behind it drawn from the same scores."""
        places = self._places(1 + self.size)
        scores = self.canvas.scores(logits, places[:, 0])[:, None].expand(-1, 1 + self.size, -1)
        self.noise = self._gumbel(places)
        drawn, counts = self._draw(scores, self.noise), [min(1, n) for n in self._left]
        self._settle(drawn, counts)
        self._slide(scores, drawn, counts)

    def advance(self) -> None:
        """One forward pass."""
        places = self._places(1 + self.size)  # [B,1+K]
        scores, good = self._forward(places)
        kept, drawn = self._judge(scores, places)
        self._conclude(scores, drawn, self._counts(kept), good)

    def again(self, requests: Sequence[GridRequest], last: LastPass) -> None:
        """A pass that was made before: what it drew is known, what it drew from is not."""
        for row, request, n in zip(self.canvas.codes, requests, last.before.tolist(), strict=True):
            row[:n] = torch.tensor(list(request.begun[:n]), dtype=torch.long)
        self.certain = last.before.tolist()
        device = self.canvas.codes.device
        self.drafts, drawn = last.drafts.to(device), last.drawn.to(device)
        places = self._places(1 + self.size)
        self.noise = self._gumbel(places)
        scores, good = self._forward(places)
        self._conclude(scores, drawn, (last.after - last.before).tolist(), good)

    # --- one pass, part by part ------------------------------------------------------------------

    def _forward(self, places: Tensor) -> tuple[Tensor, list[list[int]]]:
        """Scores [B,1+K,V] of the codes at `places`, and the `good` tokens of `_tokens`."""
        canvas = self.canvas
        lowest = min(n for n, left in zip(self.certain, self._left, strict=True) if left)
        if canvas.guided and lowest >= canvas.last_guided:
            canvas.stop_guidance()
            self.lengths = self.lengths[: len(canvas.grids)]
        ids, take, good = self._tokens()
        copies = canvas.copies
        start = torch.tensor(self.lengths, device=ids.device)
        visible = min(max(self.lengths) + ids.shape[1], canvas.rows.cache.slots)
        logits = canvas.rows.window(ids.repeat(copies, 1), start, visible)  # [R,T,V]
        return canvas.scores(_take(logits, take.repeat(copies, 1)), places), good

    def _conclude(
        self, scores: Tensor, drawn: Tensor, counts: list[int], good: list[list[int]]
    ) -> None:
        """So many of the codes drawn are certain now; the others are the next drafts."""
        before, drafts = torch.tensor(self.certain), self.drafts
        self._settle(drawn, counts)
        fed = [tokens[count] for tokens, count in zip(good, counts, strict=True)]
        self.lengths = [n + m for n, m in zip(self.lengths, fed * self.canvas.copies, strict=True)]
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
            codes = [int(canvas.codes[b, n - 1]), *drafts[b]]
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
            drawn = self._draw(scores, self.noise)
            return drawn[:, :-1] == self.drafts, drawn
        assert self.drawn_from is not None
        noise = PassNoise(self.canvas.seeds, places[:, 0], self._offsets(places))
        shares = self._shares(scores).exp()
        return speculate(shares, self.drawn_from.exp(), self.drafts, noise)

    def _counts(self, kept: Tensor) -> list[int]:
        """How many codes of each picture are certain now: the drafts that hold, and one more."""
        counts = kept.long().cumprod(1).sum(1).add(1).tolist()
        return [min(count, n) for count, n in zip(counts, self._left, strict=True)]

    def _settle(self, drawn: Tensor, counts: list[int]) -> None:
        """Write the certain codes."""
        for b, (n, count) in enumerate(zip(self.certain, counts, strict=True)):
            self.canvas.codes[b, n : n + count] = drawn[b, :count]
        self.certain = [n + count for n, count in zip(self.certain, counts, strict=True)]

    def _slide(self, scores: Tensor, drawn: Tensor, counts: list[int]) -> None:
        """What lies behind the certain codes becomes drafts; new places draw from the last scores.

        A new place sees its neighbour's scores with its own noise, the best guess there is.
        """
        device, known = drawn.device, drawn.shape[1]
        moved = torch.tensor(counts, device=device)[:, None]
        new = self._places(max(counts)) - moved + known  # [B,N], those behind the window as it was
        noise = self._gumbel(new)
        fresh = self._draw(scores[:, -1:].expand(-1, new.shape[1], -1), noise)
        source = moved + torch.arange(known, device=device)  # [B,1+K] of the places, new ones too
        self.drafts = torch.cat((drawn, fresh), 1).gather(1, source[:, :-1])
        if noise is not None and self.noise is not None:
            self.noise = _take(torch.cat((self.noise, noise), 1), source)
        if self.coupled:
            self.drawn_from = self._shares(_take(scores, source[:, :-1].clamp(max=known - 1)))

    # --- drawing ---------------------------------------------------------------------------------

    def _draw(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """[B,K,V], noise of the same places -> [B,K], as `Sampler.draw` does."""
        if noise is None:
            return scores.argmax(-1)
        return (self.sampler.keep(scores.flatten(0, 1)).view_as(scores) + noise).argmax(-1)

    def _gumbel(self, places: Tensor) -> Tensor | None:
        """The pictures' own noise at code numbers [B,K] -> [B,K,V]; None if there is none.

        It belongs to a place whatever the pass, so that it is made once for each.
        """
        if self.sampler.greedy:
            return None
        first, stop = self.canvas.rows.span or (0, 0)
        ids = torch.arange(first, stop, device=places.device)
        seeds = self.canvas.seeds[:, None].expand_as(places)
        noise = gumbel(seeds.flatten(), self._offsets(places).flatten(), ids)
        return noise.view(*places.shape, len(ids))

    def _shares(self, scores: Tensor) -> Tensor:
        """Log-probabilities after temperature, top-k and top-p."""
        return self.sampler.keep(scores.flatten(0, 1)).log_softmax(-1).view_as(scores)

    def _offsets(self, places: Tensor) -> Tensor:
        """Places among each picture's tokens, line ends counted."""
        width = self.canvas.width.to(places.device)[:, None]
        return places + places // width


def _take(values: Tensor, places: Tensor) -> Tensor:
    """[B,N,V] at places [B,K] -> [B,K,V]."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
