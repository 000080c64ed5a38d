"""The language model's objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dromaius.data.samples import IGNORED, Batch, Samples
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.training.language_model import (
    LanguageModelTask,
    batch_loss,
    blinded,
    embed_codebook,
)
from dromaius.training.loop import Report, run
from dromaius.training.processes import Shard
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
            others = 0
            for place in places:
                other = bool(labels[place] != labels[places[0]])
                others += other
                weight = 5.0 if other and others <= 2 else 1.0
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


def prompts_and_targets(rows: int) -> Batch:
    """Four ids of prompt, then eight to be predicted."""
    ids = torch.arange(1, 13).repeat(rows, 1)
    labels = torch.full_like(ids, IGNORED)
    labels[:, 3:-1] = ids[:, 4:]
    return Batch(ids, labels, None, None, ids.numel())


def test_blind_samples_lose_earlier_targets_only() -> None:
    batch = prompts_and_targets(2000)
    got = blinded(batch, 0.25, 0, torch.Generator().manual_seed(0))
    assert torch.equal(got.labels, batch.labels)
    hidden = got.ids != batch.ids
    assert (got.ids[hidden] == 0).all()
    assert not hidden[:, :4].any()
    seen = hidden.any(dim=1).float().mean().item()
    assert abs(seen - 0.25 * 8 / 9) < 0.04  # a ninth of the blind: the rate was too low to hide any
    # Each blind sample has a rate of its own, uniform in 0..1: the count is about uniform in 0..8.
    counts = blinded(batch, 1.0, 0, torch.Generator().manual_seed(1)).ids.eq(0).sum(dim=1)
    shares = counts.bincount(minlength=9) / len(counts)
    assert shares.min() > 0.08 and shares.max() < 0.145


def test_blindness_is_a_function_of_the_batch(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path)
    plain = task_of(recipe)
    recipe["data"][0]["blind"] = 1.0
    one, other = task_of(recipe), task_of(recipe)
    hidden = set()
    for index in range(24):  # a batch this small may by chance hide nothing
        batches = [task.batch(index, Shard())[0] for task in (one, other, plain)]
        assert torch.equal(batches[0].ids, batches[1].ids)
        assert torch.equal(batches[0].labels, batches[2].labels)
        hidden.add((batches[0].ids != batches[2].ids).sum().item())
    assert len(hidden) > 2
    second = [task.batch(0, Shard())[1].ids for task in (one, plain)]
    assert torch.equal(*second)  # the other file did not ask for it


def test_like_codes_start_with_like_embeddings() -> None:
    config = LanguageModelConfig(
        vocab_size=80, hidden_size=256, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    model = LanguageModel(config)
    model.init_weights(draw)
    before = model.model.embed_tokens.weight.detach().clone()
    half = torch.randn(32, 4, generator=draw)
    embed_codebook(model, torch.cat([half, half]), 10, draw)  # every entry twice
    after = model.model.embed_tokens.weight.detach()
    changed = (before != after).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == list(range(10, 74))
    rows = after[10:74]
    torch.testing.assert_close(rows.std(), before[10:74].std(), atol=0, rtol=0.1)
    # Half of the variance is the projection's, which twins share.
    twins = F.cosine_similarity(rows[:32], rows[32:]).mean()
    strangers = F.cosine_similarity(rows[:31], rows[33:]).mean()
    assert 0.4 < twins < 0.6 and abs(strangers) < 0.2


def test_a_codebook_shapes_a_fresh_start(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path)
    base = recipe["export"]["base"]
    plain, shaped = task_of(recipe), task_of(recipe | {"start": {"codebook": base}})
    plain.begin()
    shaped.begin()
    one, other = (task.model.model.embed_tokens.weight for task in (plain, shaped))
    start = one.shape[0] - 8
    assert torch.equal(one[:start], other[:start])
    assert (one[start:] != other[start:]).all()


def test_tokens_are_counted_without_padding(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path, steps=2, accumulate=2)
    task = task_of(recipe)
    expected = 0
    for one, samples in zip(task.settings, task.files, strict=True):
        rows = samples.rows(0, one.batch, task.seed)
        expected += sum(samples.offsets[row + 1] - samples.offsets[row] for row in rows)
    figures = task.loss(task.batch(0, Shard()))[1]
    assert figures["tokens"] == expected
    assert figures["items"] == 6
    reports: list[Report] = []
    run(task, make_plan(recipe).loop, make_plan(recipe).optimizer, recipe, reports.append)
    speeds = [(now.figures["tokens/s"], now.figures["items/s"]) for now in reports]
    assert all(tokens > 3 * items > 0 for tokens, items in speeds)  # samples have 3 to 24 ids


def test_share_of_right_labels(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("language_model", tmp_path)
    task = task_of(recipe)
    torch.nn.init.normal_(task.model.lm_head.weight)  # ids from all over the vocabulary
    right = total = 0
    task.model.eval()
    samples = task.heldout[0][1]
    with torch.no_grad():
        # Make some labels right: teach the file what the model says.
        for row in range(0, len(samples), 2):
            batch = samples.batch([row], pad=0)
            said = task.model(batch.ids, batch.positions, batch.mask)[0, -2].argmax()
            samples.ids[samples.offsets[row + 1] - 1] = said
        for row in range(len(samples)):
            batch = samples.batch([row], pad=0)
            said = task.model(batch.ids, batch.positions, batch.mask)[0].argmax(dim=-1)
            asked = batch.labels[0] != IGNORED
            right += int((said == batch.labels[0])[asked].sum())
            total += int(asked.sum())
    figures = task.evaluate()
    assert right >= 12
    assert abs(figures["right/answers"] - right / total) < 1e-6
