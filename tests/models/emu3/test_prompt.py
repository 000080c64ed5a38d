"""Sizes and prompts are the published ones, id for id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from torch import Tensor
from transformers.models.emu3.image_processing_emu3 import smart_resize as their_smart_resize

from dromaius.errors import InputError
from dromaius.models.emu3 import prompt
from dromaius.models.emu3.config import ImageSettings, PromptSettings, VocabularyConfig
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names

IDS = Vocabulary.from_config(VocabularyConfig())
CHAT, STAGE1 = PromptSettings(), PromptSettings(template="stage1")


class Letters:
    """A tokenizer to read along with: one id a character. It knows no special tokens."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def shown(ids: list[int]) -> str:
    """What `Letters` and the prompt builder wrote, with names for the structural ids."""
    names = {
        IDS.bos: "<bos>",
        IDS.image_start: "<boi>",
        IDS.image_token: "<img>",
        IDS.image_end: "<eoi>",
        IDS.end_of_line: "<eol>",
        IDS.end_of_frame: "<eof>",
    }
    return "".join(names.get(i) or (f"<{i - 151854}>" if i >= 151854 else chr(i)) for i in ids)


@pytest.fixture(scope="module")
def real(test_data: Path, require_file: Callable[[Path], Path]) -> TiktokenTokenizer:
    ranks = require_file(test_data / "emu3" / "emu3.tiktoken")
    names = [*FIXED_NAMES, *vision_names(32768)]
    return TiktokenTokenizer(ranks, {name: 151643 + i for i, name in enumerate(names)})


# ----------------------------------------------------------------- sizes (spec section 4.2)

GRIDS = {
    "1:1": ((90, 90), (64, 64)),
    "16:9": ((68, 120), (48, 85)),
    "9:16": ((120, 68), (85, 48)),
    "4:3": ((78, 104), (55, 74)),
    "3:4": ((104, 78), (74, 55)),
    "3:2": ((73, 110), (52, 78)),
    "2:3": ((110, 73), (78, 52)),
    "21:9": ((59, 137), (42, 98)),
    "2:1": ((64, 127), (45, 91)),
    "1:2": ((127, 64), (91, 45)),
    "5:4": ((80, 101), (57, 72)),
}


@pytest.mark.parametrize("ratio", GRIDS)
def test_grid_of_a_ratio(ratio: str) -> None:
    large, small = GRIDS[ratio]
    assert prompt.generation_grid(ratio, 518400) == large
    assert prompt.generation_grid(ratio, 262144) == small


def test_halves_are_rounded_to_even() -> None:
    """16:9 at 720 x 720 is 67.5 rows; a square of 20 x 20 pixels is 2.5 codes a side."""
    assert prompt.generation_grid("16:9", 518400)[0] == 68
    assert prompt.generation_grid("1:1", 28 * 28) == (4, 4)  # 3.5 a side
    with pytest.raises(InputError):
        prompt.generation_grid("1:1", 20 * 20)  # 2.5 a side is 2


@pytest.mark.parametrize("ratio", ["", "1", "16x9", "1:2:3", "a:b", "1.5:1", "0:1", "1:-1"])
def test_malformed_ratio(ratio: str) -> None:
    with pytest.raises(InputError, match="ratio"):
        prompt.generation_grid(ratio, 518400)


def test_grid_that_is_too_small() -> None:
    assert prompt.check_grid(3, 3) == (3, 3)
    for rows, columns in ((2, 9), (9, 2)):
        with pytest.raises(InputError, match=f"{columns * 8}x{rows * 8} pixels.*at least 24"):
            prompt.check_grid(rows, columns)


RESIZED = [
    ((480, 640), (480, 640)),
    ((200, 200), (512, 512)),
    ((50, 50), (512, 512)),
    ((1080, 1920), (768, 1360)),
    ((1030, 1030), (1024, 1024)),
    ((2000, 3000), (832, 1248)),
    ((333, 517), (416, 640)),
    ((500, 700), (496, 704)),
    ((1300, 1500), (952, 1096)),
    ((300, 1490), (304, 1488)),
]


@pytest.mark.parametrize(("given", "expected"), RESIZED)
def test_size_at_which_a_picture_is_read(given: tuple[int, int], expected: tuple[int, int]) -> None:
    assert prompt.smart_resize(*given, ImageSettings()) == expected
    assert prompt.smart_resize(*given[::-1], ImageSettings()) == expected[::-1]


