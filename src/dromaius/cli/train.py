"""`dromaius train recipe.toml`: train what the recipe describes, resuming where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dromaius.cli import console

if TYPE_CHECKING:
    from dromaius.training.loop import Report

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

    def report(progress: Report) -> None:
        record(progress)
        console.remark(describe(progress))

    try:
        run(plan.task, plan.loop, plan.optimizer, content, report)
    except Interrupted as stop:
        console.remark(stop)
        raise SystemExit(130) from None
    finally:
        record.close()
    console.result(plan.loop.out)


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
