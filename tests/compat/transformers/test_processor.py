"""Emu3Processor: every documented option against transformers 5.23's, and what ours does better."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchFeature
from transformers.models.emu3.processing_emu3 import Emu3Processor as Theirs

from dromaius.compat.transformers import Emu3Processor
from tests.compat.transformers.pairs import Pair, picture, processors, tokenizer

CODEBOOK = 64
CHAT = [
    {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Please describe the image."}, {"type": "image"}],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "A\ncat."}]},
]


@pytest.fixture(scope="module")
def twins() -> tuple[Any, Any]:
    return processors(CODEBOOK)


def assert_same(theirs: Any, ours: Any) -> None:
    assert isinstance(ours, BatchFeature) and set(theirs) == set(ours)
    for key in theirs:
        assert type(theirs[key]) is type(ours[key]), key
        if isinstance(theirs[key], list):
            assert theirs[key] == ours[key] or all(
                np.array_equal(a, b) for a, b in zip(theirs[key], ours[key], strict=True)
            ), key
        else:
            assert np.array_equal(np.asarray(theirs[key]), np.asarray(ours[key])), key


ONE, OTHER = picture(40, 50, 1), picture(33, 71, 2)
GENERATE = {"return_for_image_generation": True}
CALLS: dict[str, dict[str, Any]] = {
    "one picture": {"images": ONE, "text": "What?<image>", "return_tensors": "pt"},
    "an array": {"images": np.asarray(ONE), "text": "<image>", "return_tensors": "np"},
    "a batch": {
        "images": [ONE, OTHER],
        "text": ["What?<image>", "And <image> here, at length?"],
        "padding": True,
        "return_tensors": "pt",
    },
    "nested pictures": {
        "images": [[ONE], [OTHER]],
        "text": ["<image>", "x <image>"],
        "padding": True,
        "return_tensors": "pt",
    },
    "two pictures in one text": {
        "images": [ONE, OTHER],
        "text": "Compare <image> and <image>",
        "return_tensors": "pt",
    },
    "text": {"text": "hello"},
    "special names in text": {"text": "a<|image start|>b<|extra_200|>"},
    "texts": {"text": ["hello", "a longer text"], "padding": True, "return_tensors": "np"},
    "truncation": {"text": "a b c d e f", "max_length": 4, "truncation": True},
    "max_length": {"text": "a b", "padding": "max_length", "max_length": 10},
    "padding_side": {"text": ["a b c", "c"], "padding": True, "padding_side": "right"},
    "images_kwargs": {
        "images": ONE,
        "text": "<image>",
        "images_kwargs": {"image_mean": [0.1, 0.2, 0.3], "do_resize": False},
    },
    "text_kwargs": {"text": ["a", "bcd"], "text_kwargs": {"padding": True}},
    "common_kwargs": {"text": "a", "common_kwargs": {"return_tensors": "pt"}},
    "flat image option": {"images": ONE, "text": "<image>", "do_normalize": False},
    "generation": {"text": ["a", "b c"], "padding": True, "return_tensors": "pt", **GENERATE},
    "generation, one text": {"text": "a", **GENERATE},
    "ratio": {"text": "a", "ratio": "16:9", **GENERATE},
    "image_area": {"text": "a", "image_area": 1600, **GENERATE},
    "both nested": {
        "text": "a",
        "images_kwargs": {"ratio": "3:4", "image_area": 6400},
        "text_kwargs": GENERATE,
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_equal_transformers(twins: tuple[Any, Any], name: str) -> None:
    theirs, ours = (processor(**CALLS[name]) for processor in twins)
    assert_same(theirs, ours)


def test_options_change_the_result(twins: tuple[Any, Any]) -> None:
    _, ours = twins
    sizes = {
        tuple(ours(text="a", **GENERATE, **change)["image_sizes"][0])
        for change in ({}, {"ratio": "16:9"}, {"image_area": 1600})
    }
    assert sizes == {(90, 90), (68, 120), (5, 5)}
    plain = ours(text="a")["input_ids"][0]
    assert ours(text="a", **GENERATE)["input_ids"][0] != plain
    assert ours(text="a", add_special_tokens=False)["input_ids"][0] == plain[1:]


@pytest.mark.parametrize("where", ["images_kwargs", "text_kwargs", "common_kwargs"])
def test_own_options_are_found_in_every_table(twins: tuple[Any, Any], where: str) -> None:
    _, ours = twins
    own = {**GENERATE, "ratio": "16:9", "image_area": 25600}
    assert ours(text="a", **{where: own}) == ours(text="a", **own)
    with pytest.raises(ValueError, match="ratio is given twice"):
        ours(text="a", **{where: own}, ratio="1:1")


def test_image_sizes_are_numbers_that_unpack(twins: tuple[Any, Any]) -> None:
    inputs = twins[1](text=["a", "bc"], padding=True, return_tensors="pt", **GENERATE)
    inputs = inputs.to(device="cpu", dtype=torch.bfloat16)
    height, width = inputs.pop("image_sizes")[0]
    assert (type(height), type(width), height, width) == (int, int, 90, 90)
    assert inputs.input_ids.dtype == torch.int64 and set(inputs) == {"input_ids", "attention_mask"}


def test_to_casts_what_is_a_fraction_and_nothing_else(twins: tuple[Any, Any]) -> None:
    inputs = twins[1](images=ONE, text="<image>", return_tensors="pt").to("cpu", torch.bfloat16)
    assert inputs.pixel_values.dtype == torch.bfloat16
    for name in ("input_ids", "attention_mask", "image_sizes"):
        assert inputs[name].dtype == torch.int64
    height, width = inputs["image_sizes"][0]
    assert (int(height), int(width)) == (40, 48)  # pixels here


WRONG: dict[str, dict[str, Any]] = {
    "a mark without picture": {"text": "a <image>"},
    "more pictures than marks": {"text": "a <image>", "images": [ONE, OTHER]},
    "fewer pictures than marks": {"text": ["<image>", "<image>"], "images": [ONE]},
    "a picture where one is to be made": {"text": "a", "images": ONE, **GENERATE},
    "a list of ratios": {"text": ["a", "b"], "ratio": ["1:1", "16:9"], **GENERATE},
    "nothing at all": {},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_are_errors_as_upstream(twins: tuple[Any, Any], name: str) -> None:
    theirs, ours = twins
    with pytest.raises(Exception, match=r"\w"):
        theirs(**WRONG[name])
    with pytest.raises(ValueError):
        ours(**WRONG[name])


def test_text_must_be_text(twins: tuple[Any, Any]) -> None:
    """transformers reads a number as its digits."""
    with pytest.raises(ValueError, match="text must be"):
        twins[1](text=[3])


@pytest.mark.parametrize("prompt", [True, False])
def test_the_default_chat_template_is_the_published_one(
    twins: tuple[Any, Any], prompt: bool
) -> None:
    theirs, ours = twins
    expected = theirs.apply_chat_template(CHAT, add_generation_prompt=prompt)
    assert ours.apply_chat_template(CHAT, add_generation_prompt=prompt) == expected
    assert expected.startswith("You are a helpful assistant. USER: <image>Please describe")
    assert expected.endswith("ASSISTANT:") == prompt


def test_decoding(twins: tuple[Any, Any]) -> None:
    theirs, ours = twins
    ids = ours(text=["a b", "c<|image start|>d"], **GENERATE)["input_ids"]
    for skip in (True, False):
        assert ours.decode(ids[0], skip_special_tokens=skip) == theirs.decode(
            ids[0], skip_special_tokens=skip
        )
        assert ours.batch_decode(ids, skip_special_tokens=skip) == theirs.batch_decode(
            ids, skip_special_tokens=skip
        )
    assert ours.decode(ids[1], skip_special_tokens=True) == "cd90*90"


def test_postprocess_is_the_image_processors(twins: tuple[Any, Any]) -> None:
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    ours = twins[1].postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")
    theirs = twins[0].postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")
    for a, b in zip(ours["pixel_values"], theirs["pixel_values"], strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_saved_processor_is_read_by_both(twins: tuple[Any, Any], tmp_path: Path) -> None:
    _, ours = twins
    ours(**CALLS["padding_side"])  # the side of one call is no setting
    ours.save_pretrained(tmp_path)
    again, theirs = Emu3Processor.from_pretrained(tmp_path), Theirs.from_pretrained(tmp_path)
    theirs.tokenizer.padding_side = "left"
    assert again.tokenizer.padding_side == "left"
    expected = ours(**CALLS["a batch"])
    for other in (again, theirs):
        assert_same(other(**CALLS["a batch"]), expected)
    assert again.chat_template == ours.chat_template == theirs.chat_template
    custom = Emu3Processor(ours.image_processor, ours.tokenizer, "{{ 'hi' }}")
    custom.save_pretrained(tmp_path)
    assert Emu3Processor.from_pretrained(str(tmp_path)).apply_chat_template(CHAT) == "hi"


def test_padding_is_left_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    _, ours = processors(CODEBOOK)
    pad = ours.tokenizer.pad_token_id
    both = {"text": ["a b c", "c"], "padding": True}
    assert ours(**both)["input_ids"][1][0] == pad
    ours.tokenizer.padding_side = "right"
    assert ours(**both)["input_ids"][1][-1] == pad
    told = tokenizer(CODEBOOK)
    told.init_kwargs["padding_side"] = told.padding_side = "right"
    assert Emu3Processor(ours.image_processor, told).tokenizer.padding_side == "right"


def prefix_rule(processor: Any, visual: list[int], height: int, width: int) -> Any:
    """The rule of seed 000's example, in our own words."""
    names = processor.tokenizer
    line_end = names.convert_tokens_to_ids("<|extra_200|>")
    ends = {
        (width + 1) * height + 1: names.eof_token_id,
        (width + 1) * height + 2: names.eoi_token_id,
        (width + 1) * height + 3: names.eos_token_id,
    }

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        start = int((ids == names.image_wrapper_token_id).nonzero()[0])
        offset = len(ids) - start
        if offset % (width + 1) == 0:
            return [line_end]
        if offset > max(ends):
            return [names.pad_token_id]
        return [ends[offset]] if offset in ends else visual

    return allowed


