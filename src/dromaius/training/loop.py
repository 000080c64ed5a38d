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
import torch.distributed as dist
from torch import Tensor, nn

from dromaius.errors import ConfigError
from dromaius.models.emu3.config import Section
from dromaius.training.checkpoint import CHECKPOINT, Progress, load_checkpoint, save_checkpoint
from dromaius.training.optimizer import OptimizerSettings, build_optimizers, set_rate
from dromaius.training.schedule import warmup_cosine

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoopSettings(Section):
    """How long a run goes on and what it leaves behind."""

    out: str
    """Folder of checkpoints, logs and the exported result."""
    steps: int
    """Optimizer steps."""
    seed: int = 0
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "float32"
    """Of forward and backward; bfloat16 is autocast, the weights stay float32."""
    threads: int = 0
    """Of this process; 0 leaves torch's number alone."""
    log_every: int = 20
    evaluate_every: int = 0
    """0: only at the end."""
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )


@dataclass(frozen=True)
class Shard:
    """Which part of every batch this process computes."""

    rank: int = 0
    world: int = 1


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
        """The loss to go down, and figures to log ("items": how many samples it was)."""
        ...

    def after_step(self, step: int) -> None:
        """Updates that are not by gradient."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
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
    with _shard() as shard:
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
            set_rate(optimizers, warmup_cosine(step, settings.steps, o.warmup, o.final))
            logged = _step(task, settings, optimizers, step, shard)
            progress.step += 1
            clock.count(logged.pop("items", 0.0) * shard.world)
            due = _due(progress.step, settings)
            if "evaluate" in due:
                logged |= (figures := task.evaluate())
            if shard.rank == 0 and ("log" in due or "evaluate" in due):
                logged["lr"] = optimizers[0].param_groups[0]["lr"]
                report(clock.report(settings.steps, logged))
            if _anywhere(stopped(), shard):
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
    """One optimizer step; returns figures averaged over its batches (items: summed)."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    device = parameters[0].device.type
    precision = PRECISIONS[settings.precision]
    totals: dict[str, float] = {}
    for part in range(settings.accumulate):
        batch = task.batch(step * settings.accumulate + part, shard)
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            loss, figures = task.loss(batch)
        (loss / settings.accumulate).backward()
        items = figures.pop("items", 0.0)
        totals["items"] = totals.get("items", 0.0) + items
        for name, value in ({"loss": loss.item()} | figures).items():
            totals[name] = totals.get(name, 0.0) + value / settings.accumulate
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


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Every process gets the mean of all processes' gradients, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def _shard() -> Iterator[Shard]:
    """This process's share; joins the group that torchrun describes, if it does, and leaves it.

    A process that ends while the group's threads run is aborted by the C++ runtime.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Shard()
        return
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("gloo")
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # nobody leaves while another still talks
    finally:
        if joined:
            dist.destroy_process_group()


def _anywhere(flag: bool, shard: Shard) -> bool:
    """Whether any process says so: a signal may reach one of them a step earlier."""
    if shard.world == 1:
        return flag
    told = torch.tensor(float(flag))
    dist.all_reduce(told)
    return bool(told)


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
        self._since, self._items, self._from = self._wall, 0.0, progress.step

    def count(self, items: float) -> None:
        self._items += items

    def stamp(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.progress.seconds += wall - self._wall
        self.progress.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    def report(self, steps: int, figures: dict[str, float]) -> Report:
        self.stamp()
        p, passed = self.progress, max(1e-9, self._wall - self._since)
        per_step = passed / max(1, p.step - self._from)
        extra = {"items/s": self._items / passed, "cpu_seconds": p.cpu_seconds}
        self._since, self._items, self._from = self._wall, 0.0, p.step
        return Report(p.step, steps, p.seconds, (steps - p.step) * per_step, figures | extra)
