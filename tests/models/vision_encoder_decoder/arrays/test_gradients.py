"""Loss and gradients of JAX and TensorFlow are PyTorch's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from dromaius.models.vision_encoder_decoder import arrays
from tests.models.vision_encoder_decoder.arrays.conftest import PAD, START, WORDS, Make, Pair

PAIRS = ["projected-untied-gpt2", "swin-trocr", "deit-bert"]


def _labels() -> np.ndarray:
    labels = np.random.default_rng(5).integers(3, WORDS, (2, 6))
    labels[0, 4:] = arrays.IGNORED
    return labels


def _loss(framework: str, pair: Pair, params: Any) -> Any:
    xp, labels = arrays.namespace(framework), _labels()
    ids = arrays.shift_right(xp, labels, START, PAD)
    return arrays.loss(xp, arrays.forward(xp, pair.config, params, pair.pixels, ids), labels)


def _expected(pair: Pair, folder: Path) -> tuple[float, dict[str, np.ndarray]]:
    """PyTorch's loss, and its gradients under the names on disk: they are saved as weights."""
    model = copy.deepcopy(pair.model)
    out = model(pixel_values=torch.from_numpy(pair.pixels), labels=torch.from_numpy(_labels()))
    out.loss.backward()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.zeros_like(value) if value.grad is None else value.grad)
    model.save_pretrained(folder)
    return float(out.loss), arrays.load(folder)[1]


def _compare(found: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradients_are_those_of_pytorch(make: Make, name: str, tmp_path: Path) -> None:
    pair = make(name)
    loss, expected = _expected(pair, tmp_path)
    assert float(_loss("numpy", pair, pair.params)) == pytest.approx(loss, abs=1e-5)

    value, slopes = jax.jit(jax.value_and_grad(lambda params: _loss("jax", pair, params)))(
        arrays.place(arrays.namespace("jax"), pair.params)
    )
    assert float(value) == pytest.approx(loss, abs=1e-5)
    _compare(slopes, expected)

    variables = {name: tf.Variable(value) for name, value in pair.params.items()}
    with tf.GradientTape() as tape:
        value = _loss("tensorflow", pair, variables)
    slopes = tape.gradient(value, variables)
    assert float(value) == pytest.approx(loss, abs=1e-5)
    _compare({name: tf.convert_to_tensor(slope) for name, slope in slopes.items()}, expected)