@pytest.mark.parametrize("side", ["left", "right"])
def test_both_pictures_of_a_batch_are_right(pair: Pair, side: str) -> None:
    """The seed's batch: with the library's default side every picture equals its single one.

    Told to pad right, the shorter prompt's rows are counted from the wrong place: upstream makes a
    broken picture of them, here it is an error.
    """
    _, processor = processors(pair.codebook)
    if side == "right":
        processor.tokenizer.padding_side = side
    texts = ["a portrait of a young girl, best quality", "a dog"]
    settings = {"return_tensors": "pt", "image_area": 32 * 32, **GENERATE}
    visual = pair.ours.vocabulary_mapping.image_tokens

    def draw(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = processor(text=prompts, padding=True, **settings)
        height, width = inputs.pop("image_sizes")[0]
        out = pair.ours.generate(
            **inputs,
            max_new_tokens=100,
            do_sample=False,
            prefix_allowed_tokens_fn=prefix_rule(processor, visual, height, width),
        )
        ids = out[:, inputs.input_ids.shape[1] :]
        return ids, pair.ours.decode_image_tokens(ids, height=height, width=width)

    if side == "right":
        with pytest.raises(ValueError, match=r"takes|padded left"):
            draw(texts)
        return
    together, pictures = draw(texts)
    for index, text in enumerate(texts):
        ids, alone = draw([text])
        assert torch.equal(ids[0], together[index])
        error = float((pictures[index] - alone[0]).abs().max())
        assert error <= 1e-4 * max(1.0, float(alone.abs().max()))
