"""Around the forward: parameters, other ways to load and save, one-line errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from dromaius.compat.vision_encoder_decoder import (
    AutoImageProcessor,
    AutoTokenizer,
    FlaxVisionEncoderDecoderModel,
    TFVisionEncoderDecoderModel,
    VisionEncoderDecoderModel,
)
from dromaius.errors import CheckpointError, ConfigError, ContextError, InputError
from tests.compat.vision_encoder_decoder import pairs, small

CLASSES: list[Any] = [FlaxVisionEncoderDecoderModel, TFVisionEncoderDecoderModel]
both = pytest.mark.parametrize("cls", CLASSES)
PIXELS = pairs.pixels("vit").numpy()
IDS = np.array([[1, 5, 6], [1, 7, 8]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT and GPT2, as PyTorch saves them."""
    folder = tmp_path_factory.mktemp("saved")
    pairs.model("vit", "gpt2").save_pretrained(folder)
    return folder


def logits(model: Any) -> np.ndarray:
    return np.asarray(model(PIXELS, decoder_input_ids=IDS).logits)


def texts_of(generated: Any) -> np.ndarray:
    return np.asarray(getattr(generated, "sequences", generated))


def bare(saved: Path, folder: Path) -> Path:
    """A folder with the configuration alone."""
    folder.mkdir(exist_ok=True)
    shutil.copy(saved / "config.json", folder)
    return folder


# ------------------------------------------------------------------------------- parameters


def test_flax_parameters_are_a_tree_of_flax(saved: Path) -> None:
    model = FlaxVisionEncoderDecoderModel.from_pretrained(saved)
    assert set(model.params) == {"encoder", "decoder"}
    kernel = model.params["encoder"]["embeddings"]["patch_embeddings"]["projection"]["kernel"]
    assert kernel.shape == (8, 8, 3, 32)  # [kh, kw, in, out]
    before = logits(model)
    model.params["decoder"]["transformer"]["ln_f"]["bias"] += 1.0  # seen though it is in place
    assert np.abs(logits(model) - before).max() > 1e-3
    with pytest.raises(CheckpointError, match="holds no tensor"):
        model.params = {"encoder": model.params["encoder"]}


def test_flax_without_parameters_of_its_own(saved: Path) -> None:
    model, params = FlaxVisionEncoderDecoderModel.from_pretrained(saved, _do_init=False)
    with pytest.raises(ValueError, match="_do_init"):
        model(PIXELS, IDS)
    expected = logits(FlaxVisionEncoderDecoderModel.from_pretrained(saved))
    np.testing.assert_array_equal(model(PIXELS, IDS, params=params).logits, expected)
    text = model.generate(PIXELS, params=params, max_length=5).sequences
    assert text.shape == (2, 5)
    new = model.init_weights(jax.random.PRNGKey(1))
    assert jax.tree_util.tree_structure(new) == jax.tree_util.tree_structure(params)


def test_flax_halves(saved: Path, tmp_path: Path) -> None:
    model = FlaxVisionEncoderDecoderModel.from_pretrained(saved)
    half = model.to_bf16(model.params)
    assert {leaf.dtype for leaf in jax.tree_util.tree_leaves(half)} == {jnp.bfloat16.dtype}
    near, exact = np.asarray(model(PIXELS, IDS, params=half).logits), logits(model)
    assert 0 < np.abs(near - exact).mean() < 0.1 * exact.std()
    model.save_pretrained(tmp_path, params=half)
    again = FlaxVisionEncoderDecoderModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(logits(again), near, atol=1e-5)
    assert jax.tree_util.tree_leaves(model.to_fp32(half))[0].dtype == np.float32
    with pytest.raises(ConfigError, match="to_bf16"):
        FlaxVisionEncoderDecoderModel(model.config, dtype=jnp.bfloat16)


def test_tensorflow_variables(saved: Path) -> None:
    model = TFVisionEncoderDecoderModel.from_pretrained(saved)
    assert model.get_input_embeddings().shape == (32, 3, 8, 8)
    assert model.get_output_embeddings().shape == (pairs.VOCABULARY, 32)
    names = {variable.name for variable in model.trainable_variables}
    assert "encoder/vit/embeddings/cls_token:0" in names
    before = float(model(PIXELS, labels=IDS).loss[0])
    for _ in range(5):  # as one trains without Keras
        with tf.GradientTape() as tape:
            loss = model(PIXELS, labels=IDS, training=True).loss
        variables = model.trainable_variables
        for variable, grad in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.01 * tf.convert_to_tensor(grad))
    assert float(model(PIXELS, labels=IDS).loss[0]) < before


