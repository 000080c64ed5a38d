"""One forward in three frameworks, against transformers' models in PyTorch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.models.vision_encoder_decoder import arrays
from tests.models.vision_encoder_decoder.arrays.conftest import (
    FAMILIES,
    PAD,
    START,
    VARIANTS,
    WORDS,
    Make,
    Pair,
)

numpy = arrays.namespace("numpy")


def _forward(framework: str, pair: Pair, *inputs: Any) -> np.ndarray:
    xp = arrays.namespace(framework)
    forward = functools.partial(arrays.forward, xp, pair.config)
    forward = {"jax": jax.jit, "tensorflow": tf.function}.get(framework, lambda f: f)(forward)
    return np.asarray(forward(arrays.place(xp, pair.params), *map(xp.asarray, inputs)))


@pytest.mark.parity
@pytest.mark.parametrize("framework", ["numpy", "jax", "tensorflow"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_transformers(make: Make, name: str, framework: str, ids: np.ndarray) -> None:
    pair = make(name)
    logits = _forward(framework, pair, pair.pixels, ids)
    np.testing.assert_allclose(logits, pair.logits(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("name", VARIANTS)
def test_configurations_change_what_they_say(make: Make, name: str, ids: np.ndarray) -> None:
    pair = make(name)
    ids[1, 2] = PAD  # RoBERTa and sinusoidal positions do not count it
    logits = _forward("numpy", pair, pair.pixels, ids)
    np.testing.assert_allclose(logits, pair.logits(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parity
def test_swin_reads_pictures_that_no_window_divides(make: Make) -> None:
    pair = make("swin-trocr")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 41, 54)).astype(np.float32)
    # read anew: transformers' Swin that once saw a small picture does not shift in a larger one
    model = transformers.VisionEncoderDecoderModel.from_pretrained(pair.folder).eval()
    with torch.no_grad():
        expected = model.encoder(torch.from_numpy(pixels))[0].numpy()
    hidden = arrays.encode(numpy, pair.config, pair.params, pixels)
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


@pytest.mark.parity
def test_masks_hide_text_and_image_tokens(make: Make, ids: np.ndarray) -> None:
    pair = make("vit-gpt2")
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
    shown = pair.logits(ids, decoder_attention_mask=torch.from_numpy(mask))
    logits = arrays.forward(numpy, pair.config, pair.params, pair.pixels, ids, mask)
    np.testing.assert_allclose(logits, shown, atol=1e-5)

    hidden = arrays.encode(numpy, pair.config, pair.params, pair.pixels)
    image_mask = np.ones(hidden.shape[:2], dtype=int)
    image_mask[:, 5:] = 0
    masked = arrays.decode(numpy, pair.config, pair.params, hidden, ids, None, image_mask)
    cut = arrays.decode(numpy, pair.config, pair.params, hidden[:, :5], ids)
    np.testing.assert_allclose(masked, cut, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_picture_counts_for_its_own_text_only(make: Make, name: str, ids: np.ndarray) -> None:
    pair = make(name)
    both = arrays.forward(numpy, pair.config, pair.params, pair.pixels, ids)
    for i in range(2):
        row = slice(i, i + 1)
        one = arrays.forward(numpy, pair.config, pair.params, pair.pixels[row], ids[row])
        np.testing.assert_allclose(both[row], one, atol=1e-5)
    swapped = arrays.forward(numpy, pair.config, pair.params, pair.pixels[::-1], ids)
    assert np.abs(swapped - both).max() > 0.01


@pytest.mark.parity
def test_new_models_are_read_by_transformers(make: Make, ids: np.ndarray, tmp_path: Path) -> None:
    pair = make("projected-untied-gpt2")
    params = arrays.new(pair.config, seed=3)
    assert {n: v.shape for n, v in params.items()} == {n: v.shape for n, v in pair.params.items()}
    assert abs(params["decoder.transformer.wte.weight"].std() - 0.02) < 0.002
    arrays.save(tmp_path, pair.config, params)
    model, report = transformers.VisionEncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] - {k for k in report["missing_keys"] if "pooler" in k}
    with torch.no_grad():
        expected = model.eval()(
            pixel_values=torch.from_numpy(pair.pixels), decoder_input_ids=torch.from_numpy(ids)
        ).logits
    logits = arrays.forward(numpy, pair.config, params, pair.pixels, ids)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    assert not np.array_equal(arrays.new(pair.config, 4)["enc_to_dec_proj.weight"], 0)


def test_trees_and_flat_names_are_the_same(make: Make) -> None:
    params = make("vit-gpt2").params
    nested = arrays.tree(params)
    assert (
        nested["decoder"]["transformer"]["h"]["0"]["ln_1"]["bias"]
        is (params["decoder.transformer.h.0.ln_1.bias"])
    )
    assert arrays.flat(nested) == params


def test_labels_are_shifted_and_the_ignored_read_as_padding() -> None:
    labels = np.array([[5, 6, -100], [-100, 7, 8]])
    ids = arrays.shift_right(numpy, labels, start=1, pad=0)
    np.testing.assert_array_equal(ids, [[1, 5, 6], [1, 0, 7]])


def test_what_does_not_fit_is_said(make: Make, ids: np.ndarray, tmp_path: Path) -> None:
    pair = make("vit-gpt2")
    encode = functools.partial(arrays.encode, numpy, pair.config)
    with pytest.raises(InputError, match="the pictures are 24 x 16, the encoder reads 16 x 24"):
        encode(pair.params, pair.pixels.swapaxes(2, 3))
    with pytest.raises(InputError, match=r"pixels must be \(batch, 3"):
        encode(pair.params, pair.pixels[:, :1])
    fewer = {k: v for k, v in pair.params.items() if not k.endswith("layer.1.output.dense.bias")}
    with pytest.raises(CheckpointError, match="no tensor encoder.encoder.layer.1.output.dense"):
        arrays.check(pair.config, fewer)
    with pytest.raises(CheckpointError, match=r"wte.weight has shape \(60, 32\).*\(61, 32\)"):
        other = pair.config | {"decoder": pair.config["decoder"] | {"vocab_size": WORDS + 1}}
        arrays.check(other, pair.params)
    with pytest.raises(ConfigError, match="a resnet encoder runs in PyTorch only"):
        arrays.tensors(pair.config | {"encoder": {"model_type": "resnet"}})
    with pytest.raises(CheckpointError, match="config.json"):
        arrays.load(tmp_path)
    with pytest.raises(ValueError, match="no namespace 'torch'"):
        arrays.namespace("torch")


def test_what_a_file_leaves_out_is_transformers_default() -> None:
    parts = transformers.ViTConfig(), transformers.TrOCRConfig()
    joined = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    short = {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "trocr"}}
    assert arrays.tensors(short) == arrays.tensors(joined.to_dict())
    named = {"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 4}
    names = arrays.tensors(short | {"decoder": named})
    assert names["decoder.transformer.wpe.weight"] == (1024, 32)
    assert arrays.Settings.of(short).start == START + 1  # TrOCR begins with its end token
