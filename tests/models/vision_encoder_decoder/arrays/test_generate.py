"""Greedy and beam search in three frameworks: the tokens of transformers' `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import dromaius
from dromaius.errors import ContextError, InputError
from dromaius.models.vision_encoder_decoder import arrays
from dromaius.models.vision_encoder_decoder.arrays import layers
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
BEAMS: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2}


def _ours(pair: Pair, framework: str = "numpy", **settings: Any) -> arrays.Generated:
    xp = arrays.namespace(framework)
    params = arrays.place(xp, pair.params)
    found = arrays.generate(xp, pair.config, params, pair.pixels, **settings)
    return arrays.Generated(np.asarray(found.sequences), np.asarray(found.scores))


def _transformers(pair: Pair, **settings: Any) -> Any:
    return pair.model.generate(
        torch.from_numpy(pair.pixels),
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )


def _check(pair: Pair, framework: str = "numpy", **settings: Any) -> np.ndarray:
    """Ours and transformers' are the same; returns the texts."""
    expected = _transformers(pair, **settings)
    given = settings.pop("decoder_input_ids", None)
    prompt = None if given is None else given.numpy()
    found = _ours(pair, framework, prompt=prompt, **settings)
    np.testing.assert_array_equal(found.sequences, expected.sequences.numpy())
    if settings.get("num_beams", 1) > 1:
        np.testing.assert_allclose(found.scores, expected.sequences_scores.numpy(), atol=1e-5)
    return found.sequences


def _ends(pair: Pair) -> list[int]:
    """Two tokens that a greedy text holds, so that some texts end early and some do not."""
    text = _transformers(pair, max_length=12, eos_token_id=None).sequences
    return [int(text[0, 4]), int(text[1, 7])]


@pytest.mark.parity
@pytest.mark.parametrize("settings", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_tokens_are_transformers(make: Make, name: str, settings: dict[str, Any]) -> None:
    pair = make(name)
    _check(pair, max_length=12, eos_token_id=_ends(pair), **settings)


@pytest.mark.parity
@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("vit-gpt2", {}), ("vit-gpt2", BEAMS), ("deit-bert", BEAMS), ("swin-trocr", {})],
    ids=["vit-gpt2-greedy", "vit-gpt2-beams", "deit-bert-beams", "swin-trocr-greedy"],
)
def test_tokens_are_the_same_in_every_framework(
    make: Make, name: str, framework: str, settings: dict[str, Any]
) -> None:
    pair = make(name)
    _check(pair, framework, max_length=10, eos_token_id=_ends(pair), **settings)


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings",
    [
        {"length_penalty": 2.0, "early_stopping": "never"},
        {"length_penalty": -1.0},
        {"early_stopping": True, "max_new_tokens": 15},
        {"length_penalty": 0.0, "early_stopping": "never", "num_return_sequences": 4},
        {"num_beams": 1, "forced_eos_token_id": 7},
        {"forced_eos_token_id": 7},
        {"pad_token_id": 9},
    ],
    ids=str,
)
def test_settings_do_what_transformers_do(make: Make, settings: dict[str, Any]) -> None:
    pair = make("vit-gpt2")
    settings = {"num_beams": 4, "eos_token_id": _ends(pair)} | settings
    if "max_new_tokens" not in settings:
        settings["max_length"] = 14
    _check(pair, **settings)


@pytest.mark.parity
def test_texts_go_on_from_prompts(make: Make) -> None:
    pair = make("vit-gpt2")
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    text = _check(pair, decoder_input_ids=prompt, max_length=12, eos_token_id=None)
    assert text[0, :4].tolist() == [START, 5, 6, 7]
    begun = torch.cat([torch.full((2, 1), START), prompt], dim=1)
    again = _check(pair, decoder_input_ids=begun, max_length=12, eos_token_id=None, num_beams=2)
    assert again[0, :4].tolist() == [START, 5, 6, 7]
    donut = make("donut")  # its prompts are task tokens: nothing comes before them
    text = _check(donut, decoder_input_ids=prompt, max_length=12, eos_token_id=None)
    assert text[0, :3].tolist() == [5, 6, 7]