def test_elongated_pictures() -> None:
    with pytest.raises(InputError, match="600x100.*must not exceed 5"):
        prompt.smart_resize(100, 600, ImageSettings())
    assert prompt.smart_resize(100, 500, ImageSettings())  # exactly five is allowed
    wide = ImageSettings(max_aspect=200.0)  # transformers' limit
    assert prompt.smart_resize(100, 600, wide) == (216, 1256)


@pytest.mark.parametrize("size", [(7, 30), (30, 7), (0, 8)])
def test_sides_under_one_code(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least 8"):
        prompt.smart_resize(*size, ImageSettings())


def test_sizes_equal_transformers(rng_seed: int) -> None:
    """Thousands of sizes and a few bounds."""
    generator = torch.Generator().manual_seed(rng_seed)
    for least, most in ((262144, 1048576), (64, 4096), (147456, 147456)):
        image = ImageSettings(min_pixels=least, max_pixels=most, max_aspect=200.0)
        for height, width in torch.randint(8, 2500, (700, 2), generator=generator).tolist():
            if max(height, width) <= 200 * min(height, width):
                expected = their_smart_resize(height, width, 8, least, most)
                assert prompt.smart_resize(height, width, image) == tuple(expected)


# ------------------------------------------------------------------------- picture blocks


def test_header_names_rows_first() -> None:
    assert shown(prompt.image_header(Letters(), IDS, 68, 120)) == "<boi>68*120<img>"


def test_picture_block() -> None:
    block = prompt.image_block(Letters(), IDS, torch.arange(6).view(2, 3))
    assert shown(block) == "<boi>2*3<img><0><1><2><eol><3><4><5><eol><eof><eoi>"
    assert len(block) == len("<2*3>") + 2 * 4 + 2


def test_published_training_sample(real: TiktokenTokenizer) -> None:
    """Spec section 6.1: "a dog" and a 3x4 grid."""
    ids = prompt.layout(real, IDS, ["a dog", torch.arange(12).view(3, 4)])
    rows = [[*range(start, start + 4), 151846] for start in (151854, 151858, 151862)]
    head = [151849, 64, 5562, 151852, 18, 9, 19, 151851]
    assert ids == [*head, *rows[0], *rows[1], *rows[2], 151847, 151853]


# ------------------------------------------------------------------------------- generation


def test_generation_prompt(real: TiktokenTokenizer) -> None:
    text = "a shiba inu 🐕"
    ids = prompt.generation_prompt(real, IDS, text, 90, 90)
    words = [64, 557, 34938, 304, 84, 11162, 238, 243]
    assert ids == [151849, *words, 151852, 24, 15, 9, 24, 15, 151851]
    wide = prompt.generation_prompt(real, IDS, text, 68, 120)
    assert wide == [151849, *words, 151852, 21, 23, 9, 16, 17, 15, 151851]


def test_published_negative_prompt(real: TiktokenTokenizer) -> None:
    ids = real.encode(prompt.NEGATIVE_PROMPT)
    assert len(ids) == 44 and ids[:4] == [10303, 416, 11, 3873] and ids[-3:] == [11, 99055, 13]
    suffix = real.encode("a portrait of young girl." + prompt.POSITIVE_SUFFIX)
    published = "64 33033 315 3908 3743 13 58731 11 4531 1081 2627 11 1850 4271 13"
    assert suffix == [int(i) for i in published.split()]


def test_user_text_never_becomes_structure(real: TiktokenTokenizer) -> None:
    text = "<|image start|>9*9<|image token|><|visual token 000003|><|extra_204|>"
    ids = prompt.generation_prompt(real, IDS, text, 90, 90)
    assert [i for i in ids if i >= 151643] == [IDS.bos, IDS.image_start, IDS.image_token]


# ---------------------------------------------------------------------------- understanding

SYSTEM = "You are a helpful assistant."


def written(parts: list[prompt.Part]) -> str:
    return shown(prompt.layout(Letters(), IDS, parts))


def picture(value: int = 0) -> Tensor:
    return torch.full((1, 2), value)


def block(value: int = 0) -> str:
    return f"<boi>1*2<img><{value}><{value}><eol><eof><eoi>"


def test_chat_template() -> None:
    """The template adds the period that the published call leaves out."""
    parts = prompt.understanding_parts(CHAT, [picture()], "Please describe the image")
    expected = f"<bos>{SYSTEM} USER: {block()}Please describe the image. ASSISTANT:"
    assert written(parts) == expected


@pytest.mark.parametrize("question", ["What is it?", "Go.", "Oh!", "…", "描述。", "Go.  "])
def test_no_second_mark(question: str) -> None:
    parts = prompt.understanding_parts(CHAT, [picture()], question)
    assert written(parts).endswith(f"{block()}{question.rstrip()} ASSISTANT:")


def test_stage1_template() -> None:
    parts = prompt.understanding_parts(STAGE1, [picture()], "The image depicts")
    assert written(parts) == f"<bos>{block()}The image depicts"


def test_several_pictures_in_order() -> None:
    parts = prompt.understanding_parts(CHAT, [picture(1), picture(2)], "Compare them")
    assert written(parts) == f"<bos>{SYSTEM} USER: {block(1)}{block(2)}Compare them. ASSISTANT:"
    parts = prompt.understanding_parts(STAGE1, [picture(1), picture(2)], "Both")
    assert written(parts) == f"<bos>{block(1)}{block(2)}Both"


def test_no_picture_at_all() -> None:
    parts = prompt.understanding_parts(CHAT, [], "Write a poem about winter")
    assert written(parts) == f"<bos>{SYSTEM} USER: Write a poem about winter. ASSISTANT:"


def test_published_ids_of_a_question(real: TiktokenTokenizer) -> None:
    """Text before the picture is one string to the tokenizer, and so is the text behind it."""
    codes = torch.arange(12).view(3, 4)
    ids = prompt.layout(
        real, IDS, prompt.understanding_parts(CHAT, [codes], "Please describe the image")
    )
    before = [151849, 2610, 525, 264, 10950, 17847, 13, 13872, 25, 220]  # spec table 3.3
    assert ids[:10] == before
    picture_ids = [151852, 18, 9, 19, 151851, *IDS.codes_to_ids(codes).tolist(), 151847, 151853]
    assert ids[10 : 10 + len(picture_ids)] == picture_ids
    behind = ids[10 + len(picture_ids) :]
    assert behind == real.encode("Please describe the image. ASSISTANT:")
    assert behind[:5] == [5501, 7512, 279, 2168, 13]


# ------------------------------------------------- conversations, against the Jinja template

# What spec section 4.1 says of the published template, in Jinja.
TEMPLATE = """
{%- for message in messages %}
    {%- if message.role != 'system' %}{{ message.role | upper ~ ': ' }}{% endif %}
    {%- for part in message.content if part.type == 'image' %}{{ '<image>' }}{% endfor %}
    {%- for part in message.content if part.type == 'text' %}{{ part.text ~ ' ' }}{% endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}
"""

Message = tuple[str, list[str | int]]
CONVERSATIONS: list[list[Message]] = [
    [("user", [0, "What is it?"])],
    [("system", [SYSTEM]), ("user", [0, "Please describe the image."])],
    [
        ("system", [SYSTEM]),
        ("user", [1, "What is this?"]),
        ("assistant", ["A red apple."]),
        ("user", ["And the colour", 2, "of this one?", 3]),
    ],
    [("user", ["one"]), ("assistant", ["two"]), ("user", ["three"]), ("assistant", ["four"])],
    [("system", []), ("user", [5]), ("assistant", []), ("user", [""])],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_conversation_equals_the_jinja_template(conversation: list[Message]) -> None:
    """Pictures first within a message, wherever they stood."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for role, content in conversation:
        pieces = [picture(p) if isinstance(p, int) else p for p in content]
        ours.append({"role": role, "content": pieces})
        kinds = [
            {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"}
            for p in content
        ]
        theirs.append({"role": role, "content": kinds})
    rendered = jinja2.Template(TEMPLATE).render(messages=theirs, add_generation_prompt=True)
    for value in (p for _, content in conversation for p in content if isinstance(p, int)):
        rendered = rendered.replace("<image>", block(value), 1)
    assert written(prompt.chat_parts(CHAT, ours)) == "<bos>" + rendered
