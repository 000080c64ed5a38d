"""PIL images -> pixels [B,C,H,W], as a checkpoint's preprocessor_config.json says.

Ours, not transformers': torch is not needed, sizes are bounded, and results are the same bit for
bit. Read are the settings of the processors of ViT, DeiT, BEiT, Donut, CLIP, SigLIP and DINOv2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dromaius.errors import CheckpointError, InputError
from dromaius.files import read_bytes
from dromaius.io.images import MAX_PIXELS, to_rgb

SETTINGS_FILE = "preprocessor_config.json"
_JOINT_FILE = "processor_config.json"  # transformers 5 writes both halves of a processor into it
_MAX_BYTES = 2**20
_MAX_SIDE = 2**14

_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_BILINEAR, _BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
_EVERYWHERE = {"do_resize": True, "do_rescale": True, "do_normalize": True, "crop_size": 224}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {"size": 224, "resample": _BILINEAR, **_HALF},
    "deit": {"size": 256, "resample": _BICUBIC, "do_center_crop": True, **_IMAGENET},
    "beit": {"size": 224, "resample": _BICUBIC, **_HALF},
    "donut": {
        "size": {"height": 2560, "width": 1920},
        "resample": _BILINEAR,
        "do_thumbnail": True,
        "do_pad": True,
        **_IMAGENET,
    },
    "clip": {
        "size": {"shortest_edge": 224},
        "resample": _BICUBIC,
        "do_center_crop": True,
        **_CLIP,
    },
    "siglip": {"size": 224, "resample": _BICUBIC, **_HALF},
    "bit": {
        "size": {"shortest_edge": 224},
        "resample": _BICUBIC,
        "do_center_crop": True,
        **_CLIP,
    },
}
"""What a file that leaves a setting out means, by the name before "ImageProcessor"."""
_BY_SHORT_EDGE = ("clip", "bit")
"""Processors for which one number is the shorter side; for the others it is both sides."""


@dataclass(frozen=True)
class PictureSettings:
    """What is done to a picture before an encoder sees it; steps in the order of the fields."""

    align_long_axis: bool
    """Turn pictures that lie while `size` stands, or the other way round (Donut)."""
    size: tuple[int, int] | int | None
    """(height, width), or the length of the shorter side; None: not resized."""
    resample: int
    """A filter of PIL."""
    thumbnail: tuple[int, int] | None
    """(height, width) into which the picture is then fitted with its shape kept (Donut)."""
    pad: tuple[int, int] | None
    """(height, width) to which black is added."""
    pad_around: bool
    """Black on all sides, or to the right and below only."""
    crop: tuple[int, int] | None
    """(height, width) of what is cut from the middle."""
    rescale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def keeps_shape(self) -> bool:
        """Whether a long picture is made small and padded, not squeezed."""
        return self.thumbnail is not None and self.pad is not None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of the pixels that come out; None if it is each picture's own."""
        size = self.size if isinstance(self.size, tuple) else None
        return self.crop or self.pad or size

    def prepare(self, pictures: Sequence[Image.Image], channels: int = 3) -> np.ndarray:
        """PIL images -> float32 [B,C,H,W]; with one channel they are made grey.

        Raises InputError for a picture too elongated to be fitted, or sizes that differ at the end.
        """
        if not pictures:
            raise InputError("there must be at least one picture")
        arrays = [self._prepare(picture, channels) for picture in pictures]  # each [H,W,C]
        shapes = {array.shape[:2] for array in arrays}
        if len(shapes) > 1:
            raise InputError(f"pictures of one batch must have one size, not {sorted(shapes)}")
        return np.stack([self._numbers(array) for array in arrays])

    def _prepare(self, picture: Image.Image, channels: int) -> np.ndarray:
        image = to_rgb(picture)
        if channels == 1:
            image = image.convert("L")
        elif channels != 3:
            raise InputError(
                f"the encoder reads {channels} channels; pictures have 3, or 1 if grey"
            )
        if self.align_long_axis and self.thumbnail:
            height, width = self.thumbnail
            stands, lies = image.height > image.width, image.width > image.height
            if (width < height and lies) or (width > height and stands):
                image = image.transpose(Image.Transpose.ROTATE_270)
        if self.size is not None:
            image = self._resized(image, _target(image, self.size), picture)
        if self.thumbnail is not None:
            image = self._resized(image, _fitted(image, self.thumbnail), picture)
        array = np.asarray(image)  # [H,W,C], or [H,W] of a grey one
        array = array[..., None] if array.ndim == 2 else array
        if self.pad is not None:
            array = _padded(array, self.pad, self.pad_around)
        return array if self.crop is None else _cropped(array, self.crop)

    def _resized(
        self, image: Image.Image, size: tuple[int, int], picture: Image.Image
    ) -> Image.Image:
        """`picture` is what was given, for the message."""
        height, width = size
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            shown = f"{picture.width}x{picture.height}"
            raise InputError(f"a picture of {shown} pixels is too elongated")
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling(self.resample))

    def _numbers(self, array: np.ndarray) -> np.ndarray:
        """uint8 [H,W,C] -> float32 [C,H,W]."""
        values = np.arange(256, dtype=np.float64)  # as a table: each of 256 results once
        if self.rescale is not None:
            values = values * self.rescale
        table = np.repeat(values.astype(np.float32)[None], array.shape[-1], axis=0)  # [C,256]
        if self.mean is not None and self.std is not None:
            given = (np.asarray(v, dtype=np.float32) for v in (self.mean, self.std))
            if array.shape[-1] == 1:  # three colours' numbers, for grey
                given = (v.mean(keepdims=True) for v in given)
            mean, std = (v[:, None] for v in given)
            table = (table - mean) / std
        return np.stack([table[c][array[..., c]] for c in range(array.shape[-1])])


