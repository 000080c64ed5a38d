"""Emu3ImageProcessor: pictures of any kind <-> pixel values (spec: emu3.md, section 4.3)."""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, image_transforms
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    infer_channel_dimension_format,
    is_scaled_image,
    make_flat_list_of_images,
    to_numpy_array,
)

from dromaius.errors import InputError, warn_once
from dromaius.models.emu3.config import ImageSettings

Array = np.ndarray[Any, Any]
Format = str | ChannelDimension | None
PerChannel = float | Collection[float]

MAX_ASPECT = 200.0
"""transformers' bound on longest over shortest side; BAAI's is 5."""
_BOUNDS = {"min_pixels", "max_pixels"}


class Emu3ImageProcessor(BaseImageProcessor):
    """Resize, rescale, normalise and pad pictures. Arguments and defaults: seed 000.

    The default mean and standard deviation are CLIP's; every published checkpoint sets 0.5.
    """

    model_input_names = ["pixel_values", "image_sizes"]

    def __init__(
        self,
        do_resize: bool = True,
        resample: int = Image.Resampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: PerChannel | None = None,
        image_std: PerChannel | None = None,
        do_convert_rgb: bool = True,
        do_pad: bool = True,
        min_pixels: int = 512 * 512,
        max_pixels: int = 1024 * 1024,
        spatial_factor: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.do_resize = do_resize
        self.resample = int(resample)
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = OPENAI_CLIP_MEAN if image_mean is None else image_mean
        self.image_std = OPENAI_CLIP_STD if image_std is None else image_std
        self.do_convert_rgb = do_convert_rgb
        self.do_pad = do_pad
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.spatial_factor = spatial_factor
        self.size = {"min_pixels": min_pixels, "max_pixels": max_pixels}

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        size: dict[str, int] | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: PerChannel | None = None,
        image_std: PerChannel | None = None,
        do_convert_rgb: bool | None = None,
        do_pad: bool | None = None,
        return_tensors: str | None = None,
        data_format: Format = ChannelDimension.FIRST,
        input_data_format: Format = None,
    ) -> BatchFeature:
        """Pictures -> `pixel_values` and `image_sizes`, their (height, width) before padding.

        Arguments as in seed 000; None takes the processor's own setting. `size` is a table of
        `min_pixels` and `max_pixels` (transformers 5.23 ignores it).

        Raises InputError for a picture that cannot be resized, ValueError for a wrong argument.
        """
        steps = [
            self._reader(_or(do_convert_rgb, self.do_convert_rgb), input_data_format),
        ]
        if _or(do_rescale, self.do_rescale):
            steps.append(_warn_if_scaled)
        if _or(do_resize, self.do_resize):
            steps.append(self._resizer(size, _or(resample, self.resample)))
        if _or(do_rescale, self.do_rescale):
            factor = _or(rescale_factor, self.rescale_factor)
            steps.append(lambda x: image_transforms.rescale(x, factor))
        if _or(do_normalize, self.do_normalize):
            mean, std = _or(image_mean, self.image_mean), _or(image_std, self.image_std)
            steps.append(lambda x: _normalize(x, mean, std))
        arrays = []
        for image in _flat_list(self.fetch_images(images)):
            for step in steps:
                image = step(image)
            arrays.append(image)  # [H,W,C]
        sizes = [array.shape[:2] for array in arrays]
        if _or(do_pad, self.do_pad):
            arrays = _pad(arrays)
        fmt = ChannelDimension(data_format) if data_format is not None else None
        if fmt is None:  # that of the input
            fmt = _format_of(images, input_data_format)
        if fmt == ChannelDimension.FIRST:
            arrays = [np.ascontiguousarray(array.transpose(2, 0, 1)) for array in arrays]
        elif fmt != ChannelDimension.LAST:
            raise ValueError(f"data_format must be channels_first or channels_last, got {fmt}")
        same = len({array.shape for array in arrays}) == 1
        pixels = np.stack(arrays) if same and _or(do_pad, self.do_pad) else arrays
        if return_tensors is not None and not same:
            raise ValueError("pictures of different sizes need do_pad=True to become one tensor")
        data = {"pixel_values": pixels, "image_sizes": sizes}
        return BatchFeature(data=data, tensor_type=return_tensors)

    def postprocess(
        self,
        images: Any,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: PerChannel | None = None,
        image_std: PerChannel | None = None,
        return_tensors: str | None = "PIL.Image.Image",
        input_data_format: Format = None,
    ) -> Any:
        """Pixel values -> pictures: the way of `preprocess` backwards.

        images: a tensor or array [N,3,H,W] or [3,H,W], or a list of [3,H,W]; channels may be last.
        Values are truncated to bytes, as upstream does (0.0 becomes 127). Returns
        {"pixel_values": list of PIL images}, or for another `return_tensors` one array [N,3,H,W].
        PIL images are returned as they are.
        """
        pictures = _flat_list(images)
        if isinstance(pictures[0], Image.Image):
            return pictures if len(pictures) > 1 else pictures[0]
        do_rescale = _or(do_rescale, self.do_rescale)
        do_normalize = _or(do_normalize, self.do_normalize)
        factor = 1 / self.rescale_factor if rescale_factor is None else rescale_factor
        mean, std = _or(image_mean, self.image_mean), _or(image_std, self.image_std)
        arrays = []
        for picture in pictures:
            array = _channels_last(_to_array(picture), input_data_format)
            if do_normalize:
                array = _unnormalize(array, mean, std)
            if do_rescale:
                array = image_transforms.rescale(array, factor).clip(0, 255).astype(np.uint8)
            arrays.append(array)
        if return_tensors == "PIL.Image.Image" and do_rescale and do_normalize:
            return BatchFeature({"pixel_values": [Image.fromarray(array) for array in arrays]})
        arrays = [array.transpose(2, 0, 1) for array in arrays]
        same = len({array.shape for array in arrays}) == 1
        kind = None if return_tensors == "PIL.Image.Image" else return_tensors
        return BatchFeature(
            {"pixel_values": np.stack(arrays) if same else arrays}, tensor_type=kind
        )

    def _reader(self, to_rgb: bool, input_format: Format) -> Callable[[Any], Array]:
        def read(image: Any) -> Array:
            if isinstance(image, Image.Image):
                image = (
                    image_transforms.convert_to_rgb(image, return_numpy=True) if to_rgb else image
                )
                array = np.asarray(image)
                return array[..., None] if array.ndim == 2 else array
            array = _channels_last(_to_array(image), input_format, (1, 3, 4) if to_rgb else (1, 3))
            if to_rgb and array.shape[-1] != 3:
                rgb: Any = image_transforms.convert_to_rgb(
                    array, return_numpy=True, input_data_format=ChannelDimension.LAST
                )
                array = rgb
            return array

        return read

    def _resizer(self, size: dict[str, int] | None, resample: int) -> Callable[[Array], Array]:
        bounds = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels, **(size or {})}
        if unknown := sorted(set(bounds) - _BOUNDS):
            raise ValueError(f"size must hold min_pixels and max_pixels, got {unknown[0]!r}")
        settings = ImageSettings(bounds["min_pixels"], bounds["max_pixels"], MAX_ASPECT)
        kernel = Image.Resampling(resample)

        def resize(array: Array) -> Array:
            target = _target_size(array.shape[0], array.shape[1], settings, self.spatial_factor)
            return image_transforms.resize(
                array, target, kernel, input_data_format=ChannelDimension.LAST
            )

        return resize


