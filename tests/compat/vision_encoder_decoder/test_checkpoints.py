"""Files: the lasting names, three frameworks, parts, and what must not load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dromaius.compat.vision_encoder_decoder import (
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from dromaius.errors import CheckpointError
from tests.compat.vision_encoder_decoder.pairs import (
    DECODERS,
    ENCODERS,
    labels,
    model,
    pixels,
)

LAYER = "encoder.encoder.layer.0"
BLOCK = "decoder.transformer.h.0"
LASTING_NAMES = {
    "encoder.embeddings.cls_token",
    "encoder.embeddings.position_embeddings",
    "encoder.embeddings.patch_embeddings.projection.weight",
    f"{LAYER}.attention.attention.query.weight",
    f"{LAYER}.attention.output.dense.bias",
    f"{LAYER}.intermediate.dense.weight",
    f"{LAYER}.output.dense.weight",
    f"{LAYER}.layernorm_before.weight",
    "encoder.layernorm.weight",
    "decoder.transformer.wte.weight",
    f"{BLOCK}.ln_cross_attn.weight",
    f"{BLOCK}.crossattention.q_attn.weight",
    f"{BLOCK}.attn.c_attn.weight",
    f"{BLOCK}.mlp.c_fc.weight",
    "enc_to_dec_proj.weight",
}


def projected() -> VisionEncoderDecoderModel:
    """ViT and a wider GPT2, so that there is a projection."""
    decoder = DECODERS["gpt2"]()
    decoder.n_embd, decoder.initializer_range = 48, 0.3
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    config = VisionEncoderDecoderConfig(encoder=ENCODERS["vit"](), decoder=decoder, **ids)
    return VisionEncoderDecoderModel(config=config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    projected().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(saved: Path) -> Tensor:
    with torch.no_grad():
        return projected()(pixels("vit"), labels=labels()).logits


def logits(folder: Path, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        subject = VisionEncoderDecoderModel.from_pretrained(folder, **kwargs)
        return subject(pixels("vit"), labels=labels()).logits


def with_config(saved: Path, folder: Path) -> Path:
    shutil.copy(saved / "config.json", folder)
    return folder


def test_names_on_disk_are_those_of_transformers_4(saved: Path, expected: Tensor) -> None:
    with safe_open(saved / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert LASTING_NAMES <= names
    assert not [name for name in names if "lm_head" in name or "pooler" in name]
    torch.testing.assert_close(logits(saved), expected)


def test_poolers_and_old_masks_in_a_file_are_tolerated(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    state["encoder.pooler.dense.weight"] = torch.ones(32, 32)
    state[f"{BLOCK}.attn.bias"] = torch.ones(1, 1, 24, 24)
    state[f"{BLOCK}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, with_config(saved, tmp_path) / "model.safetensors")
    _, info = VisionEncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_bin_and_shards(saved: Path, expected: Tensor, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    torch.save(state, with_config(saved, tmp_path) / "pytorch_model.bin")
    torch.testing.assert_close(logits(tmp_path), expected)
    sharded = tmp_path / "sharded"
    projected().save_pretrained(sharded, max_shard_size="100KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    torch.testing.assert_close(logits(sharded), expected)


def flax_tree(state: dict[str, Tensor], msgpack: Any) -> dict[str, Any]:
    """The tree that transformers 4's Flax class writes (spec section 3.3), by hand."""
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        value = tensor.numpy()
        *scopes, leaf = name.split(".")
        norm = scopes[-1].startswith(("ln_", "layernorm"))
        if leaf == "weight" and scopes[-1] in ("wte", "wpe"):
            leaf = "embedding"
        elif leaf == "weight" and norm:
            leaf = "scale"
        elif leaf == "weight":
            leaf = "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        branch = tree
        for scope in scopes:
            branch = branch.setdefault(scope, {})
        packed = (value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes())
        branch[leaf] = msgpack.ExtType(1, msgpack.packb(packed, use_bin_type=True))
    return tree


def test_flax_file(saved: Path, expected: Tensor, tmp_path: Path) -> None:
    msgpack = pytest.importorskip("msgpack")
    tree = flax_tree(load_file(saved / "model.safetensors"), msgpack)
    content = msgpack.packb(tree, use_bin_type=True)
    (with_config(saved, tmp_path) / "flax_model.msgpack").write_bytes(content)
    torch.testing.assert_close(logits(tmp_path), expected)
    torch.testing.assert_close(logits(tmp_path, from_flax=True), expected)


