"""Checkpoints of every published layout load, and give the numbers of the model that wrote them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM, Emu3VQVAE

from dromaius.errors import CheckpointError
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import (
    load_language_model,
    load_vision_tokenizer,
    our_name,
    our_tensor,
    their_name,
    their_tensor,
)
from tests.tiny import assert_same_codes, baai_vision_state
from tests.tiny_checkpoints import (
    VOCAB_SIZE,
    WEIGHTS,
    change_json,
    make_composite,
    write_baai,
    write_hf,
)


@pytest.fixture(scope="module")
def reference(rng_seed: int) -> Any:
    return make_composite(rng_seed)


@pytest.fixture(scope="module")
def hf(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("hf"), reference)


@pytest.fixture(scope="module")
def baai(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_baai(tmp_path_factory.mktemp("baai"), reference)


@pytest.fixture(scope="module")
def ids(rng_seed: int) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, (2, 20), generator=torch.Generator().manual_seed(rng_seed))


@pytest.fixture(scope="module")
def pixels(rng_seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng_seed)
    return torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1


@torch.no_grad()
def assert_equals(
    reference: Any, language: LanguageModel, vision: VisionTokenizer, ids: Tensor, pixels: Tensor
) -> None:
    """Logits, codes and pixels of the model that was saved."""
    expected = reference(ids).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(language(ids), expected, rtol=0, atol=1e-4)
    teacher = reference.model.vqmodel
    out = teacher.encode(pixels, torch.tensor([[32, 48]] * 2))
    latents = teacher.quant_conv(out.last_hidden_state.transpose(1, 2)).movedim(1, -1).squeeze(1)
    codes = torch.stack(out.image_tokens)
    codebook = teacher.quantize.embedding.weight
    assert_same_codes(vision.encode(pixels), codes, latents, codebook)
    shown = teacher.decode(codes)
    limit = 1e-4 * float(shown.abs().max())
    torch.testing.assert_close(vision.decode(codes), shown, rtol=0, atol=limit)


def test_hf_in_shards(reference: Any, hf: Path, ids: Tensor, pixels: Tensor) -> None:
    assert len(list(hf.glob("*.safetensors"))) > 3
    assert_equals(reference, load_language_model(hf), load_vision_tokenizer(hf), ids, pixels)


def test_baai_twin(
    reference: Any, hf: Path, baai: tuple[Path, Path], ids: Tensor, pixels: Tensor
) -> None:
    language, vision = load_language_model(baai[0]), load_vision_tokenizer(baai[1])
    assert_equals(reference, language, vision, ids, pixels)
    assert torch.equal(language(ids), load_language_model(hf)(ids))
    twin = load_vision_tokenizer(hf)
    assert torch.equal(vision.encode(pixels), twin.encode(pixels))
    for other, ours in ((language, load_language_model(hf)), (vision, twin)):
        theirs = other.state_dict()
        assert all(torch.equal(t, theirs[n]) for n, t in ours.state_dict().items())


def test_ready_to_use(hf: Path) -> None:
    """On the CPU, float32, frozen, in evaluation mode; nothing is left on the meta device."""
    for model in (load_language_model(hf), load_vision_tokenizer(hf)):
        tensors = [*model.parameters(), *model.buffers()]
        assert {t.device.type for t in tensors} == {"cpu"}
        assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}
        assert not any(p.requires_grad for p in model.parameters())
        assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_dtype(stored: torch.dtype, baai: tuple[Path, Path], tmp_path: Path) -> None:
    """The language model takes the dtype asked for or the file's, the vision tokenizer neither."""
    for source, name in zip(baai, ("language", "vision"), strict=True):
        shutil.copytree(source, tmp_path / name)
        rewrite(tmp_path / name, lambda n, t: (n, t.to(stored) if t.is_floating_point() else t))
    for dtype, expected in ((torch.float16, torch.float16), (None, stored)):
        language = load_language_model(tmp_path / "language", dtype=dtype)
        assert {p.dtype for p in language.parameters()} == {expected}
    vision = load_vision_tokenizer(tmp_path / "vision")
    assert {p.dtype for p in vision.parameters()} == {torch.float32}


