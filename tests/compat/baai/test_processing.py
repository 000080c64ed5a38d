"""BAAI's processor: prompts of the specification, sizes, pictures in and out, errors."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius.compat import baai
from tests.compat.conftest import Checkpoints

PAD, EOL, EOF, BOS, EOS, IMG, BOI, EOI = (
    151643,
    151846,
    151847,
    151849,
    151850,
    151851,
    151852,
    151853,
)
FIRST_VISUAL = 151854
DIGITS = {str(digit): 15 + digit for digit in range(10)} | {"*": 9}
SYSTEM = [2610, 525, 264, 10950, 17847, 13, 13872, 25, 220]  # "You are ... assistant. USER: "
DESCRIBE = [5501, 7512, 279, 2168]  # "Please describe the image"
ASK = [13, 35560, 3846, 2821, 25]  # ". ASSISTANT:"


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def header(height: int, width: int) -> list[int]:
    return [BOI, *(DIGITS[sign] for sign in f"{height}*{width}"), IMG]


def block(codes: torch.Tensor) -> list[int]:
    """A whole picture, written by hand."""
    rows = [[FIRST_VISUAL + code for code in row] + [EOL] for row in codes.tolist()]
    return [*header(*codes.shape), *sum(rows, []), EOF, EOI]


# --- generation ---------------------------------------------------------------------------------


def test_generation_prompt(parts: SimpleNamespace) -> None:
    """The example of spec section 6.1: 3x4 codes, "a dog"."""
    found = parts.processor("a dog", ratio="4:3", image_area=24 * 32)
    assert found.input_ids == [[151849, 64, 5562, 151852, 18, 9, 19, 151851]]
    assert found.image_size == [[3, 4]]


def test_generation_batch(parts: SimpleNamespace) -> None:
    texts, ratios = ["a dog", "a portrait of young girl."], ["1:1", "16:9"]
    found = parts.processor(texts, ratio=ratios, padding="longest", return_tensors="pt")
    rows = [
        [BOS, 64, 5562, *header(90, 90)],
        [BOS, 64, 33033, 315, 3908, 3743, 13, *header(68, 120)],
    ]
    pads = len(rows[1]) - len(rows[0])
    assert found.input_ids.tolist() == [[PAD] * pads + rows[0], rows[1]]
    assert found.attention_mask.sum(1).tolist() == [len(row) for row in rows]
    assert isinstance(found.image_size, torch.Tensor)
    assert found.image_size.tolist() == [[90, 90], [68, 120]]
    arrays = parts.processor(texts, padding="longest", return_tensors="np")
    assert isinstance(arrays.image_size, np.ndarray)
    assert arrays.image_size.tolist() == [[90, 90]] * 2


@pytest.mark.parametrize(
    "ratio, large, small",
    [
        ("1:1", (90, 90), (64, 64)),
        ("16:9", (68, 120), (48, 85)),
        ("9:16", (120, 68), (85, 48)),
        ("4:3", (78, 104), (55, 74)),
        ("2:3", (110, 73), (78, 52)),
        ("21:9", (59, 137), (42, 98)),
        ("2:1", (64, 127), (45, 91)),
        ("5:4", (80, 101), (57, 72)),
    ],
)
def test_sizes(ratio: str, large: tuple[int, int], small: tuple[int, int]) -> None:
    size = baai.Emu3Processor.calculate_generate_size
    assert size(ratio, 518400, 8) == large and size(ratio, 262144, 8) == small


# --- understanding ------------------------------------------------------------------------------


def test_understanding_prompt(parts: SimpleNamespace) -> None:
    image = noise(40, 64)
    (codes,) = parts.vision.encode(parts.images(image, return_tensors="pt")["pixel_values"])
    found = parts.processor("Please describe the image", image, mode="U")
    assert found.input_ids == [[BOS, *SYSTEM, *block(codes), *DESCRIBE, *ASK]]
    assert found.image_size == [[5, 8]]


def test_stage1_template(parts: SimpleNamespace) -> None:
    processor = baai.Emu3Processor(
        parts.images, parts.vision, parts.tokenizer, chat_template=baai.STAGE1_TEMPLATE
    )
    image = noise(40, 64)
    (codes,) = processor.tokenize_image([image])
    found = processor(["Please describe the image"], [image], mode="U")
    assert found.input_ids == [[BOS, *block(codes), *DESCRIBE]]


def test_other_templates(parts: SimpleNamespace) -> None:
    processor = baai.Emu3Processor(
        parts.images, parts.vision, parts.tokenizer, prefix_template="{W}x{H}"
    )
    found = processor("a dog", ratio="4:3", image_area=24 * 32)
    assert parts.tokenizer.decode(found.input_ids[0]).endswith("4x3<|image token|>")


def test_names_of_special_tokens_are_parsed(parts: SimpleNamespace) -> None:
    """As upstream; `dromaius.load(...).tokenizer` does not."""
    (ids,) = parts.processor("a<|visual token 000001|>").input_ids
    assert ids[:3] == [BOS, 64, FIRST_VISUAL + 1]


def test_pictures_of_different_sizes(parts: SimpleNamespace) -> None:
    images = [noise(40, 64), noise(48, 48, seed=1)]
    alone = [parts.processor.tokenize_image([image])[0] for image in images]
    one_by_one = parts.processor.tokenize_image(images)
    assert [codes.tolist() for codes in one_by_one] == [codes.tolist() for codes in alone]
    batch = torch.zeros(2, 3, 48, 64)
    batch[0, :, :40] = parts.images(images[0], return_tensors="pt")["pixel_values"][0]
    batch[1, :, :, :48] = parts.images(images[1], return_tensors="pt")["pixel_values"][0]
    expected = parts.vision.encode(batch)
    padded = parts.processor.tokenize_image(images, padding_image=True)
    assert padded[0].tolist() == expected[0, :5].tolist()
    assert padded[1].tolist() == expected[1, :, :6].tolist()
    assert padded[0].tolist() != alone[0].tolist()  # padding changes codes: it is the caller's wish
    same = parts.processor.tokenize_image([images[0]] * 2, padding_image=True)
    assert same.tolist() == [alone[0].tolist()] * 2


# --- back to text and pictures ------------------------------------------------------------------


def test_decoding(parts: SimpleNamespace) -> None:
    codes = torch.randint(0, 32768, (2, 3, 4), generator=torch.Generator().manual_seed(5))
    ids = [BOS, 64, *block(codes[0]), 5562, *block(codes[1]), EOS]
    pieces = parts.processor.decode(ids)
    expected = parts.images.postprocess(parts.vision.decode(codes))["pixel_values"]
    assert [pieces[i] for i in (0, 2, 4)] == ["<|extra_203|>a", " dog", "<|extra_204|>"]
    for picture, other in zip((pieces[1], pieces[3]), expected, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(other))
        assert picture.size == (32, 24)
    assert parts.processor.decode([64, 5562]) == "a dog"  # a single piece comes alone
    single = parts.processor.decode(torch.tensor(block(codes[0])))
    assert np.array_equal(np.asarray(single), np.asarray(expected[0]))
    batch = parts.processor.batch_decode(np.array([[PAD, 64], [64, 5562]]))
    assert batch == ["<|endoftext|>a", "a dog"]
    assert parts.processor.batch_decode([ids], skip_special_tokens=True) == ["a3*4 dog3*4"]


def test_unfinished_picture_stays_text(parts: SimpleNamespace) -> None:
    ids = [BOS, *block(torch.zeros(3, 4, dtype=torch.long))[:-1]]
    text = parts.processor.decode(ids)
    assert isinstance(text, str) and text.endswith("<|extra_200|><|extra_201|>")


def test_damaged_pictures_are_refused(parts: SimpleNamespace) -> None:
    ids = block(torch.zeros(3, 4, dtype=torch.long))
    ragged = [*ids[:6], *ids[7:]]
    with pytest.raises(ValueError, match=r"one length, got \[3, 4\]"):
        parts.processor.decode(ragged)
    with pytest.raises(ValueError, match="no rows"):
        parts.processor.decode([BOI, IMG, EOI])


# --- construction and errors --------------------------------------------------------------------


def test_parts_of_a_processor(
    parts: SimpleNamespace, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="image tokenizer"):
        baai.Emu3Processor(parts.images, tokenizer=parts.tokenizer)
    with pytest.raises(TypeError):
        baai.Emu3Processor(parts.tokenizer, parts.vision, parts.images)
    with pytest.raises(TypeError, match="tokenizer"):
        baai.Emu3Processor(parts.images, parts.vision)
    parts.processor.save_pretrained(tmp_path)
    saved = {path.name for path in tmp_path.iterdir()}
    assert {"emu3.tiktoken", "emu3_vision_tokens.txt"} <= saved
    assert not any(name.endswith(".safetensors") for name in saved)
    assert parts.processor.vision_tokenizer is parts.vision
    again = baai.Emu3Processor.from_pretrained(checkpoints.baai_lm, checkpoints.baai_vq)
    image = noise(40, 64)
    expected = parts.processor(["a", "b c"], [image] * 2, mode="U", padding="longest")
    found = again(["a", "b c"], [image] * 2, mode="U", padding="longest")
    assert found.input_ids == expected.input_ids


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"text": "a", "mode": "X"}, AssertionError, "mode"),
        ({"text": "a", "image": noise(40, 64)}, ValueError, "no image"),
        ({"text": ["a", "b"], "ratio": ["1:1"]}, ValueError, "1 ratios .* 2 texts"),
        ({"text": "a", "ratio": "wide"}, ValueError, "'wide'"),
        ({"text": "a", "ratio": "0:1"}, ValueError, "'0:1'"),
        ({"text": "a", "image_area": 1}, ValueError, "too small"),
        ({"text": 5}, (ValueError, TypeError), None),
        ({"text": None}, ValueError, "text"),
        ({"text": "a", "mode": "U"}, ValueError, "image"),
        ({"text": "a", "mode": "U", "image": "a.png"}, ValueError, "PIL"),
        ({"text": "a", "mode": "U", "image": [noise(40, 64)] * 2}, ValueError, "2 images .* 1 te"),
    ],
)
def test_errors(parts: SimpleNamespace, arguments: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        parts.processor(**arguments)
