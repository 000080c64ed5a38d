"""Functions that NumPy does not have, and layers, against PyTorch's and math's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from dromaius.errors import CheckpointError, ConfigError
from dromaius.models.vision_encoder_decoder import arrays
from dromaius.models.vision_encoder_decoder.arrays import layers
from dromaius.models.vision_encoder_decoder.arrays.decoders.bart import sinusoids
from dromaius.models.vision_encoder_decoder.arrays.encoders import relative

numpy = arrays.namespace("numpy")


def test_erf_is_exact_to_single_precision() -> None:
    x = np.linspace(-6, 6, 2001).astype(np.float32)
    found = numpy.erf(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [math.erf(v) for v in x.tolist()], atol=6e-7)


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"]
)
def test_activations_are_those_of_their_names(name: str) -> None:
    x = np.linspace(-6, 6, 501).astype(np.float32)
    expected = ACT2FN[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(layers.activation(numpy, name, x), expected, atol=2e-6)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ConfigError, match="'mish' is not one of gelu"):
        layers.activation(numpy, "mish", np.zeros(1))


def test_the_greatest_come_first_and_of_equals_the_first() -> None:
    x = np.array([[1.0, 5.0, 3.0, 5.0, -2.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    values, places = numpy.top_k(x, 3)
    np.testing.assert_array_equal(values, [[5, 5, 3], [1, 0, 0]])
    np.testing.assert_array_equal(places[0], [1, 3, 2])
    assert places[1, 0] == 2 and len(set(places[1].tolist())) == 3
    everything, order = numpy.top_k(x[:1], 5)
    np.testing.assert_array_equal(everything, np.sort(x[:1])[:, ::-1])
    np.testing.assert_array_equal(order, [[1, 3, 2, 0, 4]])


def test_patches_are_a_convolution() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 5, (4, 2), stride=(4, 2))
    pixels = torch.randn(2, 3, 9, 8)  # a row is left over
    weights = {name: value.detach().numpy() for name, value in convolution.named_parameters()}
    found = layers.patches(numpy, {"patch_size": [4, 2]}, layers.Weights(weights), pixels.numpy())
    with torch.no_grad():
        expected = convolution(pixels).flatten(2).mT.numpy()  # [2, 2 * 4, 5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_distances_within_a_window() -> None:
    rows = relative.within(2, 2)  # a table of 3 x 3, whose middle is "the same place"
    np.testing.assert_array_equal(rows, [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]])
    smaller = relative.within(2, 3)  # in a table of 5 x 5 the middle is 12
    np.testing.assert_array_equal(smaller[0], [12, 11, 7, 6])


def test_sinusoids_begin_with_known_values() -> None:
    table = sinusoids(4, 6, pad=1)
    assert table[1].tolist() == [0] * 6
    rates = [1.0, 1e-2, 1e-4]
    expected = [math.sin(3 * r) for r in rates] + [math.cos(3 * r) for r in rates]
    np.testing.assert_allclose(table[3], expected, atol=1e-6)


def test_a_tensor_that_is_missing_is_named_in_full() -> None:
    with pytest.raises(CheckpointError, match=r"no tensor encoder\.layer\.0\.weight"):
        _ = (layers.Weights({}, "encoder.") / "layer" / 0)["weight"]
