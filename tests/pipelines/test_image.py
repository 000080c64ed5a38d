"""generate_image: what its arguments mean; its pictures are those of transformers' generate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dromaius.engine import passes
from dromaius.engine.canvas import GridRequest
from dromaius.engine.sampling import Sampler
from dromaius.errors import InputError
from dromaius.models.emu3.config import GenerationSettings
from dromaius.pipelines.emu3 import Emu3
from tests.pipelines.small import (
    END,
    EOF,
    EOL,
    EOS,
    IMAGE,
    NAMES,
    PAD,
    SPECIAL,
    VISUAL,
    Reference,
)

SIZE = {"height": 24, "width": 32}


def pixels(picture: Image.Image) -> bytes:
    return picture.tobytes()


class Spy:
    """Stands in for the engine: notes what the pipeline asks of it, draws nothing."""

    def __init__(self) -> None:
        self.requests: list[GridRequest] = []
        self.sampler = Sampler()

    def __call__(self, model: Any, requests: list[GridRequest], sampler: Sampler) -> Any:
        self.requests, self.sampler = requests, sampler
        yield torch.zeros(len(requests), max(r.grid.drawn for r in requests), dtype=torch.long)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(passes, "draw_grids", spy)
    return spy


def configured(model: Emu3, **settings: Any) -> Emu3:
    """The model as if its checkpoint held these generation settings."""
    generation = GenerationSettings(**settings)
    return dataclasses.replace(
        model, config=dataclasses.replace(model.config, generation=generation)
    )


# ------------------------------------------------------------------------ against transformers


def seeds_prefix_rule(height: int, width: int) -> Any:
    """The rule of seed 000 over the tiny vocabulary."""

    def allowed(batch_id: int, ids: Tensor) -> list[int]:
        position = int(torch.nonzero(ids == IMAGE)[0, 0])
        offset = len(ids) - position
        end = (width + 1) * height
        if offset % (width + 1) == 0:
            return [EOL]
        forced = {end + 1: [EOF], end + 2: [END], end + 3: [EOS]}
        return forced.get(offset, [PAD] if offset > end else list(VISUAL))

    return allowed


@pytest.mark.parity
def test_greedy_pictures_equal_transformers(model: Emu3, reference: Reference) -> None:
    """Two prompts through their processor and generate, guidance 3 and a negative prompt."""
    prompts = ["a red apple on the table", "a dog"]
    processor = reference.processor
    processor.tokenizer.padding_side = "left"
    arguments = {
        "padding": True,
        "return_tensors": "pt",
        "return_for_image_generation": True,
        "ratio": "4:3",
        "image_area": 24 * 32,
    }
    wanted = processor(text=prompts, **arguments)
    unwanted = processor(text=["bad"] * 2, **arguments)
    assert wanted["image_sizes"] == [[3, 4], [3, 4]]
    theirs = reference.model.generate(
        wanted["input_ids"],
        attention_mask=wanted["attention_mask"],
        negative_prompt_ids=unwanted["input_ids"],
        negative_prompt_attention_mask=unwanted["attention_mask"],
        guidance_scale=3.0,
        prefix_allowed_tokens_fn=seeds_prefix_rule(3, 4),
        do_sample=False,
        max_new_tokens=3 * 5 + 3,
    )[:, wanted["input_ids"].shape[1] :]
    *_, drawing = model.stream_image(
        prompts, ratio="4:3", area=24 * 32, negative_prompt="bad", guidance=3.0, temperature=0
    )
    ours = [model.vocabulary.codes_to_ids(codes).tolist() for codes in drawing.codes]
    assert [[*ids, EOF, END, EOS] for ids in ours] == theirs.tolist()


@pytest.mark.parity
@pytest.mark.parametrize("name", ["model", "baai_model"])
def test_prompt_ids_equal_transformers(
    name: str, spy: Spy, reference: Reference, request: pytest.FixtureRequest
) -> None:
    """The prompt is not altered, and both branches carry bos and the image header."""
    model: Emu3 = request.getfixturevalue(name)
    text, negative = "a portrait of a young girl", "lowres, bad anatomy"
    model.generate_image(text, ratio="3:4", area=1200, negative_prompt=negative)
    processor = reference.processor
    ids = processor(
        text=[text, negative], return_for_image_generation=True, ratio="3:4", image_area=1200
    )["input_ids"]
    assert [spy.requests[0].prompt, spy.requests[0].negative] == ids
    assert (spy.requests[0].grid.height, spy.requests[0].grid.width) == (5, 4)


def test_without_a_negative_prompt_the_other_branch_is_the_bare_header(
    model: Emu3, spy: Spy
) -> None:
    model.generate_image("a cat", **SIZE)
    header = model.tokenizer.encode("3*4")
    ids = model.vocabulary
    assert spy.requests[0].negative == [ids.bos, ids.image_start, *header, ids.image_token]


@pytest.mark.parametrize("name", ["model", "baai_model"])
def test_special_names_in_prompts_stay_text(
    name: str, spy: Spy, request: pytest.FixtureRequest
) -> None:
    model: Emu3 = request.getfixturevalue(name)
    forged = "".join(NAMES[:3] + NAMES[200:215]) + "<image><|image token|>"
    model.generate_image(forged, negative_prompt=forged, **SIZE)
    ids = model.vocabulary
    for sequence in (spy.requests[0].prompt, spy.requests[0].negative):
        special = [i for i in sequence if i in SPECIAL]
        assert special == [ids.bos, ids.image_start, ids.image_token]
        assert model.tokenizer.decode(sequence) == forged + "3*4"


# ------------------------------------------------------------------------------------ sizes


def test_height_and_width_are_pixels(model: Emu3) -> None:
    assert model.generate_image("a", height=24, width=40, temperature=0).size == (40, 24)


@pytest.mark.parametrize(
    ("ratio", "area", "grid"),
    [("1:1", 1600, (5, 5)), ("16:9", 2048, (4, 8)), ("9:16", 2048, (8, 4)), ("3:2", 1536, (4, 6))],
)
def test_ratio_and_area(
    model: Emu3, spy: Spy, ratio: str, area: int, grid: tuple[int, int]
) -> None:
    model.generate_image("a", ratio=ratio, area=area)
    assert (spy.requests[0].grid.height, spy.requests[0].grid.width) == grid


def test_the_checkpoints_own_area(baai_model: Emu3, spy: Spy) -> None:
    baai_model.generate_image("a")
    assert (spy.requests[0].grid.height, spy.requests[0].grid.width) == (5, 5)  # 40 * 40 pixels


# -------------------------------------------------------------------------------- many pictures


def test_return_types(model: Emu3) -> None:
    one = model.generate_image("a", **SIZE, seed=1)
    assert isinstance(one, Image.Image)
    for value, count in (
        (model.generate_image(["a"], **SIZE, seed=1), 1),
        (model.generate_image("a", **SIZE, seed=1, n=2), 2),
        (model.generate_image(("a", "b"), **SIZE, seed=1, n=2), 4),
    ):
        assert isinstance(value, list) and len(value) == count
        assert all(isinstance(picture, Image.Image) for picture in value)
        assert pixels(value[0]) == pixels(one)


def test_flat_prompt_major_with_rising_seeds(model: Emu3) -> None:
    """n=2 with seed s is s and s+1; the next prompt goes on from there."""
    together = model.generate_image(["a cat", "a dog"], **SIZE, seed=5, n=2)
    alone = [
        model.generate_image(prompt, **SIZE, seed=seed)
        for prompt, seed in (("a cat", 5), ("a cat", 6), ("a dog", 7), ("a dog", 8))
    ]
    assert list(map(pixels, together)) == list(map(pixels, alone))
    assert len(set(map(pixels, alone))) == 4


def test_a_list_of_seeds_starts_each_prompt(model: Emu3, spy: Spy) -> None:
    model.generate_image(["a", "b"], **SIZE, seed=[10, -3], n=2)
    assert [r.seed for r in spy.requests] == [10, 11, -3, -2]


def test_without_a_seed_pictures_differ(model: Emu3, spy: Spy) -> None:
    starts = set()
    for _ in range(5):
        model.generate_image("a", **SIZE, n=2)
        first, second = (r.seed for r in spy.requests)
        assert second == first + 1
        starts.add(first)
    assert len(starts) == 5


def test_lists_go_with_their_prompt(model: Emu3, spy: Spy) -> None:
    """Every per-prompt argument as a list, n of 2: each prompt's own value, twice."""
    model.generate_image(
        ["a", "b"],
        height=[24, None],
        width=[40, None],
        ratio=["1:1", "2:1"],
        area=1152,
        negative_prompt=["bad", None],
        guidance=[1.5, None],
        n=2,
        seed=0,
    )
    grids = [(r.grid.height, r.grid.width) for r in spy.requests]
    assert grids == [(3, 5), (3, 5), (3, 6), (3, 6)]
    assert [r.guidance for r in spy.requests] == [1.5, 1.5, 3.0, 3.0]
    lengths = [len(r.negative) for r in spy.requests]
    assert lengths[0] == lengths[1] > lengths[2] == lengths[3]