def read_settings(folder: Path) -> PictureSettings:
    """The settings of a checkpoint folder.

    Raises CheckpointError if it holds none, or a processor that is not known here.
    """
    data, file = _read(folder)
    name = data.get("image_processor_type") or data.get("feature_extractor_type") or "ViT"
    kind = str(name).lower()
    for ending in ("pil", "fast", "imageprocessor", "featureextractor"):
        kind = kind.removesuffix(ending)
    if kind not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise CheckpointError(f"{file}: {name!r} is not supported (known processors: {known})")
    try:
        return _settings(kind, _EVERYWHERE | _DEFAULTS[kind] | _present(data))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{file}: {error}") from None


def _read(folder: Path) -> tuple[dict[str, Any], Path]:
    for name, key in ((SETTINGS_FILE, None), (_JOINT_FILE, "image_processor")):
        file = folder / name
        if not file.is_file():
            continue
        try:
            data = json.loads(read_bytes(file, _MAX_BYTES, CheckpointError))
            data = data if key is None else data[key]
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} is not valid JSON") from error
        except (KeyError, TypeError):
            continue
        if not isinstance(data, dict):
            raise CheckpointError(f"{file} does not hold a JSON object")
        return data, file
    raise CheckpointError(f"{folder} does not say how pictures are prepared: no {SETTINGS_FILE}")


def _present(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}


def _settings(kind: str, data: Mapping[str, Any]) -> PictureSettings:
    donut = kind == "donut"
    size = _size(data["size"], donut, kind not in _BY_SHORT_EDGE)
    target = size if isinstance(size, tuple) else (size, size)
    padded = bool(data.get("do_pad"))
    pad = target if donut else _size(data["pad_size"], False, True) if padded else None
    crop = _size(data["crop_size"], False, True)
    resample = int(data["resample"])
    if resample not in set(map(int, Image.Resampling)):
        raise ValueError(f"resample {resample} is no filter")
    numbers = {name: _channels(data[name], name) for name in ("image_mean", "image_std")}
    if 0 in numbers["image_std"]:
        raise ValueError("image_std holds a zero")
    return PictureSettings(
        align_long_axis=donut and bool(data.get("do_align_long_axis")),
        size=(min(target) if donut else size) if data["do_resize"] else None,
        resample=resample,
        thumbnail=target if donut and data["do_thumbnail"] else None,
        pad=pad if padded and isinstance(pad, tuple) else None,
        pad_around=donut,
        crop=crop if data.get("do_center_crop") and isinstance(crop, tuple) else None,
        rescale=_number(data.get("rescale_factor", 1 / 255)) if data["do_rescale"] else None,
        mean=numbers["image_mean"] if data["do_normalize"] else None,
        std=numbers["image_std"] if data["do_normalize"] else None,
    )


def _size(value: Any, width_first: bool, square: bool) -> tuple[int, int] | int:
    """(height, width), or the shorter side."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value and "longest_edge" not in value:
            return _side(value["shortest_edge"])
        if not {"height", "width"} <= set(value):
            raise ValueError(
                f"size must hold height and width, or shortest_edge, not {list(value)}"
            )
        return _side(value["height"]), _side(value["width"])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        first, second = (_side(side) for side in value)
        return (second, first) if width_first else (first, second)
    side = _side(value)
    return (side, side) if square else side


def _side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIDE:
        raise ValueError(f"a side of a picture must be 1 to {_MAX_SIDE} pixels, not {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a finite number")
    return float(value)


def _channels(value: Any, name: str) -> tuple[float, ...]:
    numbers = tuple(_number(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if len(numbers) not in (1, 3):
        raise ValueError(f"{name} must hold one number, or one for each colour, not {len(numbers)}")
    return numbers


def _target(image: Image.Image, size: tuple[int, int] | int) -> tuple[int, int]:
    """(height, width); where `size` is the shorter side, the shape is kept."""
    if isinstance(size, tuple):
        return size
    short, long = sorted(image.size)
    other = int(size * long / short)
    return (other, size) if image.width <= image.height else (size, other)


def _fitted(image: Image.Image, limit: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that is fitted into `limit`, by Donut's rule."""
    height, width = min(image.height, limit[0]), min(image.width, limit[1])
    if (height, width) == (image.height, image.width):
        return height, width
    if image.height > image.width:
        width = int(image.width * height / image.height)
    elif image.width > image.height:
        height = int(image.height * width / image.width)
    return height, width


def _padded(array: np.ndarray, size: tuple[int, int], around: bool) -> np.ndarray:
    more = [size[axis] - array.shape[axis] for axis in (0, 1)]
    if min(more) < 0:
        shown = f"{array.shape[1]}x{array.shape[0]}"
        raise InputError(
            f"a picture of {shown} pixels is larger than its frame {size[1]}x{size[0]}"
        )
    before = [side // 2 if around else 0 for side in more]
    margins = [(b, side - b) for b, side in zip(before, more, strict=True)]
    return np.pad(array, [*margins, (0, 0)])


def _cropped(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle; black where the picture is smaller."""
    for axis in (0, 1):
        have, want = array.shape[axis], size[axis]
        if have < want:  # the odd pixel of black comes first, as in transformers
            margins = [(0, 0)] * 3
            margins[axis] = (math.ceil((want - have) / 2), (want - have) // 2)
            array = np.pad(array, margins)
        else:
            start = (have - want) // 2
            array = array.take(range(start, start + want), axis=axis)
    return array
