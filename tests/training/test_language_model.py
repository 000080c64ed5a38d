"""The language model's objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dromaius.data.samples import IGNORED, Samples
from dromaius.training.language_model import LanguageModelTask, batch_loss
from dromaius.training.loop import run
from dromaius.training.tasks import make_plan

Make = Callable[..., dict[str, Any]]


def task_of(recipe: dict[str, Any]) -> LanguageModelTask:
    task = make_plan(recipe).task
    assert isinstance(task, LanguageModelTask)
    return task


def test_first_labels_count_more(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path)
    task = task_of(recipe)
    model = task.model.eval()
    batch = Samples(Path(recipe["data"][0]["file"])).batch([0, 1, 2], pad=0)
    got = batch_loss(model, batch, first=2, first_weight=5.0)
    total = norm = 0.0
    with torch.no_grad():
        for ids, labels in zip(batch.ids, batch.labels, strict=True):
            losses = F.cross_entropy(model(ids[None])[0], labels, reduction="none")
            places = (labels != IGNORED).nonzero()[:, 0].tolist()
            for rank, place in enumerate(places):
                weight = 5.0 if rank < 2 else 1.0
                total += weight * losses[place].item()
                norm += weight
    torch.testing.assert_close(got.item(), total / norm, atol=1e-5, rtol=0)


def test_every_residual_branch_starts_at_zero(make_recipe: Make, tmp_path: Path) -> None:
    model = task_of(make_recipe("language_model", tmp_path)).model
    ids = torch.randint(0, 250, (1, 6))
    embedded = model.model.norm(model.model.embed_tokens(ids))
    torch.testing.assert_close(model(ids), model.lm_head(embedded))


def test_a_later_stage_takes_over_the_weights(make_recipe: Make, tmp_path: Path) -> None:
    earlier = make_recipe("language_model", tmp_path / "a", steps=1)
    plan = make_plan(earlier)
    run(plan.task, plan.loop, plan.optimizer, earlier)
    later = make_recipe("language_model", tmp_path / "b", seed=9)
    task = task_of(later | {"start": {"folder": str(tmp_path / "a")}})
    task.begin()
    for one, other in zip(plan.task.model.parameters(), task.model.parameters(), strict=True):
        assert torch.equal(one, other)