@both
def test_the_same_seed_makes_the_same_model(cls: Any, saved: Path) -> None:
    config = pairs.configuration("vit", "bert")
    first, second, other = cls(config), cls(config), cls(config, seed=1)
    np.testing.assert_array_equal(logits(first), logits(second))
    assert np.abs(logits(first) - logits(other)).max() > 1e-3


# ---------------------------------------------------------------------------------- outputs


@both
def test_outputs_by_name_and_position(cls: Any, saved: Path) -> None:
    model = cls.from_pretrained(saved)
    out = model(PIXELS, decoder_input_ids=IDS, output_hidden_states=True)
    assert out.logits is out["logits"] is out[0]
    assert "loss" not in out and out.loss is None and "decoder_attentions" not in out
    assert len(out["encoder_hidden_states"]) == 3
    as_tuple = model(PIXELS, decoder_input_ids=IDS, return_dict=False)
    np.testing.assert_array_equal(as_tuple[0], out.logits)


@both
def test_an_encoders_output_goes_in_again(cls: Any, saved: Path) -> None:
    model = cls.from_pretrained(saved)
    hidden = model(PIXELS, decoder_input_ids=IDS).encoder_last_hidden_state
    mask = np.ones((2, hidden.shape[1]), np.int32)
    mask[1, 2:] = 0
    masked = {"encoder_outputs": (hidden,), "encoder_attention_mask": mask}
    texts = texts_of(model.generate(**masked, max_length=6, num_beams=2))
    theirs = VisionEncoderDecoderModel.from_pretrained(saved).generate(
        torch.from_numpy(PIXELS),
        encoder_attention_mask=torch.from_numpy(mask),
        max_length=6,
        num_beams=2,
    )
    np.testing.assert_array_equal(texts[:, : theirs.shape[1]], theirs.numpy())


@both
def test_ids_assigned_later_count(cls: Any, saved: Path) -> None:
    model = cls.from_pretrained(saved)
    model.config.decoder_start_token_id = 9
    assert texts_of(model.generate(PIXELS, max_length=4))[:, 0].tolist() == [9, 9]


# --------------------------------------------------------------------------- parts and files


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    folders = {name: root / name for name in ("bert", "vit")}
    small.bert(folders["bert"])
    small.vit(folders["vit"])
    return folders


@both
def test_parts_keep_their_tensors_and_get_cross_attention(cls: Any, hub: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hub["bert"])
    model = cls.from_encoder_decoder_pretrained(hub["vit"], hub["bert"], tokenizer=tokenizer)
    assert model.start_and_pad() == (tokenizer.cls_token_id, tokenizer.pad_token_id)
    processor = AutoImageProcessor.from_pretrained(hub["vit"])
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    pixels = processor(picture, return_tensors="tf" if "TF" in cls.__name__ else "jax").pixel_values
    encoder = transformers.ViTModel.from_pretrained(hub["vit"]).eval()
    with torch.no_grad():
        expected = encoder(torch.from_numpy(np.array(pixels))).last_hidden_state
    out = model(pixels, decoder_input_ids=IDS[:1])
    np.testing.assert_allclose(out.encoder_last_hidden_state, expected.numpy(), atol=1e-5)


@both
def test_own_files_come_first_and_others_when_asked_for(
    cls: Any, saved: Path, tmp_path: Path
) -> None:
    folder = bare(saved, tmp_path / "mixed")
    shutil.copy(saved / "model.safetensors", folder)
    model = cls(pairs.configuration("vit", "gpt2"), seed=5)
    with pytest.warns(UserWarning, match="also holds weights of pt"):
        model.save_pretrained(folder)
    np.testing.assert_array_equal(logits(cls.from_pretrained(folder)), logits(model))
    expected = logits(cls.from_pretrained(saved))
    np.testing.assert_array_equal(logits(cls.from_pretrained(folder, from_pt=True)), expected)
    torch_logits = VisionEncoderDecoderModel.from_pretrained(folder)(
        torch.from_numpy(PIXELS), decoder_input_ids=torch.from_numpy(IDS)
    ).logits
    np.testing.assert_allclose(torch_logits.detach().numpy(), expected, atol=1e-5)
    with pytest.raises(CheckpointError, match="holds no tf weights, but those of pt"):
        cls.from_pretrained(saved, from_tf=True)