def tf_variables(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Names and layouts of transformers 4's TensorFlow class (spec section 3.3), by hand."""
    variables = {}
    for name, tensor in state.items():
        value = tensor.numpy()
        *scopes, leaf = name.split(".")
        conv1d = scopes[-1] in ("c_attn", "c_proj", "c_fc", "q_attn")
        if scopes[-1].startswith(("ln_", "layernorm")):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        elif scopes[-1] in ("wte", "wpe"):
            leaf = "embeddings"
        elif conv1d and leaf == "bias":
            value = value.reshape(1, -1)
        elif leaf == "weight" and not conv1d:
            leaf = "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        if scopes[0] == "encoder":
            scopes.insert(1, "vit")
        path = "/".join([*scopes, leaf])
        for parent in ("layer", "h"):
            for index in range(4):
                path = path.replace(f"/{parent}/{index}/", f"/{parent}_._{index}/")
        variables[f"{path}:0"] = np.ascontiguousarray(value)
    return variables


def test_tensorflow_files(saved: Path, expected: Tensor, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from safetensors.numpy import save_file as save_arrays

    variables = tf_variables(load_file(saved / "model.safetensors"))
    with h5py.File(with_config(saved, tmp_path) / "tf_model.h5", "w") as file:
        for path, value in variables.items():
            group = path.split("/")[0]
            file[f"{group}/tf_vision_encoder_decoder_model/{path}"] = value
    torch.testing.assert_close(logits(tmp_path), expected)
    torch.testing.assert_close(logits(tmp_path, from_tf=True), expected)
    written = tmp_path / "safetensors"
    written.mkdir()
    save_arrays(
        variables, with_config(saved, written) / "model.safetensors", metadata={"format": "tf"}
    )
    torch.testing.assert_close(logits(written), expected)  # transformers: 84 random tensors


def test_missing_tensors_are_an_error(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    del state["enc_to_dec_proj.weight"], state[f"{BLOCK}.crossattention.q_attn.weight"]
    save_file(state, with_config(saved, tmp_path) / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert "2 tensors are missing and would be random" in str(caught.value)
    assert "crossattention.q_attn.weight, enc_to_dec_proj.weight" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_names_and_shapes_are_an_error(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    renamed = {f"module.{name}": tensor for name, tensor in state.items()}
    save_file(renamed, with_config(saved, tmp_path) / "model.safetensors")
    with pytest.raises(CheckpointError, match="are missing and would be random.*it holds module"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    state["enc_to_dec_proj.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"enc_to_dec_proj.bias is \(5,\) and should be \(48"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)


def test_folders_without_a_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read .*config.json"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="holds a bert model, not a vision-encoder-decoder"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="config.json is not a model's configuration"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    with_config(saved, tmp_path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points outside of its folder"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)


def test_dtype_and_settings_at_loading(saved: Path) -> None:
    subject = VisionEncoderDecoderModel.from_pretrained(
        saved,
        dtype=torch.bfloat16,
        attn_implementation="eager",
        pad_token_id=4,
        encoder={"hidden_dropout_prob": 0.5},
    )
    assert subject.config.encoder.hidden_dropout_prob == 0.5
    assert subject.generation_config.pad_token_id == 4
    assert {p.dtype for p in subject.parameters()} == {torch.bfloat16}
    assert subject.config.decoder._attn_implementation == "eager"
    assert subject.config.pad_token_id == 4
    assert subject.name_or_path == str(saved)


def test_sinusoidal_positions_of_trocr_after_loading(tmp_path: Path) -> None:
    ours = model("vit", "trocr-sinusoidal")
    ours.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = ours(pixels("vit"), labels=labels()).logits
        torch.testing.assert_close(logits(tmp_path), expected)
    half = VisionEncoderDecoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    table = half.decoder.model.decoder.embed_positions.weights
    assert table.dtype == torch.bfloat16 and not table.is_meta
    moved = half.to(torch.float64).decoder.model.decoder.embed_positions.weights
    assert moved.dtype == torch.float64  # it follows the model, to a GPU too


# -------------------------------------------------------------------------------------- parts


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(3)
    transformers.ViTModel(ENCODERS["vit"]()).save_pretrained(folder)  # with a pooler
    return folder


PLAIN = {
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertForMaskedLM",
    "trocr": "TrOCRForCausalLM",
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "pegasus": "PegasusForConditionalGeneration",
    "blenderbot-small": "BlenderbotSmallForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "xglm": "XGLMForCausalLM",
}


@pytest.mark.parametrize("decoder", PLAIN)
def test_pretrained_parts(decoder: str, encoder_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    plain = getattr(transformers, PLAIN[decoder])(DECODERS[decoder]()).eval()
    plain.save_pretrained(tmp_path)
    ours = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder_folder, tmp_path, decoder_start_token_id=1, pad_token_id=0
    )
    assert not any(module.training for module in ours.modules())
    assert ours.config.decoder.is_decoder and ours.config.decoder.add_cross_attention
    assert not hasattr(ours.encoder, "pooler") or ours.encoder.pooler is None
    own = plain.get_input_embeddings().weight
    assert torch.equal(ours.get_input_embeddings().weight, own)
    if decoder in ("marian", "pegasus"):  # sines, which are not in the file
        own = plain.model.decoder.embed_positions.weight
        assert torch.equal(ours.decoder.model.decoder.embed_positions.weight, own)
    stored = load_file(encoder_folder / "model.safetensors")
    assert torch.equal(ours.encoder.layernorm.weight, stored["layernorm.weight"])
    assert ours(pixels("vit"), labels=labels()).loss.isfinite()
    assert ours.generate(pixels("vit"), max_new_tokens=3)[0, 0] == 1


def test_arguments_of_the_parts(encoder_folder: Path, tmp_path: Path) -> None:
    transformers.GPT2LMHeadModel(DECODERS["gpt2"]()).save_pretrained(tmp_path)
    ours = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder_folder,
        tmp_path,
        encoder_hidden_dropout_prob=0.25,
        decoder_attn_implementation="eager",
        encoder_dtype=torch.bfloat16,
        max_length=7,
    )
    assert ours.config.encoder.hidden_dropout_prob == 0.25
    assert ours.config.decoder._attn_implementation == "eager"
    assert ours.config.encoder._attn_implementation == "sdpa"
    assert ours.encoder.dtype == torch.bfloat16 and ours.decoder.dtype == torch.float32
    assert ours.generation_config.max_length == 7
    with pytest.raises(ValueError, match="give decoder_pretrained_model_name_or_path or decoder_"):
        VisionEncoderDecoderModel.from_encoder_decoder_pretrained(encoder_folder)


def test_parts_saved_and_joined_again(tmp_path: Path) -> None:
    ours = model("vit", "gpt2")
    ours.encoder.save_pretrained(tmp_path / "encoder")
    ours.decoder.save_pretrained(tmp_path / "decoder")
    again = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", decoder_start_token_id=1, pad_token_id=0
    )
    with torch.no_grad():
        torch.testing.assert_close(
            again(pixels("vit"), labels=labels()).logits,
            ours(pixels("vit"), labels=labels()).logits,
        )


def test_a_part_that_lacks_more_than_cross_attention(encoder_folder: Path, tmp_path: Path) -> None:
    transformers.GPT2LMHeadModel(DECODERS["gpt2"]()).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["transformer.h.1.ln_1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 tensors are missing .*: transformer.h.1.ln_1.w"):
        VisionEncoderDecoderModel.from_encoder_decoder_pretrained(encoder_folder, tmp_path)


def test_the_vision_half_of_a_two_tower_model(tmp_path: Path) -> None:
    vision = ENCODERS["clip"]().to_dict()
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    whole = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text))
    whole.save_pretrained(tmp_path / "clip")
    transformers.GPT2LMHeadModel(DECODERS["gpt2"]()).save_pretrained(tmp_path / "gpt2")
    ours = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "clip", tmp_path / "gpt2"
    )
    assert ours.config.encoder.model_type == "clip_vision_model"
    with torch.no_grad():
        expected = whole.vision_model(pixels("vit")).last_hidden_state
        torch.testing.assert_close(ours.encode_images(pixels("vit")).last_hidden_state, expected)
