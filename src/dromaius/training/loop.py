"""The one training loop. Objectives differ in batch and loss only.

Data order and noise are functions of (seed, step), and a checkpoint holds all else that the next
step depends on, so that a run which is killed and resumed ends with the same weights as one that
never stopped.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from dromaius.data.order import number_for
from dromaius.errors import ConfigError
from dromaius.models.emu3.config import Section
from dromaius.training.checkpoint import (
    CHECKPOINT,
    Progress,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from dromaius.training.optimizer import OptimizerSettings, build_optimizers, set_rate
from dromaius.training.processes import Shard, anywhere, average_gradients, shared_work
from dromaius.training.schedule import warmup_cosine

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COUNTED = ("items", "tokens")
"""Figures of a batch that are summed, and reported per second."""


@dataclass(frozen=True)
class LoopSettings(Section):
    """How long a run goes on and what it leaves behind."""

    out: str
    """Folder of checkpoints, logs and the exported result."""
    steps: int
    """Optimizer steps."""
    seed: int = 0
    """Of weights, order of data, and noise."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "float32"
    """Of forward and backward; bfloat16 is autocast, the weights stay float32."""
    threads: int = 0
    """Of this process; 0 leaves torch's number alone."""
    log_every: int = 20
    """Steps from report to report."""
    evaluate_every: int = 0
    """Steps from evaluation to evaluation, on held-out data; 0: only at the end."""
    checkpoint_every: int = 200
    """Steps from checkpoint to checkpoint; the newest replaces the one before."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )


class Task(Protocol):
    """What an objective gives to the loop."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def extra(self) -> nn.Module:
        """Buffers besides the model that the next step depends on."""
        ...

    def begin(self) -> None:
        """Called once before step 0 of a fresh run."""
        ...

    def batch(self, index: int, shard: Shard) -> Any:
        """Batch number `index` (step * accumulate + part): a function of it and the seed alone."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss to go down, and figures to log, COUNTED ones among them.

        "items": how many samples it was; "tokens": how many tokens, padding not counted.
        """
        ...

    def after_step(self, step: int) -> None:
        """Updates that are not by gradient."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def samples(self) -> Image.Image | None:
        """A sheet that shows what the model can do so far, if there is something to see."""
        ...

    def export(self, folder: Path) -> None:
        """The trained result in the form that the rest of the library reads."""
        ...


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


class Interrupted(Exception):
    """The run was asked to stop; the message says how to go on."""


def run(
    task: Task,
    settings: LoopSettings,
    optimizer: OptimizerSettings,
    recipe: Mapping[str, Any],
    report: Callable[[Report], None] = lambda report: None,
) -> dict[str, float]:
    """Train until `settings.steps`, from the checkpoint in `settings.out` when there is one.

    Under torchrun each process takes its share of every batch and gradients are averaged.
    SIGINT and SIGTERM end the run after the current step: it is saved and Interrupted is raised.

    Returns the figures of the last evaluation.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with shared_work() as shard:
        return _train(task, settings, optimizer, recipe, report, shard)


def _train(
    task: Task,
    settings: LoopSettings,
    optimizer: OptimizerSettings,
    recipe: Mapping[str, Any],
    report: Callable[[Report], None],
    shard: Shard,
) -> dict[str, float]:
    """`run`, as one of the processes that share the work."""
    out, model = Path(settings.out), task.model
    torch.manual_seed(settings.seed)
    optimizers = build_optimizers(model, optimizer)
    checkpoint = out / CHECKPOINT
    if shard.rank == 0:
        remove_leftovers(out)
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizers, task.extra, recipe)
    else:
        progress = Progress()
        task.begin()
    clock = _Clock(progress)

    def save() -> None:
        clock.stamp()
        if shard.rank == 0:
            save_checkpoint(checkpoint, model, optimizers, task.extra, progress, recipe)

    figures: dict[str, float] = {}
    with _stop_requests() as stopped:
        while progress.step < settings.steps:
            step = progress.step
            o = optimizer
            set_rate(optimizers, warmup_cosine(step, settings.steps, o.warmup, o.final, o.hold))
            logged = _step(task, settings, optimizers, step, shard)
            progress.step += 1
            clock.count({name: logged.pop(name, 0.0) * shard.world for name in COUNTED})
            due, samples = _due(progress.step, settings), None
            if "evaluate" in due:
                with clock.paused():
                    logged |= (figures := task.evaluate())
                    samples = _samples(task) if shard.rank == 0 else None
            if shard.rank == 0 and ("log" in due or "evaluate" in due):
                logged["lr"] = optimizers[0].param_groups[0]["lr"]
                report(clock.report(settings.steps, logged, samples))
            if anywhere(stopped(), shard):
                save()
                raise Interrupted(
                    f"stopped after step {progress.step} of {settings.steps}; saved in "
                    f"{checkpoint}: the same command goes on from there"
                )
            if "checkpoint" in due:
                save()
    if not figures:
        figures = task.evaluate()
    if shard.rank == 0:
        task.export(out)
    return figures


def _step(
    task: Task,
    settings: LoopSettings,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    shard: Shard,
) -> dict[str, float]:
    """One optimizer step; returns figures averaged over its batches (COUNTED ones: summed)."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    device = parameters[0].device.type
    precision = PRECISIONS[settings.precision]
    totals: dict[str, float] = {}
    if shard.world > 1:  # a checkpoint holds the random state of one process only
        torch.manual_seed(number_for(settings.seed, "noise", step, shard.rank))
    for part in range(settings.accumulate):
        batch = task.batch(step * settings.accumulate + part, shard)
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            loss, figures = task.loss(batch)
        (loss / settings.accumulate).backward()
        for name, value in ({"loss": loss.item()} | figures).items():
            share = 1 if name in COUNTED else settings.accumulate
            totals[name] = totals.get(name, 0.0) + value / share
    if not torch.isfinite(torch.tensor(totals["loss"])):
        raise ConfigError(f"the loss is {totals['loss']} at step {step}; lower the learning rates")
    if shard.world > 1:
        average_gradients(parameters, shard.world)
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
    totals["gradient"] = float(norm)
    for one in optimizers:
        one.step()
        one.zero_grad(set_to_none=True)
    task.after_step(step)
    return totals


def _samples(task: Task) -> Image.Image | None:
    """The task's sheet; drawing it leaves no trace in what follows."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return task.samples()


def _due(step: int, settings: LoopSettings) -> set[str]:
    """What is to be done after `step` steps."""
    last = step == settings.steps
    every = {
        "log": settings.log_every,
        "evaluate": settings.evaluate_every,
        "checkpoint": settings.checkpoint_every,
    }
    return {name for name, n in every.items() if last or (n and step % n == 0)}


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM are remembered instead of breaking into a half-made step."""
    asked: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = {
            s: signal.signal(s, lambda number, frame: asked.append(number)) for s in handled
        }
    except ValueError:  # not the main thread: nobody sends it signals
        previous = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Clock:
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
        self, steps: int, figures: dict[str, float], samples: Image.Image | None = None
    ) -> Report:
        self.stamp()
        p, passed = self.progress, max(1e-9, self._wall - self._since)
        remaining = (steps - p.step) * passed / max(1, p.step - self._from)
        speeds = {f"{name}/s": n / passed for name, n in self._counts.items() if n}
        self._since, self._counts, self._from = self._wall, {}, p.step
        figures = figures | speeds | {"cpu_seconds": p.cpu_seconds}
        return Report(p.step, steps, p.seconds, remaining, figures, samples, self._began)