def rewrite(folder: Path, change: Callable[[str, Tensor], tuple[str, Tensor] | None]) -> None:
    """Put all tensors of a folder through a function into one file; None drops a tensor."""
    files = sorted(folder.glob("*.safetensors"))
    state = {n: t.clone() for file in files for n, t in load_file(file).items()}
    for file in [*files, *folder.glob("*.index.json")]:
        file.unlink()
    changed = [change(name, tensor) for name, tensor in state.items()]
    save_file(dict(pair for pair in changed if pair), folder / WEIGHTS)


# the prefixes that files of different times carry (spec section 1.3)
PREFIXES: dict[str, Callable[[str], str]] = {
    "on disk": lambda n: n,
    "in memory": lambda n: (
        n.replace("text_model.lm_head", "lm_head").replace("text_model.model.", "model.text_model.")
        if n.startswith("text_model.")
        else f"model.{n}"
    ),
    "both": lambda n: f"model.{n}",
}


@pytest.mark.parametrize("form", PREFIXES)
def test_prefixes(
    form: str, reference: Any, hf: Path, ids: Tensor, pixels: Tensor, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(hf, folder)
    rewrite(folder, lambda n, t: (PREFIXES[form](n), t))
    names = set(load_file(folder / WEIGHTS))
    assert ("lm_head.weight" in names) == (form == "in memory")
    language, vision = load_language_model(folder), load_vision_tokenizer(folder)
    assert_equals(reference, language, vision, ids, pixels)


def test_halves_saved_alone(reference: Any, ids: Tensor, pixels: Tensor, tmp_path: Path) -> None:
    """Emu3VQVAE.save_pretrained and Emu3ForCausalLM.save_pretrained."""
    text = Emu3ForCausalLM(reference.config.text_config)
    text.model, text.lm_head = reference.model.text_model, reference.lm_head
    text.save_pretrained(tmp_path / "text")
    reference.model.vqmodel.save_pretrained(tmp_path / "vision")
    language = load_language_model(tmp_path / "text")
    assert_equals(reference, language, load_vision_tokenizer(tmp_path / "vision"), ids, pixels)
    with pytest.raises(CheckpointError, match="text holds no vision tokenizer"):
        load_vision_tokenizer(tmp_path / "text")
    with pytest.raises(CheckpointError, match="vision holds no language model"):
        load_language_model(tmp_path / "vision")


def test_tied_embeddings(ids: Tensor, pixels: Tensor, rng_seed: int, tmp_path: Path) -> None:
    """transformers stores one of the two tensors."""
    tied = make_composite(rng_seed + 1, tie_word_embeddings=True)
    folder = write_hf(tmp_path / "hf", tied)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert not any("lm_head" in name for name in index["weight_map"])
    language = load_language_model(folder)
    assert language.lm_head.weight is language.model.embed_tokens.weight
    assert_equals(tied, language, load_vision_tokenizer(folder), ids, pixels)
    both, _ = write_baai(tmp_path / "baai", tied, tie_word_embeddings=True)
    assert torch.equal(load_language_model(both)(ids), language(ids))


# ----------------------------------------------------------------------------- names, both ways


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Every tensor of the published vision tokenizer under transformers' names, without data."""
    with torch.device("meta"):
        return dict(Emu3VQVAE(Emu3VQVAEConfig()).state_dict())


def test_all_published_names_of_the_vision_tokenizer(published: dict[str, Tensor]) -> None:
    """495 tensors, against the table written down in tests/tiny.py, and back again."""
    assert len(published) == 495
    expected = baai_vision_state(published)
    for name, tensor in published.items():
        ours = our_name(f"vqmodel.{name}", "hf")
        assert our_name(f"model.vqmodel.{name}", "hf") == our_name(name, "hf-vision") == ours
        baai = ours.removeprefix("vision_tokenizer.")
        shaped = our_tensor(ours, tensor)
        assert shaped.shape == expected.pop(baai).shape
        assert our_name(baai, "baai-vision") == ours
        assert their_name(ours, "baai-vision") == baai
        assert their_name(ours, "hf") == f"vqmodel.{name}"
        assert their_name(ours, "hf-vision") == name
        for layout in ("hf", "hf-vision"):
            assert their_tensor(ours, shaped, layout).shape == tensor.shape
        assert their_tensor(ours, shaped, "baai-vision").shape == shaped.shape
        assert their_name(ours, "baai") is None and their_name(ours, "hf-text") is None
    assert not expected


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.3.mlp.up_proj.weight"])
def test_names_of_the_language_model(name: str) -> None:
    ours = f"language_model.{name}"
    assert our_name(name, "baai") == our_name(name, "hf-text") == ours
    assert our_name(f"text_model.{name}", "hf") == our_name(ours, "dromaius") == ours
    assert their_name(ours, "baai") == their_name(ours, "hf-text") == name
    assert their_name(ours, "hf") == f"text_model.{name}"
    assert their_name(ours, "baai-vision") is None


# ------------------------------------------------------------------------------ what is refused

Load = Callable[[Path], object]
LANGUAGE_TENSOR = "text_model.model.layers.1.mlp.up_proj.weight"
VISION_TENSOR = "vqmodel.encoder.down_block.down.1.block.0.conv1.weight"
CASES = [
    (load_language_model, LANGUAGE_TENSOR, "model.layers.1.mlp.up_proj.weight"),
    (load_vision_tokenizer, VISION_TENSOR, "encoder.down.1.block.0.conv1.weight"),
]


@pytest.fixture
def copy(hf: Path, tmp_path: Path) -> Path:
    """A copy of the -hf folder to be spoilt."""
    return Path(shutil.copytree(hf, tmp_path / "copy"))


@pytest.mark.parametrize(("load", "theirs", "ours"), CASES)
def test_missing_tensor(load: Load, theirs: str, ours: str, copy: Path) -> None:
    rewrite(copy, lambda n, t: None if n == theirs else (n, t))
    with pytest.raises(CheckpointError, match=f"1 missing .*{ours}"):
        load(copy)


@pytest.mark.parametrize(("load", "theirs", "ours"), CASES)
def test_unexpected_tensor(load: Load, theirs: str, ours: str, copy: Path) -> None:
    renamed = theirs.replace("weight", "other")
    rewrite(copy, lambda n, t: (renamed, t) if n == theirs else (n, t))
    with pytest.raises(CheckpointError, match=f"unexpected .*{ours.replace('weight', 'other')}"):
        load(copy)


@pytest.mark.parametrize("load", [load_language_model, load_vision_tokenizer])
def test_tensor_of_neither_half(load: Load, copy: Path) -> None:
    file = next(iter(sorted(copy.glob("*.safetensors"))))
    state = {n: t.clone() for n, t in load_file(file).items()}
    save_file({**state, "adapter.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="unexpected .*adapter.weight"):
        load(copy)


@pytest.mark.parametrize(("load", "theirs", "ours"), CASES)
def test_wrong_shape(load: Load, theirs: str, ours: str, copy: Path) -> None:
    rewrite(copy, lambda n, t: (n, t[:-1].clone() if n == theirs else t))
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    assert theirs in str(caught.value) or ours in str(caught.value)
    assert "shape" in str(caught.value)


def test_shard_that_is_gone(copy: Path) -> None:
    gone = sorted(copy.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=gone.name):
        load_language_model(copy)


def test_config_of_another_size(baai: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(baai[0], folder)
    change_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="9 missing .*model.layers.2."):
        load_language_model(folder)
    change_json(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="9 unexpected .*model.layers.1."):
        load_language_model(folder)