Make = Callable[[Any, Path, Path], Any]


def _convnext(cls: Any, saved: Path, folder: Path) -> Any:
    return cls(pairs.configuration("convnext", "gpt2"))


def _no_weights(cls: Any, saved: Path, folder: Path) -> Any:
    return cls.from_pretrained(bare(saved, folder))


def _pickle(cls: Any, saved: Path, folder: Path) -> Any:
    torch.save({}, bare(saved, folder) / "pytorch_model.bin")
    return cls.from_pretrained(folder)


def _other_shape(cls: Any, saved: Path, folder: Path) -> Any:
    shutil.copy(saved / "model.safetensors", bare(saved, folder))
    content = json.loads((folder / "config.json").read_text())
    content["decoder"]["vocab_size"] += 1
    (folder / "config.json").write_text(json.dumps(content))
    return cls.from_pretrained(folder)


def _missing(cls: Any, saved: Path, folder: Path) -> Any:
    from safetensors.numpy import load_file, save_file

    state = load_file(saved / "model.safetensors")
    del state["decoder.transformer.wte.weight"]
    save_file(state, bare(saved, folder) / "model.safetensors")
    return cls.from_pretrained(folder)


def _index(cls: Any, saved: Path, folder: Path) -> Any:
    return cls.from_encoder_decoder_pretrained(folder / "model.ckpt.index", saved)


def _vit_as_decoder(cls: Any, saved: Path, folder: Path) -> Any:
    transformers.ViTModel(small.ViTConfig()).save_pretrained(folder)
    return cls.from_encoder_decoder_pretrained(folder, folder)


def _no_path(cls: Any, saved: Path, folder: Path) -> Any:
    return cls.from_encoder_decoder_pretrained(saved)


@both
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (_convnext, ConfigError, "a convnext encoder runs in PyTorch only"),
        (_no_weights, CheckpointError, "holds no weights"),
        (_pickle, CheckpointError, r"needs PyTorch; write it once as model\.safetensors"),
        (_other_shape, CheckpointError, r"wte\.weight has shape \(60, 32\)"),
        (_missing, CheckpointError, r"would be random: decoder\.transformer\.wte\.weight"),
        (_index, CheckpointError, r"TensorFlow 1 checkpoint.*tf_model\.h5"),
        (_vit_as_decoder, ConfigError, "vit cannot be the decoder"),
        (_no_path, (ValueError, CheckpointError), "encoder|decoder_pretrained"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_loading_errors(
    cls: Any, make: Make, error: Any, words: str, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as caught:
        make(cls, saved, tmp_path / "folder")
    assert "\n" not in str(caught.value)


@both
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m(PIXELS, decoder_input_ids=IDS + 90), InputError, "vocabulary has 60"),
        (lambda m: m(PIXELS[:, :1], decoder_input_ids=IDS), InputError, "pixels must be"),
        (lambda m: m(PIXELS), ValueError, "decoder_input"),
        (lambda m: m.generate(PIXELS, do_sample=True), InputError, "for PyTorch only"),
        (lambda m: m.generate(PIXELS, num_bees=2), InputError, "num_bees"),
        (lambda m: m.generate(), InputError, "either pixels or"),
        (
            lambda m: m.generate(PIXELS, decoder_input_ids=np.ones((2, 24), int)),
            ContextError,
            "no room",
        ),
    ],
    ids=["id", "grayscale", "no-ids", "sampling", "unknown", "no-image", "long-prompt"],
)
def test_calling_errors(cls: Any, call: Any, error: Any, words: str, saved: Path) -> None:
    with pytest.raises(error, match=words):
        call(cls.from_pretrained(saved))


def test_tensorflow_errors_name_the_route(saved: Path, tmp_path: Path) -> None:
    model = TFVisionEncoderDecoderModel.from_pretrained(saved)
    for name in ("fit", "compile"):
        with pytest.raises(NotImplementedError, match="GradientTape"):
            getattr(model, name)()
    with pytest.raises(NotImplementedError, match="from_pt=True"):
        model.resize_token_embeddings(70)
    with pytest.raises(TypeError, match="from_encoder_decoder_pretrained"):
        TFVisionEncoderDecoderModel(encoder=object(), decoder=object())
    with pytest.raises(TypeError, match="pixels"):
        model(PIXELS, IDS, pixels=1)
    with pytest.raises(InputError, match=r"tf\.saved_model\.save"):
        model.save_pretrained(tmp_path, saved_model=True)
