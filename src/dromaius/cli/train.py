"""`dromaius train recipe.toml`: train what the recipe describes, resuming where it stopped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dromaius.cli import console

if TYPE_CHECKING:
    from dromaius.training.clock import Report

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file: see recipes/.")]


def train(recipe: Recipe) -> None:
    """Train what a recipe describes; run again, it goes on where it stopped."""
    from dromaius.training.loop import Interrupted, run
    from dromaius.training.metrics import Recorder
    from dromaius.training.recipe import read_recipe
    from dromaius.training.tasks import make_plan

    content = read_recipe(Path(recipe))
    plan = make_plan(content)
    record = Recorder(Path(plan.loop.out))
    try:
        with Display() as display:

            def report(progress: Report) -> None:
                record(progress)
                display.report(progress)

            run(plan.task, plan.loop, plan.optimizer, content, report, display.step)
    except Interrupted as stop:
        console.remark(stop)
        raise SystemExit(128 + stop.number) from None
    finally:
        record.close()
    console.result(plan.loop.out)


class Display:
    """A run's reports on stderr: a line each; on a terminal a bar, and a line after an evaluation.

    The bar appears with the first step: of several processes only one tells of its steps.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._meter: console.Meter | None = None
        self._words = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def step(self, done: int, total: int) -> None:
        if self._meter is None:
            meter = console.Meter("training", "steps", quiet=False)
            self._meter = self._open.enter_context(meter)
        self._meter.update(done, total, self._words)

    def report(self, progress: Report) -> None:
        self._words = brief(progress)
        if progress.evaluated or not console.is_terminal():
            console.remark(describe(progress))


def brief(report: Report) -> str:
    """What there is room for beside a bar: "step 40/900  12.3 items/s  loss 0.345"."""
    figures = report.figures
    speed = [f"{figures['items/s']:.1f} items/s"] if "items/s" in figures else []
    loss = [f"loss {figures['loss']:.4g}"] if "loss" in figures else []
    return "  ".join([f"step {report.step}/{report.steps}", *speed, *loss])


def describe(report: Report) -> str:
    """One line: "step 40/900  0:01:12, 0:25:48 to go  12.3 items/s  loss 0.345 ..."."""
    figures = {name: value for name, value in report.figures.items() if name != "cpu_seconds"}
    times = f"{clock(report.seconds)}, {clock(report.remaining)} to go"
    speeds = [f"{figures.pop(name):.1f} {name}" for name in list(figures) if name.endswith("/s")]
    rest = [f"{name} {value:.4g}" for name, value in figures.items()]
    return "  ".join([f"step {report.step}/{report.steps}", times, *speeds, *rest])


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
