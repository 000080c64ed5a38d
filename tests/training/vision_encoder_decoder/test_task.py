"""Pictures with texts: what a step's gradient is made of, and that a small sample is learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dromaius.data.text_pictures import write_text_pictures
from dromaius.errors import ConfigError, InputError
from dromaius.training.loop import run
from dromaius.training.processes import Shard
from dromaius.training.tasks import make_plan
from dromaius.training.vision_encoder_decoder.task import VisionEncoderDecoderTask, padded
from tests.training.conftest import CARDS

Make = Callable[..., dict[str, Any]]


def plain(recipe: dict[str, Any], **tables: dict[str, Any]) -> dict[str, Any]:
    """Without any chance but the weights'."""
    decoder = recipe["model"]["decoder"] | {
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    encoder = recipe["model"]["encoder"] | {"hidden_dropout_prob": 0.0}
    given = {"model": {"encoder": encoder, "decoder": decoder}, "augmentation": {"plain": 1.0}}
    return recipe | given | tables


def task_of(recipe: dict[str, Any]) -> VisionEncoderDecoderTask:
    task = make_plan(recipe).task
    assert isinstance(task, VisionEncoderDecoderTask)
    return task


def gradients(task: VisionEncoderDecoderTask, parts: int, shard: Shard = Shard()) -> list[Tensor]:  # noqa: B008
    """Of the first step, as the loop adds them up."""
    for part in range(parts):
        (task.loss(task.batch(part, shard))[0] / parts).backward()
    return [p.grad for p in task.model.parameters() if p.grad is not None]


def test_parts_of_a_step_add_up_to_it(make_recipe: Make, tmp_path: Path) -> None:
    """Texts have different lengths, so a mean of the parts' means would differ."""
    whole = None
    for parts in (1, 2, 4):
        recipe = plain(make_recipe("vision_encoder_decoder", tmp_path, accumulate=parts))
        recipe |= {"objective": {"batch": 8 // parts, "ctc": 0.5}}
        recipe["augmentation"] = {"shift": 2.0, "noise": 0.1, "turn": 3.0}  # by picture, not batch
        found = gradients(task_of(recipe), parts)
        whole = found if whole is None else whole
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_processes_average_to_the_whole(make_recipe: Make, tmp_path: Path) -> None:
    recipe = plain(make_recipe("vision_encoder_decoder", tmp_path))
    whole = gradients(task_of(recipe), 1)
    shares = [gradients(task_of(recipe), 1, Shard(rank, 2)) for rank in (0, 1)]
    for one, *parts in zip(whole, *shares, strict=True):
        torch.testing.assert_close(sum(parts) / 2, one, rtol=1e-4, atol=1e-6)


def test_padding_does_not_count(make_recipe: Make, tmp_path: Path) -> None:
    task = task_of(plain(make_recipe("vision_encoder_decoder", tmp_path)))
    batch = task.batch(0, Shard())
    assert len({int((row != -100).sum()) for row in batch.labels}) > 1, "all of one length"
    together, figures = task.loss(batch)
    assert figures["tokens"] == sum(len(task.ids[row]) for row in rows_of(task, batch.labels))
    alone = 0.0
    for row in range(len(batch.labels)):
        labels = batch.labels[row : row + 1]
        short = labels[:, : int((labels != -100).sum())]
        single = replace(batch, pixels=batch.pixels[row : row + 1], labels=short)
        alone += task.loss(single)[0].item()
    assert alone == pytest.approx(together.item(), rel=1e-5)


def rows_of(task: VisionEncoderDecoderTask, labels: Tensor) -> list[int]:
    wanted = [[i for i in row.tolist() if i != -100] for row in labels]
    return [task.ids.index(ids) for ids in wanted]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, card_folder: Path) -> VisionEncoderDecoderTask:
    """Twelve cards, learnt by heart; exported in `learnt.folder`."""
    from tests.training.conftest import PARTS, loop

    folder = tmp_path_factory.mktemp("learnt")
    file = {"file": str(card_folder / "list.jsonl")}
    recipe = plain({
        "task": "vision_encoder_decoder",
        "loop": loop(folder, steps=150, log_every=50, checkpoint_every=1000),
        "optimizer": {"muon_lr": 2e-2, "adamw_lr": 5e-3, "warmup": 10},
        "model": PARTS, "objective": {"batch": 12, "ctc": 0.3}, "data": file, "heldout": file,
    })  # fmt: skip
    plan = make_plan(recipe)
    figures = run(plan.task, plan.loop, plan.optimizer, recipe)
    assert isinstance(plan.task, VisionEncoderDecoderTask)
    assert figures["exact"] == 1.0 and figures["cer"] == 0.0 and figures["heldout"] < 0.1
    plan.task.folder = folder  # type: ignore[attr-defined]  # for the tests below
    return plan.task


def test_a_small_sample_is_learnt_and_read(learnt: VisionEncoderDecoderTask) -> None:
    assert learnt.read(learnt.plain(list(range(12)))) == CARDS


def test_the_picture_matters(learnt: VisionEncoderDecoderTask) -> None:
    pixels = learnt.plain(list(range(12)))
    batch = learnt.batch(0, Shard())
    batch = replace(batch, pixels=pixels, labels=padded(learnt.heldout_ids))
    right = learnt.loss(batch)[0].item()
    wrong = learnt.loss(replace(batch, pixels=pixels.roll(1, 0)))[0].item()
    blank = learnt.loss(replace(batch, pixels=torch.ones_like(pixels)))[0].item()
    assert right < 0.2 and min(wrong, blank) > right + 2


def test_transformers_reads_what_is_exported(
    learnt: VisionEncoderDecoderTask, card_folder: Path
) -> None:
    """Same pixels, same logits, same texts, by transformers' own classes alone."""
    from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

    folder = learnt.folder  # type: ignore[attr-defined]
    model, info = VisionEncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    assert not info["mismatched_keys"] and not info["unexpected_keys"]
    assert all("pooler" in name for name in info["missing_keys"])
    assert model.dtype == torch.float32
    tokenizer, processor = (
        cls.from_pretrained(folder) for cls in (AutoTokenizer, AutoImageProcessor)
    )
    pictures = [Image.open(card_folder / f"{number}.png") for number in range(12)]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels, learnt.plain(list(range(12))), atol=1e-5, rtol=0)
    ids = torch.tensor([[1, 7, 5]]).expand(12, -1)
    with torch.no_grad():
        theirs = model.eval()(pixel_values=pixels, decoder_input_ids=ids).logits
        ours = learnt.reader.model.eval()(pixel_values=pixels, decoder_input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    read = model.generate(pixels)
    assert tokenizer.batch_decode(read, skip_special_tokens=True) == CARDS
    assert tokenizer("204").input_ids == learnt.heldout_ids[2][:-1]


def test_half_precision_files_are_computed_in_float32(
    learnt: VisionEncoderDecoderTask, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
    from dromaius.training.vision_encoder_decoder.model import export

    export(tmp_path, learnt.reader, "float16")
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    model = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not list(tmp_path.glob(".*")), "temporary files were left"


def test_training_goes_on_from_a_folder(
    learnt: VisionEncoderDecoderTask, make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe("vision_encoder_decoder", tmp_path, steps=1)
    recipe |= {"model": {"start": str(learnt.folder)}, "augmentation": {"plain": 1.0}}  # type: ignore[attr-defined]
    task = task_of(recipe)
    assert task.evaluate()["exact"] == 1.0
    assert task.heldout_ids == learnt.heldout_ids


def test_names_of_special_tokens_in_a_text_are_text(tmp_path: Path, make_recipe: Make) -> None:
    file = tmp_path / "two.safetensors"
    texts = ["</s>", "<pad>a"]
    write_text_pictures(file, np.zeros((2, 16, 32), np.uint8), texts)
    recipe = make_recipe("vision_encoder_decoder", tmp_path)
    recipe |= {"data": {"file": str(file)}, "heldout": {"file": str(file)}}
    task = task_of(recipe)
    assert [len(ids) for ids in task.ids] == [5, 7]
    assert all(min(ids[:-1]) > 3 for ids in task.ids)
    tokenizer = task.reader.tokenizer
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in task.ids] == texts


def test_pieces_of_words(tmp_path: Path, make_recipe: Make) -> None:
    texts = ["red apple", "green apple", "red pear: ripe"] * 5
    file = tmp_path / "fruit.safetensors"
    write_text_pictures(file, np.zeros((15, 16, 32), np.uint8), texts)
    recipe = make_recipe("vision_encoder_decoder", tmp_path)
    recipe |= {"data": {"file": str(file)}, "heldout": {"file": str(file)}}
    recipe["model"] = recipe["model"] | {"vocabulary": 30}
    task = task_of(recipe)
    assert len(task.reader.tokenizer) == 30 and max(map(len, task.ids)) < 9
    read = [task.reader.tokenizer.decode(ids, skip_special_tokens=True) for ids in task.ids[:3]]
    assert read == texts[:3]
    with pytest.raises(ConfigError, match="vocabulary 12 is too small"):
        make_plan(recipe | {"model": recipe["model"] | {"vocabulary": 12}})


@pytest.mark.parametrize(
    ("table", "value", "said"),
    [
        ("model", {"encoder": {"hiden_size": 3}}, "unknown key model.encoder.hiden_size"),
        ("model", {"decoder": {"vocab_size": 9}}, "model.decoder.vocab_size: it follows"),
        ("model", {"encoder": {"model_type": "vitt"}}, "no model_type 'vitt'"),
        ("model", {"encoder": {"hidden_size": "wide"}}, "model.encoder: .*hidden_size"),
        ("model", {"start": "x"}, "the one or the others"),
        ("objective", {"ctc": -1.0}, "ctc not negative"),
        ("data", {"fit": "crop"}, "pad, stretch, got 'crop'"),
        ("augmentation", {"noise": -0.1}, "noise must not be negative"),
        ("augmentation", {"nois": 0.1}, "unknown key augmentation.nois"),
        ("export", {"dtype": "int8"}, "float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_wrong_recipes_are_named(
    make_recipe: Make, tmp_path: Path, table: str, value: dict[str, Any], said: str
) -> None:
    recipe = make_recipe("vision_encoder_decoder", tmp_path)
    given = recipe.get(table, {})
    for key, one in value.items():
        given = given | {key: given.get(key, {}) | one if isinstance(one, dict) else one}
    with pytest.raises(ConfigError, match=said):
        make_plan(recipe | {table: given})


def test_a_text_longer_than_the_decoder_is_named(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("vision_encoder_decoder", tmp_path)
    recipe["model"]["decoder"]["n_positions"] = 3
    with pytest.raises(InputError, match="'204' has 4 tokens with its end, the decoder 3"):
        make_plan(recipe)
