"""The embedded model does what its card says: drawings obey prompts, names obey pictures."""

import pytest
from PIL import Image

import dromaius
from dromaius.pipelines.emu3 import Emu3

NAMES = {
    "red apple": "红苹果",
    "pizza": "披萨",
    "hot dog": "热狗",
    "fox": "狐狸",
    "lion": "狮子",
    "dog face": "狗脸",
    "banana": "香蕉",
    "panda": "熊猫",
    "tiger face": "老虎头",
    "strawberry": "草莓",
    "soccer ball": "足球",
    "basketball": "篮球",
}
WORDINGS = ("{}", "a {}", "a picture of a {}", "{}, noto style", "a {} in fluent-flat style")


@pytest.fixture(scope="module")
def nano() -> Emu3:
    return dromaius.load("nano")


@pytest.fixture(scope="module")
def drawings(nano: Emu3) -> dict[str, Image.Image]:
    """Each name in one of several wordings, sampled as shipped, all with the same seed."""
    prompts = [WORDINGS[i % len(WORDINGS)].format(name) for i, name in enumerate(NAMES)]
    pictures = nano.generate_image(prompts, seed=[7] * len(prompts))
    assert isinstance(pictures, list)
    return dict(zip(NAMES, pictures, strict=True))


def test_drawings_are_named_by_the_model_that_drew_them(
    nano: Emu3, drawings: dict[str, Image.Image]
) -> None:
    english = sum(nano.answer(p, "What is in the image?") == n for n, p in drawings.items())
    chinese = sum(nano.answer(p, "图里是什么？") == NAMES[n] for n, p in drawings.items())
    # By chance one of 680 names would be right.
    assert english >= 8 and chinese >= 8, (english, chinese)


def test_chinese_prompts_draw_the_same_things(nano: Emu3) -> None:
    pictures = nano.generate_image(list(NAMES.values()), seed=[7] * len(NAMES))
    named = sum(
        nano.answer(picture, "What is in the image?") == name
        for name, picture in zip(NAMES, pictures, strict=True)
    )
    assert named >= 8, named


def test_the_picture_matters(nano: Emu3, drawings: dict[str, Image.Image]) -> None:
    answers = {nano.answer(picture, "What is in the image?") for picture in drawings.values()}
    assert len(answers) >= 8
    white = Image.new("RGB", (64, 64), "white")
    assert nano.answer(white, "What is in the image?") != nano.answer(
        drawings["red apple"], "What is in the image?"
    )


def test_reconstruction_is_close(nano: Emu3, drawings: dict[str, Image.Image]) -> None:
    """A drawing is the decoder's own output: coding it once more changes little."""
    import numpy as np

    for name, picture in drawings.items():
        again = nano.decode_image(nano.encode_image(picture))
        error = np.asarray(picture, float) - np.asarray(again, float)
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 22, name