def _target_size(height: int, width: int, bounds: ImageSettings, factor: int) -> tuple[int, int]:
    """As `prompt.smart_resize`, which refuses sides under `factor` pixels (BAAI's rule).

    Raises InputError for a picture that is too elongated or empty.
    """
    if max(height, width) > bounds.max_aspect * min(height, width):
        raise InputError(f"picture of {width}x{height} pixels is too elongated")
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > bounds.max_pixels:
        shrink = math.sqrt(height * width / bounds.max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < bounds.min_pixels:
        grow = math.sqrt(bounds.min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _flat_list(images: Any) -> list[Any]:
    """Any nesting of pictures -> one list; a picture without channel axis gets one."""
    if isinstance(images, (list, tuple)):
        return [one for entry in images for one in _flat_list(entry)]
    if getattr(images, "ndim", None) == 2:
        return [images[..., None]]
    flat: Any = make_flat_list_of_images(images)
    return list(flat)


def _to_array(image: Any) -> Array:
    if isinstance(image, torch.Tensor):
        # NumPy knows no bfloat16
        image = image.detach().cpu()
        return image.float().numpy() if image.dtype == torch.bfloat16 else image.numpy()
    return to_numpy_array(image)


def _channels_last(array: Array, given: Format, channels: tuple[int, ...] = (1, 3)) -> Array:
    if _is_grey(given):  # _flat_list gave it its third axis
        return array
    fmt = ChannelDimension(given) if given else infer_channel_dimension_format(array, channels)
    return array.transpose(1, 2, 0) if fmt == ChannelDimension.FIRST else array


def _is_grey(given: Format) -> bool:
    """Whether the format is "none", an array [H,W]; not every version has a member for it."""
    return str(getattr(given, "value", given)) == "none"


def _format_of(images: Any, given: Format) -> ChannelDimension:
    first = _flat_list(images)[0]
    if isinstance(first, Image.Image) or _is_grey(given):
        return ChannelDimension.LAST
    if given is not None:
        return ChannelDimension(given)
    return infer_channel_dimension_format(_to_array(first), (1, 3, 4))


def _normalize(array: Array, mean: PerChannel, std: PerChannel) -> Array:
    return image_transforms.normalize(array, mean, std, input_data_format=ChannelDimension.LAST)


def _unnormalize(array: Array, mean: PerChannel, std: PerChannel) -> Array:
    """x * std + mean, rounded as upstream rounds it: (x - (-mean/std)) / (1/std)."""
    means, stds = (np.broadcast_to(np.asarray(v, dtype=float), 3) for v in (mean, std))
    return _normalize(array, list(-means / stds), list(1 / stds))


def _warn_if_scaled(array: Array) -> Array:
    if is_scaled_image(array):
        warn_once("pixel values between 0 and 1 are rescaled again; else set do_rescale=False")
    return array


def _pad(arrays: list[Array]) -> list[Array]:
    """Zeros below and to the right, up to the largest height and width."""
    height, width = (max(array.shape[axis] for array in arrays) for axis in (0, 1))
    return [
        np.pad(array, ((0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)))
        for array in arrays
    ]
