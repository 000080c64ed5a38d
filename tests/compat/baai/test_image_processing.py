"""Pixels of BAAI's image processor against transformers' and the specification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius.compat.baai import AutoImageProcessor, Emu3VisionVQImageProcessor
from tests.compat.conftest import Checkpoints

processor = Emu3VisionVQImageProcessor(min_pixels=32 * 32, max_pixels=96 * 96)


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("size", [(40, 64), (20, 21), (130, 200)])
def test_equals_transformers(mode: str, size: tuple[int, int]) -> None:
    from transformers import Emu3ImageProcessor

    theirs = Emu3ImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=32 * 32, max_pixels=96 * 96
    )
    image = noise(*size, mode)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (480, 640, (480, 640)),
        (200, 200, (512, 512)),
        (1080, 1920, (768, 1360)),
        (1030, 1030, (1024, 1024)),
        (333, 517, (416, 640)),
        (300, 1490, (304, 1488)),
    ],
)
def test_sizes_of_the_specification(height: int, width: int, expected: tuple[int, int]) -> None:
    image = Image.new("RGB", (width, height))
    pixels = Emu3VisionVQImageProcessor()(image, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, *expected)


def test_alpha_is_dropped() -> None:
    rgba = noise(40, 64, "RGBA")
    colours = Image.fromarray(np.asarray(rgba)[..., :3].copy())
    assert np.array_equal(pixels_of(rgba), pixels_of(colours))


def pixels_of(image: Any, **options: Any) -> np.ndarray:
    return processor(image, return_tensors="np", **options)["pixel_values"]


def test_arrays_and_tensors_are_pictures_too() -> None:
    image = noise(40, 64)
    array = np.asarray(image).copy()
    expected = pixels_of([image, image])
    assert expected.shape == (2, 3, 40, 64)
    for form in (
        [array, array],
        np.stack([array, array]),
        torch.from_numpy(np.stack([array, array])).permute(0, 3, 1, 2),
    ):
        assert np.array_equal(pixels_of(form), expected)
    assert np.array_equal(pixels_of(array.transpose(2, 0, 1)), expected[:1])


def test_each_argument_takes_effect() -> None:
    image = noise(20, 21)
    raw = np.asarray(image).astype(np.float64)
    plain = pixels_of(image, do_resize=False, do_rescale=False, do_normalize=False)
    assert np.array_equal(plain[0], raw.transpose(2, 0, 1))
    halved = pixels_of(image, do_resize=False, rescale_factor=0.5, do_normalize=False)
    assert np.allclose(halved, plain / 2)
    shifted = pixels_of(image, do_resize=False, image_mean=[0.0, 0.5, 1.0], image_std=0.25)
    expected = (raw / 255 - [0.0, 0.5, 1.0]) / 0.25
    assert np.allclose(shifted[0], expected.transpose(2, 0, 1), atol=1e-5)
    last = pixels_of(image, data_format="channels_last")
    assert np.array_equal(last.transpose(0, 3, 1, 2), pixels_of(image))
    assert not np.array_equal(pixels_of(image, resample=0), pixels_of(image))


def test_refused_pictures() -> None:
    with pytest.raises(ValueError, match="one size"):
        processor([noise(40, 64), noise(64, 40)])
    with pytest.raises(ValueError, match="elongated"):
        processor(noise(100, 600))
    with pytest.raises(ValueError, match="at least 8"):
        processor(noise(7, 20))


def test_postprocess_of_the_specification() -> None:
    def values(pixels: torch.Tensor) -> np.ndarray:
        return np.asarray(processor.postprocess(pixels)["pixel_values"][0])

    assert (values(torch.zeros(3, 4, 5)) == 127).all()
    ramp = values(torch.linspace(-1.2, 1.2, 60).view(3, 4, 5))
    assert ramp[0].tolist() == [
        [0, 78, 181],
        [0, 83, 187],
        [0, 88, 192],
        [0, 93, 197],
        [0, 98, 202],
    ]


def test_postprocess_keeps_pictures_apart() -> None:
    """Upstream flattens the batch into channels for every return type but PIL."""
    pixels = torch.rand(2, 3, 8, 16, requires_grad=True) * 2 - 1
    pictures = processor.postprocess(pixels)["pixel_values"]
    arrays = processor.postprocess(pixels, return_tensors="np")["pixel_values"]
    assert arrays.shape == (2, 8, 16, 3) and arrays.dtype == np.uint8
    for picture, array in zip(pictures, arrays, strict=True):
        assert np.array_equal(np.asarray(picture), array)
    raw = processor.postprocess(
        torch.full((3, 2, 2), 12.7), do_normalize=False, do_rescale=False, return_tensors="pt"
    )
    assert raw["pixel_values"].flatten().tolist() == [12] * 12


def test_loading(checkpoints: Checkpoints, tmp_path: Path) -> None:
    ours = AutoImageProcessor.from_pretrained(checkpoints.baai_vq, trust_remote_code=True)
    assert (ours.min_pixels, ours.max_pixels) == (32 * 32, 128 * 128)
    ours.save_pretrained(tmp_path)
    image = noise(200, 210)
    expected = ours(image, return_tensors="np")["pixel_values"]
    for source in (tmp_path, checkpoints.hf):
        again = AutoImageProcessor.from_pretrained(source)
        assert np.array_equal(again(image, return_tensors="np")["pixel_values"], expected)
