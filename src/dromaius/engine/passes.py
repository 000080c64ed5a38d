"""Pictures drawn one code a pass or several, as asked, and what that took.

Modes:

- "off": plain decoding, one code a pass.
- "seed-exact": the same codes in fewer passes (`engine.jacobi`).
- "coupled": other codes of the same distribution in fewer passes.
- "auto": draws the first codes in both of the first two ways and goes on in the faster. The codes
  are those of plain decoding whatever it takes.
"""

import statistics
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.jacobi import WINDOW, Jacobi, LastPass, draw_grids_in_passes
from dromaius.engine.rows import NextToken
from dromaius.engine.sampling import Sampler

MODES = ("off", "seed-exact", "coupled", "auto")
TRIAL = 8
"""Passes of each way that "auto" takes before it chooses, the prefill one of them."""
WORTH = 4 * TRIAL
"""Codes below which "auto" tries nothing."""


class Passes:
    """The drawing of some pictures; iterating does it."""

    def __init__(
        self,
        model: NextToken,
        requests: Sequence[GridRequest],
        sampler: Sampler,
        mode: str = "off",
        window: int = WINDOW,
        last: LastPass | None = None,
    ) -> None:
        """`last` is where a coupled drawing stopped. Raises ValueError for an unknown mode."""
        if mode not in MODES:
            raise ValueError(f"accelerate must be one of {', '.join(MODES)}, got {mode!r}")
        form = "coupled" if mode == "coupled" else "seed-exact"
        self._model, self._requests, self._sampler = model, requests, sampler
        self._how, self._mode = Jacobi(form, window), mode
        self.missing = max(r.grid.drawn - len(r.begun) for r in requests)
        """Codes that the picture that misses most still misses."""
        self.last = last
        """What a coupled drawing needs to go on from here."""
        self.count = 0
        """Forward passes so far."""
        self.chosen = "" if mode == "auto" else mode
        """The mode in which codes are drawn; empty until it is known."""
        self.reason = ""
        """Why it was chosen, where it was."""

    def __iter__(self) -> Generator[Tensor, None, None]:
        """After each pass the codes so far, int64 [B, most codes], -1 where nothing is certain."""
        if self._mode == "auto":
            return self._choosing()
        begun = self._requests
        return self._plainly(begun) if self._mode == "off" else self._in_passes(begun, self.last)

    def _plainly(self, requests: Sequence[GridRequest]) -> Generator[Tensor, None, None]:
        before = self.count
        for step, codes in enumerate(draw_grids(self._model, requests, self._sampler), start=1):
            if self.missing:  # with nothing to draw the codes are shown all the same
                self.missing -= 1
                self.count = before + step + (self.missing > 0)  # the next pass is made already
            yield codes

    def _in_passes(
        self, requests: Sequence[GridRequest], last: LastPass | None = None
    ) -> Generator[Tensor, None, None]:
        if not self.missing:
            last = None
        self.count += last is not None  # a prefill that shows nothing new
        for found in draw_grids_in_passes(self._model, requests, self._sampler, self._how, last):
            self.count += bool(self.missing)
            self.missing, self.last = found.missing, found.last
            yield found.codes

    def _choosing(self) -> Generator[Tensor, None, None]:
        """The first codes both ways, the others in the faster."""
        if self.missing < WORTH:
            self.chosen, self.reason = "off", f"{self.missing} codes are too few to try more"
            yield from self._plainly(self._requests)
            return
        singly, together = _Trial(), _Trial()
        steps = self._plainly(self._requests)
        yield from singly.of(steps)
        steps.close()
        steps = self._in_passes(_begun(self._requests, singly.codes))
        yield from together.of(steps)
        self.chosen = "seed-exact" if together.rate > singly.rate else "off"
        self.reason = f"{together} in passes of {self._how.window} drafts, {singly} in plain ones"
        if self.chosen == "off":
            steps.close()
            steps = self._plainly(_begun(self._requests, together.codes))
        if self.missing:
            yield from steps


class _Trial:
    """A few passes of one way, and how fast they were."""

    def __init__(self) -> None:
        self.codes = torch.empty(0)
        """The codes behind it."""
        self._seconds: list[float] = []
        self._certain: list[int] = []

    def of(self, steps: Generator[Tensor, None, None]) -> Generator[Tensor, None, None]:
        """The first steps, timed. What is done with them meanwhile does not count."""
        for _ in range(TRIAL):
            start = time.perf_counter()
            codes = next(steps, None)
            if codes is None:
                return
            self._certain.append(int((codes >= 0).sum()))  # waits until the device has done it
            self._seconds.append(time.perf_counter() - start)
            self.codes = codes
            yield codes

    @property
    def rate(self) -> float:
        """Codes a second, the first pass aside: it reads the prompts."""
        return self._gain / self._pass

    def __str__(self) -> str:
        return f"{self.rate:,.0f} codes/s ({self._gain:.1f} in {1000 * self._pass:.1f} ms)"

    @property
    def _gain(self) -> float:
        """Codes a pass."""
        return (self._certain[-1] - self._certain[0]) / (len(self._certain) - 1)

    @property
    def _pass(self) -> float:
        """Seconds."""
        return statistics.median(self._seconds[1:])


def _begun(requests: Sequence[GridRequest], codes: Tensor) -> list[GridRequest]:
    """The requests with what is drawn of them."""
    drawn = [[code for code in row if code >= 0] for row in codes.tolist()]
    return [replace(r, begun=begun) for r, begun in zip(requests, drawn, strict=True)]
