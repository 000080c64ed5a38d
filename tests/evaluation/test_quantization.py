"""The cost of quantizing: figures worked out here, and nano through every verb's Python side."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dromaius
from dromaius.evaluation import quantization
from dromaius.nn.packing import Form
from dromaius.nn.quantized import quantize
from dromaius.pipelines.emu3 import Emu3


@pytest.fixture(scope="module")
def nano() -> Emu3:
    return dromaius.load("nano", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano in int4, with its cost."""
    return quantization.quantize("nano", tmp_path_factory.mktemp("few") / "nano", "int4")


@pytest.fixture(scope="module")
def few(folder: Path) -> Emu3:
    return dromaius.load(folder, device="cpu")


def test_a_model_costs_nothing_against_itself(nano: Emu3) -> None:
    cost = quantization.compare(quantization.observe(nano), nano)
    assert (cost.kl_mean, cost.kl_p95, cost.top1, cost.greedy) == (0.0, 0.0, 1.0, 1.0)
    assert (cost.tokens, cost.codes) == (8 * 64, 8 * 64)


def test_divergence_is_that_of_the_definition(nano: Emu3) -> None:
    """On the same sequences, from probabilities in numpy."""
    observed = quantization.observe(nano)
    other = copy.deepcopy(nano)
    language = other.require_language_model()
    quantize(language, {f"model.layers.{n}.mlp.down_proj": Form("int4", 128) for n in range(4)})
    cost = quantization.compare(observed, other)
    ids, divergences, same = nano.vocabulary, [], []
    for sequence, first in zip(observed.sequences, observed.first, strict=True):
        given = torch.tensor([sequence])
        with torch.no_grad():
            pair = [m.require_language_model()(given)[0].double().numpy() for m in (nano, other)]
        for place in range(first, len(sequence)):
            if place + 1 < len(sequence) and sequence[place + 1] == ids.end_of_line:
                continue
            said = [logits[place, ids.visual_start : ids.visual_stop] for logits in pair]
            p, q = (np.exp(s) / np.exp(s).sum() for s in said)
            divergences.append(float((p * np.log(p / q)).sum()))
            same.append(p.argmax() == q.argmax())
    assert len(divergences) == cost.tokens
    assert cost.kl_mean == pytest.approx(np.mean(divergences), rel=1e-2)
    assert cost.kl_p95 == pytest.approx(np.percentile(divergences, 95), rel=1e-2)
    assert cost.top1 == pytest.approx(np.mean(same), abs=1e-3)
    assert cost.kl_mean > 1e-4


def test_more_bits_cost_less(nano: Emu3) -> None:
    observed, costs = quantization.observe(nano), []
    for form in (Form("int8"), Form("fp8"), Form("int4", 64)):
        other = copy.deepcopy(nano)
        language = other.require_language_model()
        names = [name for name, _ in language.named_modules() if name.endswith("_proj")]
        quantize(language, dict.fromkeys(names, form))
        costs.append(quantization.compare(observed, other).kl_mean)
    assert 0 < costs[0] < costs[1] < costs[2]


def test_the_checkpoint_tells_its_cost(folder: Path, few: Emu3, nano: Emu3) -> None:
    told = json.loads((folder / "config.json").read_text())["quantization"]["cost"]
    assert told == quantization.cost_of(folder)
    assert quantization.compare(quantization.observe(nano), few).kl_mean == pytest.approx(
        told["kl_mean"], rel=1e-3
    )
    described = few.describe()
    assert described["quantization"]["cost"] == told
    assert described["parameters"] == nano.describe()["parameters"]


def test_it_draws_answers_and_reads_as_any_model(few: Emu3, nano: Emu3) -> None:
    picture = few.generate_image("a red apple", seed=3)
    assert picture.size == (64, 64)
    assert torch.equal(few.encode_image(picture), nano.encode_image(picture))  # kept in full
    assert few.answer(picture, "What is in the image?")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    assert few.chat([{"role": "user", "content": content}])


def test_mixed_batches_and_passes_are_exact_for_it(few: Emu3) -> None:
    """Relative to the quantized model itself: alone, in a batch, and with several codes a pass."""
    prompts, sizes = ["a red apple", "a blue car"], [64, 32]
    alone = [
        few.generate_image(p, height=s, width=s, seed=5)
        for p, s in zip(prompts, sizes, strict=True)
    ]
    together = few.generate_image(prompts, height=sizes, width=sizes, seed=[5, 5])
    fast = few.generate_image(
        prompts, height=sizes, width=sizes, seed=[5, 5], accelerate="seed-exact"
    )
    for one, two, three in zip(alone, together, fast, strict=True):  # type: ignore[arg-type]
        assert one.tobytes() == two.tobytes() == three.tobytes()  # type: ignore[union-attr]
