"""Staged and low: the same pictures and answers, with never more than one half in memory."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dromaius
from dromaius.errors import CheckpointError, InputError
from dromaius.pipelines.emu3 import Emu3
from dromaius.pipelines.planning import cards, estimate, modes
from tests.pipelines.small import Folders


def picture(seed: int = 1) -> Image.Image:
    pixels = torch.randint(0, 256, (24, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.byte().numpy())


def everything(model: Emu3) -> list[Any]:
    """What a model does, halves in turn: draw, read, write, and back."""
    drawn = model.generate_image(["a cat", "a dog"], height=24, width=32, seed=3, guidance=2.0)
    assert isinstance(drawn, list)
    codes = model.encode_image(picture())
    say = {"role": "user", "content": [{"type": "image", "image": picture()}, _text("what?")]}
    return [
        *(one.tobytes() for one in drawn),
        model.answer([drawn[0], picture()], "what is this?", max_new_tokens=6),
        model.chat([say], max_new_tokens=6),
        codes.tolist(),
        model.decode_image(codes).tobytes(),
        model.encode_video([picture(i) for i in range(5)]).tolist(),
    ]


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def resident(folders: Folders, dtype: str) -> list[Any]:
    return everything(dromaius.load(folders.hf, dtype=dtype))


@pytest.mark.parametrize("memory", ["staged", "low"])
@pytest.mark.parametrize("layout", ["hf", "baai"])
def test_nothing_comes_out_differently(
    memory: str, layout: str, folders: Folders, resident: list[Any], dtype: str
) -> None:
    source, vision = (folders.hf, None) if layout == "hf" else (folders.language, folders.vision)
    model = dromaius.load(source, vision, dtype=dtype, memory=memory)
    assert (model.memory, str(model.dtype), model.device.type) == (memory, f"torch.{dtype}", "cpu")
    found = everything(model)
    if layout == "hf":
        assert found == resident
    else:  # another chat template, but the same pictures
        assert found[:2] == resident[:2] and found[4:] == resident[4:]


@pytest.mark.parametrize("memory", ["staged", "low"])
def test_nano_too_whose_head_is_its_embedding(memory: str) -> None:
    plain, model = dromaius.load("nano"), dromaius.load("nano", memory=memory)
    drawn = model.generate_image("a red apple", seed=7, height=32, width=32)
    assert drawn.tobytes() == plain.generate_image("a red apple", 32, 32, seed=7).tobytes()
    question = "What is in the image?"
    assert model.answer(picture(), question) == plain.answer(picture(), question)


def test_quantized_tables_can_stay_on_the_host(folders: Folders, tmp_path: Path) -> None:
    from dromaius.models.emu3.quantization import settings
    from dromaius.models.emu3.quantize import quantize_checkpoint

    quantize_checkpoint(folders.hf, tmp_path / "small", settings("int4", 32))
    one, other = (dromaius.load(tmp_path / "small", memory=m) for m in ("resident", "low"))
    assert everything(one) == everything(other)


@pytest.mark.parametrize("memory", ["staged", "low"])
def test_never_more_than_one_half(memory: str, folders: Folders) -> None:
    model: Any = dromaius.load(folders.hf, memory=memory)
    language, vision = model.language_model, model.vision_tokenizer

    def here() -> tuple[bool, bool]:
        return language.present, vision.present

    assert here() == (False, False)
    codes = model.encode_image(picture())
    assert here() == (False, True)
    reader = weakref.ref(vision.module())
    model.answer(codes, "what?", max_new_tokens=2)
    assert here() == (True, False) and reader() is None
    writer = weakref.ref(language.module())
    for drawing in model.stream_image("a cat", 24, 32, seed=1):
        assert here() == (True, False) or drawing.step == 0
    assert writer() is not None  # it was not read again
    drawing.pictures()
    assert here() == (False, True) and writer() is None


def test_memory_is_free_as_soon_as_nobody_has_the_model(folders: Folders) -> None:
    model: Any = dromaius.load(folders.hf, memory="staged")
    reader = weakref.ref(model.vision_tokenizer.module())
    del model
    assert reader() is None  # not when a collector comes by


@pytest.mark.parametrize("memory", ["staged", "low"])
def test_a_look_at_a_picture_on_its_way_changes_nothing(memory: str, folders: Folders) -> None:
    whole = dromaius.load(folders.hf).generate_image("a cat", 24, 32, seed=5)
    model = dromaius.load(folders.hf, memory=memory)
    for drawing in model.stream_image("a cat", 24, 32, seed=5):
        if drawing.closes_row:
            drawing.pictures()
    assert drawing.pictures()[0].tobytes() == whole.tobytes()


def test_low_holds_what_the_plan_counts(folders: Folders) -> None:
    """Of embedding and head the rows of the visual ids alone while a picture is drawn."""
    model: Any = dromaius.load(folders.hf, memory="low")
    for _ in model.stream_image("a cat", 24, 32, seed=1):
        pass
    held = sum(p.nbytes for p in model.language_model.parameters())
    whole: Any = dromaius.load(folders.hf).language_model
    config, size = model.config.language_model, model.config.vocabulary.codebook_size
    table = whole.lm_head.weight.nbytes
    assert held == sum(p.nbytes for p in whole.parameters()) - 2 * table + size * 4 * 32
    meta = estimate.dry_run.language_model(model.config, torch.float32)
    vision = estimate.dry_run.vision_tokenizer(model.config.vision_tokenizer)
    assert modes.weigh(meta, vision, size).low(drawing=True) == held
    assert config.hidden_size == 32


def test_what_is_missing_is_said_when_it_is_loaded(folders: Folders, tmp_path: Path) -> None:
    broken = shutil.copytree(folders.vision, tmp_path / "vision")
    tensors = load_file(broken / "model.safetensors")
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="decoder.conv_out.bias"):
        dromaius.load(folders.language, broken, memory="staged")


def test_one_half_alone(folders: Folders) -> None:
    model = dromaius.load(folders.language, memory="staged")
    assert model.vision_tokenizer is None
    assert dromaius.load(folders.language, memory="auto").memory == "resident"


def test_an_unknown_mode(folders: Folders) -> None:
    with pytest.raises(InputError, match="memory must be one of resident, staged, low, auto, got"):
        dromaius.load(folders.hf, memory="tiny")


def test_auto_takes_the_first_that_fits(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(room: float) -> str:
        monkeypatch.setattr(cards, "free_memory", lambda device: room / 0.9)
        return dromaius.load(folders.hf, memory="auto").memory

    model = dromaius.load(folders.hf)
    from dromaius.pipelines.image import picture_grid

    grid = picture_grid(model, None, None, None, None)
    jobs = [estimate.Job(task, grid) for task in ("image", "ask")]
    totals = [estimate.estimate(model.config, torch.float32, job, "cpu").totals for job in jobs]
    most = {name: max(one[name] for one in totals) for name in ("resident", "staged", "low")}
    assert most["resident"] > most["staged"] >= most["low"]
    assert chosen(most["resident"] * 1.001) == "resident"
    assert chosen(most["resident"] * 0.999) == "staged"
    assert chosen(most["staged"] * 0.999) == "low"