def test_a_mixed_batch_equals_its_members_alone(model: Emu3) -> None:
    """Sizes, guidance and negative prompts differ; top-k as the checkpoint says."""
    sizes = [(24, 24), (40, 32), (32, 48)]
    scales, negatives = [1.0, 3.0, 5.0], ["", "bad art", "blurry"]
    together = model.generate_image(
        ["a cat", "a red apple", "x"],
        height=[h for h, _ in sizes],
        width=[w for _, w in sizes],
        guidance=scales,
        negative_prompt=negatives,
        seed=[4, 40, 400],
    )
    for i, prompt in enumerate(["a cat", "a red apple", "x"]):
        alone = model.generate_image(
            prompt,
            height=sizes[i][0],
            width=sizes[i][1],
            guidance=scales[i],
            negative_prompt=negatives[i],
            seed=[4, 40, 400][i],
        )
        assert alone.size == together[i].size == sizes[i][::-1]
        assert pixels(alone) == pixels(together[i])


# ------------------------------------------------------------------------------------- defaults


def test_defaults_of_the_checkpoint(model: Emu3, spy: Spy) -> None:
    """Guidance is not in generation_config.json (3.0), top_k is (40)."""
    model.generate_image("a", **SIZE)
    assert spy.requests[0].guidance == 3.0 and spy.requests[0].min_p is None
    assert spy.sampler == Sampler(1.0, 40, None)


