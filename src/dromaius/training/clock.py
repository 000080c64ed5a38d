"""What a training tells of itself, and the time it takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from dromaius.training.checkpoint import Progress


@dataclass(frozen=True)
class Report:
    """What the loop tells about its progress."""

    step: int
    steps: int
    seconds: float
    """Spent so far."""
    remaining: float
    """Expected until the end."""
    figures: dict[str, float]
    samples: Image.Image | None = None
    """The task's sheet, after an evaluation."""
    began: int = 0
    """Step of the checkpoint from which this sitting went on."""
    evaluated: bool = False
    """Whether figures on held-out data are among the figures."""


class Clock:
    """Keeps time in `progress`, and the speed since the last report."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._since, self._from = self._wall, progress.step
        self._began = progress.step
        self._counts: dict[str, float] = {}

    def count(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._counts[name] = self._counts.get(name, 0.0) + value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile does not count as slow training."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def stamp(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.progress.seconds += wall - self._wall
        self.progress.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    def report(
        self,
        steps: int,
        figures: dict[str, float],
        samples: Image.Image | None,
        evaluated: bool,
    ) -> Report:
        self.stamp()
        p, passed = self.progress, max(1e-9, self._wall - self._since)
        remaining = (steps - p.step) * passed / max(1, p.step - self._from)
        speeds = {f"{name}/s": n / passed for name, n in self._counts.items() if n}
        self._since, self._counts, self._from = self._wall, {}, p.step
        figures = figures | speeds | {"cpu_seconds": p.cpu_seconds}
        began = self._began
        return Report(p.step, steps, p.seconds, remaining, figures, samples, began, evaluated)
