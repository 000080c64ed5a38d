"""The one training loop. Objectives differ in batch and loss only.

Data order and noise are functions of (seed, step), and a checkpoint holds all else that the next
step depends on, so that a run which is killed and resumed ends with the same weights as one that
never stopped.
"""

import signal
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
from dromaius.training.clock import Clock, Report
from dromaius.training.optimizer import OptimizerSettings, build_optimizers, set_rate, warmup_cosine
from dromaius.training.processes import (
    DEVICES,
    Shard,
    anywhere,
    average_gradients,
    choose_device,
    shared_work,
)

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
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""
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
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device!r}")


class Task(Protocol):
    """What an objective gives to the loop, which moves `model` and `extra` to their device."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def extra(self) -> nn.Module:
        """Buffers besides the model that the next step depends on."""
        ...

    def begin(self) -> None:
        """Called once before step 0 of a fresh run, on the CPU: every device starts alike."""
        ...

    def batch(self, index: int, shard: Shard) -> Any:
        """Batch number `index` (step * accumulate + part): a function of it and the seed alone.

        On the CPU; the loop moves it.
        """
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


class Interrupted(Exception):
    """The run was asked to stop, by the signal `number`; the message says how to go on."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def run(
    task: Task,
    settings: LoopSettings,
    optimizer: OptimizerSettings,
    recipe: Mapping[str, Any],
    report: Callable[[Report], None] = lambda report: None,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, float]:
    """Train until `settings.steps`, from the checkpoint in `settings.out` when there is one.

    Under torchrun each process takes its share of every batch and gradients are averaged.
    SIGINT and SIGTERM end the run after the current step: it is saved and Interrupted is raised.
    `report` hears what is due, `progress` of every step; both in the first process only.

    Returns the figures of the last evaluation. Raises ConfigError for a device that is not there.
    """
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with shared_work(device) as shard:
        told = progress if shard.rank == 0 else lambda step, steps: None
        return _train(task, settings, optimizer, recipe, report, told, shard, device)


def _train(
    task: Task,
    settings: LoopSettings,
    optimizer: OptimizerSettings,
    recipe: Mapping[str, Any],
    report: Callable[[Report], None],
    told: Callable[[int, int], None],
    shard: Shard,
    device: torch.device,
) -> dict[str, float]:
    """`run`, as one of the processes that share the work."""
    out = Path(settings.out)
    checkpoint = out / CHECKPOINT
    torch.manual_seed(settings.seed)
    if shard.rank == 0:
        remove_leftovers(out)
    optimizers, progress = _set_up(task, optimizer, checkpoint, recipe, device)
    clock = Clock(progress)

    def save() -> None:
        clock.stamp()
        if shard.rank == 0:
            save_checkpoint(checkpoint, task.model, optimizers, task.extra, progress, recipe)

    figures: dict[str, float] = {}
    with _stop_requests() as stopped:
        while progress.step < settings.steps:
            step = progress.step
            o = optimizer
            set_rate(optimizers, warmup_cosine(step, settings.steps, o.warmup, o.final, o.hold))
            logged = _step(task, settings, optimizers, step, shard)
            progress.step += 1
            told(progress.step, settings.steps)
            clock.count({name: logged.pop(name, 0.0) * shard.world for name in COUNTED})
            due, samples = _due(progress.step, settings), None
            if "evaluate" in due:
                with clock.paused():
                    logged |= (figures := task.evaluate())
                    samples = _samples(task) if shard.rank == 0 else None
            if shard.rank == 0 and ("log" in due or "evaluate" in due):
                logged["lr"] = optimizers[0].param_groups[0]["lr"]
                report(clock.report(settings.steps, logged, samples, "evaluate" in due))
            if anywhere(bool(stopped), shard):
                save()
                raise Interrupted(
                    f"stopped after step {progress.step} of {settings.steps}; saved in "
                    f"{checkpoint}: the same command goes on from there",
                    *stopped[:1],
                )
            if "checkpoint" in due:
                save()
    if not figures:
        figures = task.evaluate()
    if shard.rank == 0:
        task.export(out)
    return figures


def _set_up(
    task: Task,
    settings: OptimizerSettings,
    checkpoint: Path,
    recipe: Mapping[str, Any],
    device: torch.device,
) -> tuple[list[torch.optim.Optimizer], Progress]:
    """Everything in its place on the device, as the checkpoint has it when there is one."""
    if fresh := not checkpoint.exists():
        task.begin()
    task.model.to(device)
    task.extra.to(device)
    optimizers = build_optimizers(task.model, settings)
    if fresh:
        return optimizers, Progress()
    return optimizers, load_checkpoint(checkpoint, task.model, optimizers, task.extra, recipe)


def _step(
    task: Task,
    settings: LoopSettings,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    shard: Shard,
) -> dict[str, float]:
    """One optimizer step; returns figures averaged over its batches (COUNTED ones: summed)."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    device = parameters[0].device
    precision = PRECISIONS[settings.precision]
    totals: dict[str, float] = {}
    if shard.world > 1:  # a checkpoint holds the random state of one process only
        torch.manual_seed(number_for(settings.seed, "noise", step, shard.rank))
    for part in range(settings.accumulate):
        batch = _moved(task.batch(step * settings.accumulate + part, shard), device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
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


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch, or a list of them, on the device; what has no tensors stays as it is."""
    if isinstance(batch, list):
        return [_moved(one, device) for one in batch]
    return batch.to(device) if hasattr(batch, "to") else batch


def _samples(task: Task) -> Image.Image | None:
    """The task's sheet; drawing it leaves no trace in what follows."""
    device = next(task.model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
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
def _stop_requests() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are remembered, in a list, instead of breaking into a half-made step."""
    asked: list[int] = []
    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = {
            s: signal.signal(s, lambda number, frame: asked.append(number)) for s in handled
        }
    except ValueError:  # not the main thread: nobody sends it signals
        previous = {}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
