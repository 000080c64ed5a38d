"""Emu3ImageProcessor: every documented argument against transformers 5.23's."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.image_utils import ChannelDimension
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor as Theirs

from dromaius.compat.transformers import Emu3ImageProcessor as Ours
from tests.compat.transformers.pairs import HALF, PIXELS, picture


def same(theirs: Any, ours: Any) -> bool:
    """Equal bits in both results, picture by picture."""
    if set(theirs) != set(ours) or len(theirs["pixel_values"]) != len(ours["pixel_values"]):
        return False
    pairs = zip(theirs["pixel_values"], ours["pixel_values"], strict=True)
    equal = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    sizes = (np.asarray(result["image_sizes"]) for result in (theirs, ours))
    return equal and np.array_equal(*sizes)


CALL_CHANGES: list[dict[str, Any]] = [
    {"do_resize": False},
    {"resample": 0},
    {"do_rescale": False},
    {"rescale_factor": 0.01},
    {"do_normalize": False},
    {"image_mean": [0.1, 0.2, 0.3]},
    {"image_mean": 0.2},
    {"image_std": [0.5, 0.6, 0.7]},
    {"image_std": 0.6},
    {"do_pad": False},
    {"data_format": "channels_last"},
    {"data_format": ChannelDimension.LAST},
]


@pytest.mark.parametrize("change", CALL_CHANGES, ids=str)
def test_arguments_of_a_call(change: dict[str, Any], rng_seed: int) -> None:
    images = [picture(40, 50, rng_seed), picture(33, 71, rng_seed + 1)]
    before = Theirs(**PIXELS).preprocess(images)
    expected = Theirs(**PIXELS).preprocess(images, **change)
    assert not same(before, expected), "changes nothing in transformers"
    assert same(expected, Ours(**PIXELS).preprocess(images, **change))
    assert same(before, Ours(**PIXELS)(images))


INIT_CHANGES: list[dict[str, Any]] = [
    *(c for c in CALL_CHANGES if not {"do_pad", "data_format"} & set(c)),
    {"min_pixels": 64 * 64},
    {"max_pixels": 33 * 33},
    {"spatial_factor": 16},
]


@pytest.mark.parametrize("change", INIT_CHANGES, ids=str)
def test_settings_of_the_processor(change: dict[str, Any], rng_seed: int) -> None:
    images = [picture(40, 50, rng_seed), picture(33, 71, rng_seed + 1)]
    before = Theirs(**PIXELS)(images)
    expected = Theirs(**{**PIXELS, **change})(images)
    assert not same(before, expected), "changes nothing in transformers"
    assert same(expected, Ours(**{**PIXELS, **change})(images))


def test_do_convert_rgb(rng_seed: int) -> None:
    """Transparent parts show white; without it a picture keeps its channels."""
    for mode in ("L", "RGBA", "P", "LA"):
        image = picture(40, 48, rng_seed, mode)
        assert same(Theirs(**PIXELS)(image), Ours(**PIXELS)(image)), mode
    opaque, clear = picture(40, 48, rng_seed, "RGB"), picture(40, 48, rng_seed, "RGBA")
    clear.putalpha(0)
    white = Ours(do_normalize=False, **PIXELS)(clear)["pixel_values"]
    assert (white == 1).all()
    plain = {"do_convert_rgb": False, "do_normalize": False}
    assert Ours(**PIXELS)(clear, **plain)["pixel_values"].shape[1] == 4
    assert (
        Ours(**PIXELS, do_convert_rgb=False)(picture(40, 48, 0, "L"), do_normalize=False)[
            "pixel_values"
        ].shape[1]
        == 1
    )
    assert same(Ours(**PIXELS)(opaque, **plain), Theirs(**PIXELS)(opaque, **plain))


def test_arrays_and_tensors_of_any_layout(rng_seed: int) -> None:
    """All ways to hand over one picture give the pixel values of the PIL image."""
    image = picture(40, 50, rng_seed)
    rows = np.asarray(image)  # [H,W,C]
    planes = np.ascontiguousarray(rows.transpose(2, 0, 1))
    theirs, ours = Theirs(**PIXELS), Ours(**PIXELS)
    for given in (image, rows, planes, planes[None], [rows], [[image]], (rows / 255.0)):
        assert same(theirs(given), ours(given))
    expected = theirs(image)
    assert same(expected, ours(torch.from_numpy(planes)))  # transformers takes no torch tensors
    assert same(expected, ours(torch.from_numpy(rows.copy())))
    assert same(expected, ours([torch.from_numpy(planes)[None]]))
    grey = rows[..., 0]
    stacked = np.repeat(grey[..., None], 3, axis=2)
    assert same(theirs(stacked), ours(grey, input_data_format="none"))
    scaled = {"do_rescale": False}
    assert same(theirs(planes / 255.0, **scaled), ours(torch.from_numpy(planes) / 255.0, **scaled))


def test_input_data_format_settles_what_is_ambiguous() -> None:
    """Three rows, three channels: transformers guesses channels first and says so."""
    ambiguous = np.random.default_rng(0).integers(0, 256, (3, 40, 3), dtype=np.uint8)
    keep = {"do_resize": False, "do_convert_rgb": False}
    last = Ours(**PIXELS)(ambiguous, input_data_format="channels_last", **keep)
    first = Ours(**PIXELS)(ambiguous, input_data_format=ChannelDimension.FIRST, **keep)
    assert last["pixel_values"].shape == (1, 3, 3, 40) and last["image_sizes"] == [(3, 40)]
    assert first["pixel_values"].shape == (1, 3, 40, 3) and first["image_sizes"] == [(40, 3)]
    theirs = Theirs(**PIXELS)(ambiguous, input_data_format="channels_first", **keep)
    assert np.array_equal(theirs["pixel_values"], first["pixel_values"])
    theirs = Theirs(**PIXELS)(ambiguous, input_data_format="channels_last", **keep)
    assert np.array_equal(theirs["pixel_values"], last["pixel_values"])


def test_data_format_none_keeps_that_of_the_input() -> None:
    rows = np.asarray(picture(40, 48))
    settings = {"data_format": None, "do_normalize": False}
    assert Ours(**PIXELS)(rows, **settings)["pixel_values"].shape == (1, 40, 48, 3)
    planes = rows.transpose(2, 0, 1)
    assert Ours(**PIXELS)(planes, **settings)["pixel_values"].shape == (1, 3, 40, 48)


def test_padding_is_zeros_below_and_to_the_right(rng_seed: int) -> None:
    images = [picture(40, 50, rng_seed), picture(33, 71, rng_seed + 1)]
    batch = Ours(**PIXELS)(images, return_tensors="pt")
    assert batch["image_sizes"].tolist() == [[40, 48], [32, 72]]
    assert batch["pixel_values"].shape == (2, 3, 40, 72)
    for index, (height, width) in enumerate(batch["image_sizes"].tolist()):
        alone = Ours(**PIXELS)(images[index], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(batch["pixel_values"][index, :, :height, :width], alone)
        assert (batch["pixel_values"][index, :, height:] == 0).all()
        assert (batch["pixel_values"][index, :, :, width:] == 0).all()
    loose = Ours(**PIXELS, do_pad=False)(images)["pixel_values"]
    assert [pixels.shape for pixels in loose] == [(3, 40, 48), (3, 32, 72)]
    with pytest.raises(ValueError, match="do_pad"):
        Ours(**PIXELS, do_pad=False)(images, return_tensors="pt")


def test_return_tensors() -> None:
    image = picture(40, 48)
    assert isinstance(Ours(**PIXELS)(image, return_tensors="pt")["pixel_values"], torch.Tensor)
    assert isinstance(Ours(**PIXELS)(image, return_tensors="np")["pixel_values"], np.ndarray)
    with pytest.raises(ValueError):
        Ours(**PIXELS)(image, return_tensors="sf")


def test_size_is_bounds_in_pixels() -> None:
    """transformers 5.23 takes `size` and does nothing with it."""
    image, size = picture(40, 48), {"min_pixels": 64 * 64, "max_pixels": 80 * 80}
    assert same(Theirs(**PIXELS)(image), Theirs(**PIXELS)(image, size=size))
    assert same(Theirs(**size)(image), Ours(**PIXELS)(image, size=size))
    with pytest.raises(ValueError, match="shortest_edge"):
        Ours(**PIXELS)(image, size={"shortest_edge": 64})


def test_random_sizes(rng_seed: int) -> None:
    rng = random.Random(rng_seed)
    sizes = [(144, 6), (5, 90), (2, 300), (4, 4)]  # sides that BAAI's rule refuses
    sizes += [(rng.randrange(4, 160), rng.randrange(4, 160)) for _ in range(12)]
    for height, width in sizes:
        image = picture(height, width, rng.randrange(100))
        assert same(Theirs(**PIXELS)(image), Ours(**PIXELS)(image)), image.size
    for processor in (Theirs(**PIXELS), Ours(**PIXELS)):
        with pytest.raises(ValueError):
            processor(picture(2, 500))


def test_a_picture_three_pixels_high_is_not_turned() -> None:
    """transformers takes the three rows of a PIL image for its channels."""
    assert Ours(**PIXELS)(picture(3, 90))["image_sizes"] == [(8, 176)]
    assert Theirs(**PIXELS)(picture(3, 90))["image_sizes"] == [(176, 8)]


def test_the_published_settings_as_transformers_writes_them(tmp_path: Path) -> None:
    Theirs(image_mean=HALF, image_std=HALF, **PIXELS).save_pretrained(tmp_path / "theirs")
    ours = Ours.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = Theirs.from_pretrained(tmp_path / "ours")
    image = picture(40, 50)
    assert same(Theirs(image_mean=HALF, image_std=HALF, **PIXELS)(image), ours(image))
    assert same(again(image), ours(image))
    defaults = Ours()
    assert (defaults.min_pixels, defaults.max_pixels) == (512 * 512, 1024 * 1024)
    assert list(defaults.image_mean) == [0.48145466, 0.4578275, 0.40821073]
    assert list(defaults.image_std) == [0.26862954, 0.26130258, 0.27577711]


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="do_rezise"):
        Ours(**PIXELS)(picture(40, 48), do_rezise=False)


def pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2.6 - 1.3


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_mean": [0.4, 0.5, 0.6]},
        {"image_std": [0.4, 0.5, 0.6]},
        {"rescale_factor": 200.0},
    ],
    ids=str,
)
def test_postprocess_equals_transformers(change: dict[str, Any], rng_seed: int) -> None:
    """Byte by byte; so each argument matters as it does there."""
    values = pixels(rng_seed, 2, 3, 8, 12)
    settings = {"image_mean": HALF, "image_std": HALF}
    expected = Theirs(**settings).postprocess(list(values), **change)["pixel_values"]
    got = Ours(**settings).postprocess(list(values), **change)["pixel_values"]
    assert [np.asarray(a).tolist() for a in got] == [np.asarray(a).tolist() for a in expected]
    plain = Ours(**settings).postprocess(list(values))["pixel_values"]
    assert (np.asarray(plain[0]) != np.asarray(got[0])).any() == bool(change)


def test_postprocess_takes_tensors_lists_and_bfloat16(rng_seed: int) -> None:
    values, ours = pixels(rng_seed, 2, 3, 8, 12), Ours(image_mean=HALF, image_std=HALF)
    listed = ours.postprocess(list(values), return_tensors="PIL.Image.Image")["pixel_values"]
    whole = ours.postprocess(values)["pixel_values"]
    last = ours.postprocess(values.permute(0, 2, 3, 1), input_data_format="channels_last")
    for images in (whole, last["pixel_values"]):
        assert [np.asarray(i).tolist() for i in images] == [np.asarray(i).tolist() for i in listed]
    assert [image.size for image in listed] == [(12, 8)] * 2
    half = ours.postprocess(values.bfloat16())["pixel_values"]
    assert np.abs(np.asarray(half[0]).astype(int) - np.asarray(listed[0])).max() <= 2
    assert ours.postprocess(listed) == listed and ours.postprocess(listed[0]) is listed[0]


def test_postprocess_golden_bytes() -> None:
    """Spec section 8, V7: zeros become 127, values are truncated and clipped."""
    ours = Ours(image_mean=HALF, image_std=HALF)
    black = ours.postprocess(torch.zeros(1, 3, 4, 5))["pixel_values"][0]
    assert (np.asarray(black) == 127).all()
    ramp = torch.linspace(-1.2, 1.2, 60).reshape(1, 3, 4, 5)
    row = np.asarray(ours.postprocess(ramp)["pixel_values"][0])[0].tolist()
    assert row == [[0, 78, 181], [0, 83, 187], [0, 88, 192], [0, 93, 197], [0, 98, 202]]


def test_postprocess_to_arrays_keeps_pictures_apart(rng_seed: int) -> None:
    """transformers joins the channels of all pictures on one axis."""
    values, settings = pixels(rng_seed, 2, 3, 8, 12), {"image_mean": HALF, "image_std": HALF}
    for change in (
        {"return_tensors": "np"},
        {"return_tensors": "pt", "do_rescale": False},
        {"return_tensors": "np", "do_normalize": False},
    ):
        expected = Theirs(**settings).postprocess(list(values), **change)["pixel_values"]
        got = Ours(**settings).postprocess(list(values), **change)["pixel_values"]
        assert tuple(expected.shape) == (6, 8, 12) and tuple(got.shape) == (2, 3, 8, 12)
        assert np.array_equal(np.asarray(got).reshape(6, 8, 12), np.asarray(expected))
