"""Pixels equal those of transformers' image processors, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from dromaius.errors import CheckpointError, InputError
from dromaius.pipelines.reading.pictures import read_settings

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {}),
    "vit 384, bicubic": ("ViTImageProcessorPil", {"size": 40, "resample": 3}),
    "vit, a line": ("ViTImageProcessorPil", {"size": {"height": 16, "width": 96}}),
    "vit, plain": ("ViTImageProcessorPil", {"do_normalize": False, "do_rescale": False}),
    "vit, factor": ("ViTImageProcessorPil", {"rescale_factor": 1 / 127.5, "do_normalize": False}),
    "vit, own mean": ("ViTImageProcessorPil", {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.7}),
    "deit": ("DeiTImageProcessorPil", {}),
    "deit, crop beyond": ("DeiTImageProcessorPil", {"size": 20, "crop_size": 33}),
    "beit": ("BeitImageProcessorPil", {}),
    "beit, crop": ("BeitImageProcessorPil", {"size": 50, "crop_size": 31, "do_center_crop": True}),
    "donut": ("DonutImageProcessorPil", {"size": {"height": 60, "width": 45}}),
    "donut, list": ("DonutImageProcessorPil", {"size": [45, 60]}),
    "donut, a line": ("DonutImageProcessorPil", {"size": {"height": 16, "width": 96}}),
    "donut, turned": (
        "DonutImageProcessorPil",
        {"size": {"height": 60, "width": 45}, "do_align_long_axis": True},
    ),
    "clip": ("CLIPImageProcessorPil", {}),
    "siglip": ("SiglipImageProcessorPil", {}),
    "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": 33}),
}
SIZES = [(37, 53), (53, 37), (8, 8), (300, 21), (64, 64), (3, 90)]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 4))
    return Image.fromarray(noise.astype(np.uint8), "RGBA").convert(mode)


def processor(name: str) -> Any:
    kind, settings = PROCESSORS[name]
    return getattr(transformers, kind)(**settings)


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = processor(name)
    theirs.save_pretrained(tmp_path)
    ours = read_settings(tmp_path)
    for size in SIZES:
        image = picture(*size)
        if name == "donut, a line" and size == (3, 90):  # nothing is left of its width
            with pytest.raises(ValueError):
                theirs(image)
            with pytest.raises(InputError, match="3x90 pixels is too elongated"):
                ours.prepare([image])
            continue
        expected = theirs(image, return_tensors="np")["pixel_values"].astype(np.float32)
        found = ours.prepare([image])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} {size}")


def test_old_files_mean_what_they_meant(tmp_path: Path) -> None:
    """As in the published TrOCR and vit-gpt2 folders: a size that is one number, the old names."""
    settings = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": 384,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    theirs = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    image = picture(50, 20)
    expected = theirs(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(read_settings(tmp_path).prepare([image]), expected)


def test_grey_encoders_and_odd_pictures(tmp_path: Path) -> None:
    processor("vit, a line").save_pretrained(tmp_path)
    ours = read_settings(tmp_path)
    assert ours.prepare([picture(9, 9)], channels=1).shape == (1, 1, 16, 96)
    for mode in ("L", "RGBA", "P", "1", "CMYK", "LA"):
        assert np.isfinite(ours.prepare([picture(9, 9, mode)])).all()
    clear = Image.new("RGBA", (9, 9), (0, 0, 0, 0))  # what cannot be seen is white, as on paper
    assert (ours.prepare([clear]) == 1).all()
    with pytest.raises(InputError, match="4 channels"):
        ours.prepare([clear], channels=4)


def test_the_joint_file_of_transformers_5(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 24}})
    )
    assert read_settings(tmp_path).shape == (24, 24)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_processor_type": "NougatImageProcessor"}, "'NougatImageProcessor' is not suppor"),
        ({"size": {"longest_edge": 5}}, "size must hold height and width, or shortest_edge"),
        ({"size": 10**9}, "a side of a picture must be 1 to 16384 pixels, not 1000000000"),
        ({"size": "large"}, "a side of a picture must be"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std holds a zero"),
        ({"image_mean": [0.5, "x", 0.5]}, "'x' is not a finite number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean must hold one number, or one for each colour"),
        ({"resample": 77}, "resample 77 is no filter"),
    ],
)
def test_what_cannot_be_followed_is_said(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError) as caught:
        read_settings(tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_settings_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no preprocessor_config.json"):
        read_settings(tmp_path)


def test_a_thread_of_pixels_is_no_bomb(tmp_path: Path) -> None:
    """One pixel high and millions wide: Donut's first step would make it 16 times as many."""
    processor("donut, a line").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="too elongated"):
        read_settings(tmp_path).prepare([Image.new("L", (2**23, 1))])
