"""Texts and scores equal those of transformers' model, processor, tokenizer and `generate`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw, ImageFont

import dromaius
from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.pipelines.reading.image_to_text import ImageToText
from tests.pipelines.reading import folders


def noise(width: int = 64, height: int = 16, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


PICTURES = [noise(seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {kind: folders.write(root / kind, kind) for kind in folders.DECODERS}


def theirs(folder: Path, **settings: Any) -> tuple[list[str], list[float]]:
    """transformers from the pictures to texts and their scores."""
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = processor(PICTURES, return_tensors="pt")["pixel_values"]
    found = model.generate(
        pixel_values=pixels, return_dict_in_generate=True, output_scores=True, **settings
    )
    texts = tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
    if "sequences_scores" in found:
        return texts, found.sequences_scores.tolist()
    steps = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
    new = found.sequences[:, 1:]
    before = (new == folders.END).cumsum(1) - (new == folders.END).long() == 0
    return texts, ((steps.where(before, 0.0)).sum(1) / before.sum(1)).tolist()


@pytest.mark.parametrize("kind", folders.DECODERS)
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_and_scores_are_those_of_transformers(
    kind: str, beams: int, checkpoints: dict[str, Path]
) -> None:
    texts, scores = theirs(checkpoints[kind], num_beams=beams)
    model = dromaius.load(checkpoints[kind])
    assert isinstance(model, ImageToText)
    found = model.caption(PICTURES, beams=beams, batch_size=2)
    assert [reading.text for reading in found] == texts
    assert [reading.score for reading in found] == pytest.approx(scores, abs=1e-4)
    assert len(set(texts)) > 1  # the pictures count
    assert [r.text for r in model.read(PICTURES, beams=beams, layout="line")] == texts


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
        {"num_beams": 2, "early_stopping": "never", "bad_words_ids": [[9], [11, 12]]},
        {"repetition_penalty": 1.4, "min_length": 8, "no_repeat_ngram_size": 3},
    ],
    ids=str,
)
def test_the_checkpoints_own_settings_hold(settings: dict[str, Any], tmp_path: Path) -> None:
    folders.write(tmp_path, **settings)
    texts, scores = theirs(tmp_path)
    found = dromaius.load(tmp_path).caption(PICTURES)
    assert [reading.text for reading in found] == texts
    if "num_beams" in settings:  # else theirs are what a rule has made of the probabilities
        assert [reading.score for reading in found] == pytest.approx(scores, abs=1e-4)


def test_alternatives_are_the_next_best(checkpoints: dict[str, Path]) -> None:
    texts, scores = theirs(checkpoints["bert"], num_beams=4, num_return_sequences=3)
    found = dromaius.load(checkpoints["bert"]).caption(PICTURES, beams=4, alternatives=3)
    each = [r for reading in found for r in (reading, *reading.alternatives)]
    assert [reading.text for reading in each] == texts
    assert [reading.score for reading in each] == pytest.approx(scores, abs=1e-4)


def test_a_drawn_text_follows_from_its_seed_alone(checkpoints: dict[str, Path]) -> None:
    model = dromaius.load(checkpoints["gpt2"])
    state = torch.random.get_rng_state()
    drawn = model.caption(PICTURES, temperature=1.5, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    alone = model.caption(PICTURES[2], temperature=1.5, seed=7)
    assert drawn[2] == alone and drawn[2].text != model.caption(PICTURES[2]).text


def test_a_prompt_begins_the_text(checkpoints: dict[str, Path]) -> None:
    """The decoder is told the prompt; the text is what comes behind it, special tokens included."""
    folder = checkpoints["trocr"]
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    pixels = processor(PICTURES[:1], return_tensors="pt")["pixel_values"]
    prompt = torch.tensor([[folders.START, 9, 11]])
    ids = model.generate(pixel_values=pixels, decoder_input_ids=prompt, max_new_tokens=12)[0, 3:]
    wanted = [i for i in ids.tolist() if i not in (folders.PAD, folders.START, folders.END)]
    found = dromaius.load(folder).caption(PICTURES[0], prompt="w9 w11")
    assert found.text == " ".join(f"w{i}" if i > 3 else "<unk>" for i in wanted)


def drawn_page(lines: int) -> Image.Image:
    font = ImageFont.load_default(24)
    page = Image.new("RGB", (200, 40 * lines + 40), "white")
    for i in range(lines):
        ImageDraw.Draw(page).text((20, 20 + 40 * i), f"line {i} of it", font=font, fill="black")
    return page


def test_a_page_is_read_line_by_line(checkpoints: dict[str, Path]) -> None:
    model = dromaius.load(checkpoints["gpt2"])
    found = model.read(drawn_page(4), max_new_tokens=3)
    assert len(found.lines) == 4 and found.text == "\n".join(line.text for line in found.lines)
    tops = [line.box.top for line in found.lines]
    assert tops == sorted(tops)
    weights = [line.tokens for line in found.lines]
    mean = np.average([line.score for line in found.lines], weights=weights)
    assert found.score == pytest.approx(mean, abs=1e-5) and found.tokens == sum(weights)
    [one] = model.read([drawn_page(1)], max_new_tokens=3)
    assert one.lines == () and one.box is None
    assert len(model.read(drawn_page(1), layout="page", max_new_tokens=3).lines) == 1
    assert model.read(Image.new("RGB", (90, 90)), max_new_tokens=3).lines == ()


def test_a_line_is_framed_not_squeezed(checkpoints: dict[str, Path]) -> None:
    """A short line gets paper on its right; a long one is cut and its texts are joined."""
    model = dromaius.load(checkpoints["gpt2"])
    short = noise(32, 16)
    framed = Image.new("RGB", (64, 16), "white")
    framed.paste(short, (0, 0))
    [(_, [seen])] = model._pieces(short, "line", None)
    assert seen.size == (64, 16)
    assert np.array_equal(np.asarray(seen)[:, :32], np.asarray(short))
    long = drawn_page(1).resize((800, 80))
    [(_, pieces)] = model._pieces(long, "line", None)
    assert len(pieces) > 1 and {piece.size for piece in pieces} == {(320, 80)}
    texts = [model.caption(piece, max_new_tokens=4).text for piece in pieces]
    assert model.read(long, layout="line", max_new_tokens=4).text == " ".join(filter(None, texts))


def test_grey_encoders_see_grey(tmp_path: Path) -> None:
    model = dromaius.load(folders.write(tmp_path, channels=1))
    assert model.caption(PICTURES[0]).text == model.caption(PICTURES[0].convert("L")).text


def test_info_knows_the_parts_without_reading_weights(checkpoints: dict[str, Path]) -> None:
    facts = dromaius.load(checkpoints["gpt2"], device="meta").describe()
    model = transformers.VisionEncoderDecoderModel.from_pretrained(checkpoints["gpt2"])
    unused = sum(p.numel() for n, p in model.encoder.named_parameters() if "pooler" in n)
    assert sum(facts["parameters"].values()) == model.num_parameters() - unused
    assert facts["family"] == "vision-encoder-decoder" and facts["framework"] == "PyTorch"
    assert (facts["encoder"]["kind"], facts["decoder"]["kind"]) == ("vit", "gpt2")
    assert facts["pictures"] == "64x16 pixels" and facts["decoder"]["positions"] == 40


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"beams": 0}, "beams must be a whole number of at least 1"),
        ({"max_new_tokens": -1}, "max_new_tokens must be"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": 1.0, "beams": 2}, "give one of them"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"prompt": ""}, "the prompt '' holds no tokens"),
    ],
)
def test_wishes_that_cannot_be_met(
    wrong: dict[str, Any], says: str, checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=says):
        dromaius.load(checkpoints["gpt2"]).caption(PICTURES[0], **wrong)


def test_folders_that_do_not_fit_together(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def spoilt(name: str) -> Path:
        return Path(shutil.copytree(checkpoints["gpt2"], tmp_path / name))

    folder = spoilt("many words")
    folders.tokenizer(folder, folders.WORDS + 5)
    with pytest.raises(CheckpointError, match="has 65 tokens, the decoder 60"):
        dromaius.load(folder)
    folder = spoilt("no start")
    for name in ("config.json", "generation_config.json"):
        text = (folder / name).read_text()
        for key in ("decoder_start_token_id", "bos_token_id"):
            text = text.replace(f'"{key}"', f'"was_{key}"')
        (folder / name).write_text(text.replace('"model_type": "gpt2"', '"model_type": "bert"'))
    with pytest.raises((CheckpointError, ConfigError)):
        dromaius.load(folder)
    folder = spoilt("no decoder")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"gpt2"', '"opt"'))
    with pytest.raises(ConfigError, match="opt.* cannot be the decoder: it has no cross-attention"):
        dromaius.load(folder)
    with pytest.raises(InputError, match="are for Emu3 models"):
        dromaius.load(checkpoints["gpt2"], memory="staged")