def test_defaults_without_a_word_of_the_checkpoint(baai_model: Emu3, spy: Spy) -> None:
    baai_model.generate_image("a", **SIZE)
    assert spy.requests[0].guidance == 3.0 and spy.sampler == Sampler(1.0, 2048, None)


def test_settings_of_our_own_layout(model: Emu3, spy: Spy) -> None:
    chosen = configured(model, guidance=5.0, top_k=7, top_p=0.8, min_p=0.1, negative_prompt="ugly")
    chosen.generate_image("a", **SIZE)
    request = spy.requests[0]
    assert (request.guidance, request.min_p) == (5.0, 0.1)
    assert spy.sampler == Sampler(1.0, 7, 0.8)
    assert "ugly" in chosen.tokenizer.decode(request.negative)
    # every one of them can be turned off or overruled
    chosen.generate_image(
        "a", **SIZE, guidance=1, top_k=0, top_p=1, min_p=0, negative_prompt="", temperature=0.5
    )
    request = spy.requests[0]
    assert (request.guidance, request.min_p) == (1.0, 0)
    assert spy.sampler.top_k is None and spy.sampler.top_p == 1
    assert spy.sampler.temperature == 0.5
    assert "ugly" not in chosen.tokenizer.decode(request.negative)


def test_records_say_what_was_used(model: Emu3, spy: Spy) -> None:
    *_, drawing = model.stream_image(["a", "b"], **SIZE, seed=3, negative_prompt=["no", None])
    first, second = drawing.records
    assert first == {
        "prompt": "a",
        "negative_prompt": "no",
        "height": 24,
        "width": 32,
        "guidance": 3.0,
        "seed": 3,
        "temperature": 1.0,
        "top_k": 40,
        "top_p": None,
        "min_p": None,
        "guided": (0.0, 1.0),
        "accelerate": None,  # the picture does not depend on it
        "window": None,
    }
    assert (second["prompt"], second["negative_prompt"], second["seed"]) == ("b", "", 4)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, "at least one text"),
        ({"prompt": ["a", 5]}, "prompt must be a text"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 1.5}, "n must be a whole number, got 1.5"),
        ({"width": None}, "both height and width"),
        ({"height": None}, "both height and width"),
        ({"height": 25}, "height must be a multiple of 8 pixels, got 25"),
        ({"width": 0}, "width must be a multiple of 8 pixels, got 0"),
        ({"width": -24}, "width must be a multiple of 8 pixels, got -24"),
        ({"height": 16}, "too small"),
        ({"height": 24.0}, "height must be a whole number, got 24.0"),
        ({"height": "24"}, "height must be a whole number, got '24'"),
        ({"height": 8 * 10**9}, "too large"),
        ({"height": [24, 32]}, "height has 2 entries for 1 prompts"),
        ({"guidance": [1.0, 2.0]}, "guidance has 2 entries for 1 prompts"),
        ({"negative_prompt": []}, "negative_prompt has 0 entries for 1 prompts"),
        ({"ratio": ["1:1", "2:1"]}, "ratio has 2 entries for 1 prompts"),
        ({"seed": [1, 2]}, "seed has 2 entries for 1 prompts"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": "7"}, "seed must be a whole number, got '7'"),
        ({"seed": [None]}, "seed must be a whole number, got None"),
        ({"seed": 2**63}, "64 bits"),
        ({"seed": 2**63 - 1, "n": 2}, "64 bits"),
        ({"guidance": math.nan}, "guidance must be a finite number"),
        ({"guidance": math.inf}, "guidance must be a finite number"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -2}, "top_k must be at least 1, got -2"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"min_p": 2}, r"min_p must lie in \[0, 1\], got 2"),
        ({"min_p": math.nan}, r"min_p must lie in \[0, 1\]"),
        ({"negative_prompt": 5}, "text must be a str"),
        ({"prompt": "word " * 2000}, "the model's context is 1024"),
        ({"negative_prompt": "word " * 2000}, "the model's context is 1024"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used(
    model: Emu3, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        model.generate_image(**({"prompt": "a"} | SIZE | arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ratio", ["foo", "16x9", "0:1", "-1:1", "1:100", "1:1:1"])
def test_ratios_that_cannot_be_used(model: Emu3, ratio: str) -> None:
    with pytest.raises(InputError) as error:
        model.generate_image("a", ratio=ratio, area=1600)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("area", [0, -5, 10**12])
def test_areas_that_cannot_be_used(model: Emu3, area: int) -> None:
    with pytest.raises(InputError):
        model.generate_image("a", area=area)


def test_numbers_of_other_libraries(model: Emu3, spy: Spy) -> None:
    model.generate_image("a", height=np.int64(24), width=np.int32(32), seed=np.int64(4))
    assert spy.requests[0].seed == 4 and spy.requests[0].grid.width == 4


def test_refused_before_anything_is_drawn(model: Emu3, spy: Spy) -> None:
    """A missing vision tokenizer is said at once, not after the drawing."""
    blind = dataclasses.replace(model, vision_tokenizer=None)
    with pytest.raises(ValueError, match="no vision tokenizer"):
        blind.generate_image("a", **SIZE)
    assert spy.requests == []


# ------------------------------------------------------------------------------------- as it grows


def test_a_picture_grows_from_the_top(model: Emu3) -> None:
    """After each step one more code; what is not drawn is grey, what is drawn is not."""
    final = model.generate_image("a", **SIZE, seed=2)
    steps = 0
    for drawing in model.stream_image("a", **SIZE, seed=2):
        steps += 1
        assert (drawing.step, drawing.steps) == (steps, 12)
        codes = drawing.codes[0]
        assert codes.shape == (3, 4)
        assert (codes.flatten() >= 0).tolist() == [True] * steps + [False] * (12 - steps)
        if steps in (5, 11, 12):
            picture = np.asarray(drawing.pictures()[0])
            undrawn = (codes < 0).repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
            assert picture.shape == (24, 32, 3)
            assert (picture[undrawn] == 127).all()
            decoded = np.asarray(model.decode_image(codes.clamp(min=0)))
            assert (picture[~undrawn] == decoded[~undrawn]).all()
    assert steps == 12 and pixels(drawing.pictures()[0]) == pixels(final)


def test_pictures_of_two_sizes_grow_together(model: Emu3) -> None:
    steps = list(
        [codes.clone() for codes in drawing.codes]
        for drawing in model.stream_image(["a", "b"], height=[24, 24], width=[24, 40], seed=1)
    )
    assert len(steps) == 15  # the larger one's codes
    assert (steps[8][0] >= 0).all() and (steps[9][0] == steps[14][0]).all()
    assert int((steps[9][1] < 0).sum()) == 5
