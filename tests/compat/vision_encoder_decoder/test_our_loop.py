"""Trained by `training/loop.py`: accumulation changes nothing, and four pictures are learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dromaius.training.loop import LoopSettings, run
from dromaius.training.optimizer import OptimizerSettings
from dromaius.training.processes import Shard
from tests.compat.vision_encoder_decoder.pairs import END, configuration, labels, pixels

IMAGES, TARGETS = pixels("vit", 4), labels(4)
TARGETS[1:, -1] = END
TARGETS[0, 3] = END


class Reading:
    """Four pictures with four texts; a step sees all of them, in `parts`."""

    def __init__(self, parts: int) -> None:
        from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel

        torch.manual_seed(0)
        config = configuration("vit", "gpt2", dropout=False)
        config.encoder.initializer_range = config.decoder.initializer_range = 0.05
        self.model = VisionEncoderDecoderModel(config=config)
        self.extra = nn.Module()
        self.parts = parts
        # the loop averages the parts, so each divides by its share of all targets
        self.items = (TARGETS != -100).sum() / parts

    def begin(self) -> None: ...

    def batch(self, index: int, shard: Shard) -> tuple[Tensor, Tensor]:
        part = index % self.parts
        return IMAGES.chunk(self.parts)[part], TARGETS.chunk(self.parts)[part]

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        images, targets = batch
        out = self.model(images, labels=targets, num_items_in_batch=self.items)
        return out.loss, {"items": float(len(images))}

    def after_step(self, step: int) -> None: ...

    def evaluate(self) -> dict[str, float]:
        return {}

    def samples(self) -> None:
        return None

    def export(self, folder: Path) -> None: ...


def train(folder: Path, parts: int, steps: int) -> tuple[Reading, list[float]]:
    task, losses = Reading(parts), []
    settings = LoopSettings(out=str(folder), steps=steps, accumulate=parts, log_every=1, clip=10.0)
    optimizer = OptimizerSettings(muon_lr=0.02, adamw_lr=0.01, warmup=1)
    run(task, settings, optimizer, {}, lambda now: losses.append(now.figures["loss"]))
    return task, losses


def test_accumulation(tmp_path: Path) -> None:
    whole = train(tmp_path / "1", 1, 3)[1]
    for parts in (2, 4):
        assert train(tmp_path / str(parts), parts, 3)[1] == pytest.approx(whole, rel=2e-3)


def test_four_pictures_are_learnt_and_read(tmp_path: Path) -> None:
    task, losses = train(tmp_path, 1, 60)
    assert losses[-1] < 0.05 < 3 < losses[0]
    read = task.model.eval().generate(IMAGES, max_new_tokens=6)
    for row, target in zip(read.tolist(), TARGETS.tolist(), strict=True):
        wanted = [token for token in target if token != -100]
        assert row[1 : 1 + len(wanted)] == wanted