@pytest.mark.parametrize("name", ["vit-gpt2", "deit-bert", "swin-mbart", "sinusoidal-trocr"])
def test_the_cache_changes_nothing(make: Make, name: str) -> None:
    pair = make(name)
    text = np.full((2, 1), START)
    total = np.zeros(2)
    for _ in range(8):  # no cache: the whole text is read each time
        logits = arrays.forward(numpy, pair.config, pair.params, pair.pixels, text)[:, -1]
        total += numpy.log_softmax(logits).max(axis=-1)
        text = np.concatenate([text, logits.argmax(axis=-1)[:, None]], axis=1)
    found = _ours(pair, max_new_tokens=8, eos_token_id=WORDS + 1)
    np.testing.assert_array_equal(found.sequences[:, :-1], text[:, :-1])
    if name != "swin-mbart":  # whose last token is forced
        np.testing.assert_array_equal(found.sequences, text)
        np.testing.assert_allclose(found.scores, total / 8, atol=1e-5)


def test_each_picture_has_its_own_text(make: Make) -> None:
    pair = make("vit-gpt2")
    settings: dict[str, Any] = {"num_beams": 3, "max_length": 10, "eos_token_id": 99}
    both = _ours(pair, **settings)
    for i in range(2):
        pixels = pair.pixels[i : i + 1]
        one = arrays.generate(numpy, pair.config, pair.params, pixels, **settings)
        np.testing.assert_array_equal(both.sequences[i : i + 1], one.sequences)
    assert not np.array_equal(both.sequences[0], both.sequences[1])


def test_hidden_states_stand_for_pictures_and_padding_is_not_read(make: Make) -> None:
    pair = make("vit-gpt2")
    hidden = arrays.encode(numpy, pair.config, pair.params, pair.pixels)
    padded = np.concatenate([hidden, np.full_like(hidden[:, :3], 9.0)], axis=1)
    mask = np.array([[1] * hidden.shape[1] + [0] * 3] * 2)
    found = arrays.generate(
        numpy, pair.config, pair.params, hidden=padded, hidden_mask=mask, max_length=10
    )
    np.testing.assert_array_equal(found.sequences, _ours(pair, max_length=10).sequences)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["nano-reader", "nano-captioner"])
def test_the_models_of_this_package_run_without_pytorch(name: str) -> None:
    folder = Path(dromaius.__file__).parent / "assets" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    config, params = arrays.load(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    height, width = layers.pair(config["encoder"]["image_size"])
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, height, width)).astype(np.float32)
    pixels[1, :, height // 3 : height // 2] = -1.0
    expected = transformers.VisionEncoderDecoderModel.from_pretrained(folder).generate(
        torch.from_numpy(pixels)
    )
    found = arrays.generate(numpy, config, params, pixels, generation=generation)
    np.testing.assert_array_equal(found.sequences, expected.numpy())


def test_where_settings_come_from(make: Make) -> None:
    config = make("vit-gpt2").config
    of = arrays.Settings.of
    assert of(config) == arrays.Settings(start=START, pad=PAD, eos=(2,), max_length=21)
    stored = {"eos_token_id": [3, 4], "max_length": 9, "num_beams": 4, "length_penalty": 0.5}
    read = of(config, stored, num_beams=2)
    assert (read.eos, read.max_length, read.num_beams, read.length_penalty) == ((3, 4), 9, 2, 0.5)
    assert of(config, stored, max_new_tokens=5).max_length == 6
    assert of(config, max_length=1000).max_length == 24, "the decoder's positions bound it"
    assert of(make("swin-mbart").config).forced_eos == (2,)


def test_settings_that_cannot_be(make: Make) -> None:
    pair = make("vit-gpt2")
    for name, value in {"do_sample": True, "no_repeat_ngram_size": 2}.items():
        with pytest.raises(InputError, match=f"{name}={value} is for PyTorch only"):
            _ours(pair, **{name: value})
    with pytest.raises(InputError, match="no setting 'beams'"):
        _ours(pair, beams=2)
    with pytest.raises(InputError, match="num_return_sequences is 3, num_beams 2"):
        _ours(pair, num_beams=2, num_return_sequences=3)
    with pytest.raises(InputError, match="either pixels or hidden"):
        arrays.generate(numpy, pair.config, pair.params)
    with pytest.raises(ContextError, match="30 tokens leaves no room in 24"):
        _ours(pair, prompt=np.full((2, 30), START))
    idle = {k: v for k, v in pair.config.items() if not k.endswith("_token_id")}
    idle["decoder"] = idle["decoder"] | {"bos_token_id": None}
    with pytest.raises(ValueError, match="set decoder_start_token_id"):
        arrays.generate(numpy, idle, pair.params, pair.pixels)
