"""dromaius.load: the layouts give one and the same model, and what cannot be loaded is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dromaius
from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.pipelines.emu3 import Emu3
from tests.pipelines.small import CODES, EOS, VOCABULARY, Folders, Reference, write_json


@pytest.fixture(scope="session")
def own_layout(model: Emu3, folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own layout, written here by hand: one file with both prefixes."""
    folder = tmp_path_factory.mktemp("own") / "model"
    folder.mkdir()
    write_json(folder / "config.json", model.config.to_json())
    tensors: dict[str, Tensor] = {}
    for prefix in ("language_model", "vision_tokenizer"):
        state = getattr(model, prefix).state_dict()
        tensors |= {f"{prefix}.{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders.hf / name, folder)
    return folder


def copy_of(folder: Path, destination: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other values in its config.json."""
    shutil.copytree(folder, destination)
    config = json.loads((destination / "config.json").read_text())
    write_json(destination / "config.json", config | changes)
    return destination


# ------------------------------------------------------------------------------------------ layouts


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["hf", "baai", "own"])
def test_every_layout_computes_what_transformers_does(
    layout: str, folders: Folders, own_layout: Path, reference: Reference
) -> None:
    loaded = {
        "hf": lambda: dromaius.load(folders.hf),
        "baai": lambda: dromaius.load(folders.language, vision_tokenizer=folders.vision),
        "own": lambda: dromaius.load(own_layout),
    }[layout]()
    assert loaded.layout == {"own": "dromaius"}.get(layout, layout)
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, VOCABULARY, (2, 12), generator=generator)
    pixels = torch.rand(2, 3, 40, 48, generator=generator) * 2 - 1
    codes = torch.randint(0, CODES, (2, 5, 6), generator=generator)
    theirs = reference.model
    with torch.no_grad():
        logits = theirs(ids).logits
        sizes = torch.tensor([[40, 48]] * 2)
        encoded = torch.stack(list(theirs.model.vqmodel.encode(pixels, sizes).image_tokens))
        decoded = theirs.model.vqmodel.decode(codes)
        torch.testing.assert_close(loaded.language_model(ids), logits, rtol=0, atol=1e-4)
        assert loaded.vision_tokenizer.encode(pixels).equal(encoded)
        ours = loaded.vision_tokenizer.decode(codes)
    torch.testing.assert_close(ours, decoded, rtol=0, atol=1e-3)
    assert not loaded.language_model.training
    words = "the red house"
    assert loaded.tokenizer.encode(words) == reference.processor.tokenizer(words)["input_ids"]
    assert loaded.vocabulary.visual_stop == VOCABULARY and loaded.vocabulary.eos == EOS


def test_path_and_text_name_the_same_folder(folders: Folders) -> None:
    by_path = dromaius.load(folders.language, vision_tokenizer=str(folders.vision))
    by_text = dromaius.load(str(folders.language), vision_tokenizer=folders.vision)
    assert by_path.hash == by_text.hash and by_path.name == by_text.name == "Emu3-Gen"


def test_settings_come_from_both_folders(baai_model: Emu3) -> None:
    """The area from the language model's folder, the pixel bounds from the vision tokenizer's."""
    image = baai_model.config.image
    assert (image.image_area, image.min_pixels, image.max_pixels) == (1600, 1024, 4096)


def test_the_hash_tells_weights_apart(model: Emu3, baai_model: Emu3, own_layout: Path) -> None:
    assert len({model.hash, baai_model.hash, dromaius.load(own_layout).hash}) == 3
    assert model.hash == dromaius.load(model.folders[0]).hash


def test_repr_is_short(model: Emu3) -> None:
    assert "Conv2d" not in repr(model) and "Linear" not in repr(model)


# ----------------------------------------------------------------------------------- dtype, device


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtype_is_the_language_models(folders: Folders, dtype: Any) -> None:
    loaded = dromaius.load(folders.hf, dtype=dtype)
    assert {p.dtype for p in loaded.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vision_tokenizer.parameters()} == {torch.float32}
    assert loaded.dtype == torch.bfloat16
    picture = loaded.generate_image("a cat", height=24, width=32, seed=1)
    assert picture.size == (32, 24)
    assert isinstance(loaded.answer(picture, "what?", max_new_tokens=3), str)


def test_float32_on_a_cpu_by_default(model: Emu3) -> None:
    if not torch.cuda.is_available():
        assert model.dtype == torch.float32 and model.device.type == "cpu"
    assert model.vision_tokenizer.encode(torch.zeros(1, 3, 24, 24)).dtype == torch.int64


@pytest.mark.parametrize("dtype", ["float3", "int64", "nn", 5, "Tensor"])
def test_dtypes_that_do_not_exist(folders: Folders, dtype: Any) -> None:
    with pytest.raises(InputError, match="is not a floating-point type"):
        dromaius.load(folders.hf, dtype=dtype)


def test_devices_that_do_not_exist(folders: Folders) -> None:
    with pytest.raises(InputError, match="device 'quantum'") as error:
        dromaius.load(folders.hf, device="quantum")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------- what cannot be loaded


def test_missing_folders(tmp_path: Path, folders: Folders) -> None:
    for source in (tmp_path / "nothing", str(tmp_path / "nothing")):
        with pytest.raises(CheckpointError, match="nothing"):
            dromaius.load(source)
    with pytest.raises(CheckpointError, match="nothing"):
        dromaius.load(folders.language, vision_tokenizer=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty/config.json is missing"):
        dromaius.load(tmp_path / "empty")


def test_unknown_family_and_its_code_is_not_run(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llava", "auto_map": {"AutoModel": "m.M"}})
    (tmp_path / "m.py").write_text("raise SystemExit('executed')")
    with pytest.raises(CheckpointError, match="'llava' is not supported.*never run"):
        dromaius.load(tmp_path)


def test_auto_map_of_a_known_family_is_not_run(folders: Folders, tmp_path: Path) -> None:
    copied = copy_of(folders.language, tmp_path / "copy")
    (copied / "modeling_emu3.py").write_text("raise SystemExit('executed')")
    assert "auto_map" in (copied / "config.json").read_text()
    assert dromaius.load(copied, vision_tokenizer=folders.vision).layout == "baai"


def test_a_language_model_given_as_vision_tokenizer(folders: Folders) -> None:
    with pytest.raises(CheckpointError, match="no vision tokenizer"):
        dromaius.load(folders.language, vision_tokenizer=folders.language)


def test_more_codes_than_visual_ids(folders: Folders, tmp_path: Path) -> None:
    """A vision tokenizer of 64 codes for a language model with ids for 60."""
    small = copy_of(folders.language, tmp_path / "copy", vocab_size=VOCABULARY - 4)
    with pytest.raises(ConfigError, match="64 codes.*60 visual ids"):
        dromaius.load(small, vision_tokenizer=folders.vision)


def test_more_words_than_the_model_knows(own_layout: Path, tmp_path: Path) -> None:
    """The tokenizer would give ids for which the model has no embedding."""
    small = shutil.copytree(own_layout, tmp_path / "copy")
    words = json.loads((small / "tokenizer.json").read_text())
    token = {"id": VOCABULARY + 6, "content": "<far>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    words["added_tokens"].append(token | flags)
    write_json(small / "tokenizer.json", words)
    says = f"the tokenizer has {VOCABULARY + 7} ids, the language model only {VOCABULARY}"
    with pytest.raises(CheckpointError, match=says):
        dromaius.load(small)


def test_a_tensor_of_the_wrong_shape(folders: Folders, tmp_path: Path) -> None:
    wrong = copy_of(folders.language, tmp_path / "copy", intermediate_size=32)
    with pytest.raises(CheckpointError, match="mlp") as error:
        dromaius.load(wrong, vision_tokenizer=folders.vision)
    assert "\n" not in str(error.value)


def test_a_missing_tensor(folders: Folders, tmp_path: Path) -> None:
    wrong = copy_of(folders.language, tmp_path / "copy", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\."):
        dromaius.load(wrong, vision_tokenizer=folders.vision)


# ----------------------------------------------------------------------------------- halves alone


def test_a_language_model_alone(folders: Folders) -> None:
    """Loads; codes can be asked about, pictures cannot be used."""
    alone = dromaius.load(folders.language)
    assert alone.vision_tokenizer is None
    codes = torch.zeros(3, 3, dtype=torch.long)
    assert isinstance(alone.answer(codes, "what?", max_new_tokens=2), str)
    with pytest.raises(CheckpointError, match="Emu3-Gen holds no vision tokenizer"):
        alone.decode_image(codes)


def test_a_vision_tokenizer_alone(folders: Folders, model: Emu3) -> None:
    """Pictures become codes and back; there is nothing to draw or answer with."""
    alone = dromaius.load(folders.vision)
    codes = torch.arange(9).view(3, 3)
    assert alone.decode_image(codes).tobytes() == model.decode_image(codes).tobytes()
    for call in (
        lambda: alone.generate_image("a", height=24, width=24),
        lambda: alone.answer(codes, "what?"),
    ):
        with pytest.raises(CheckpointError, match="holds no language model"):
            call()


def test_without_tokenizer_files(folders: Folders, tmp_path: Path) -> None:
    copied = copy_of(folders.hf, tmp_path / "copy")
    (copied / "tokenizer.json").unlink()
    silent = dromaius.load(copied)
    with pytest.raises(CheckpointError, match="no text tokenizer"):
        silent.generate_image("a", height=24, width=24)
    assert silent.decode_image(torch.zeros(3, 3, dtype=torch.long)).size == (24, 24)
