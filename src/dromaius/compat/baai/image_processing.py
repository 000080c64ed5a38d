"""The vision tokenizer's image processor of the BAAI repositories (spec section 4.3)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import resize, to_channel_dimension_format
from transformers.image_utils import (
    ChannelDimension,
    PILImageResampling,
    infer_channel_dimension_format,
    to_numpy_array,
)

from dromaius.io import hub
from dromaius.models.emu3.config import ImageSettings
from dromaius.models.emu3.prompt import smart_resize

MAX_ASPECT = 5.0


class Emu3VisionVQImageProcessor(BaseImageProcessor):
    """Pictures <-> pixel values. Legend: N pictures, H/W pixels.

    An alpha channel is dropped, as upstream does it (`dromaius.load` lays it on white instead).
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        do_resize: bool = True,
        resample: int = PILImageResampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_convert_rgb: bool = True,
        min_pixels: int = 512 * 512,
        max_pixels: int = 1024 * 1024,
        spatial_factor: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.do_resize = do_resize
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = [0.5] * 3 if image_mean is None else image_mean
        self.image_std = [0.5] * 3 if image_std is None else image_std
        self.do_convert_rgb = do_convert_rgb
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.spatial_factor = spatial_factor

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer arguments: nothing is run or fetched
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> "Emu3VisionVQImageProcessor":
        """Read preprocessor_config.json of a folder or hub id; `trust_remote_code` runs nothing."""
        kwargs.pop("trust_remote_code", None)
        folder = hub.resolve(pretrained_model_name_or_path, kwargs.pop("revision", None))
        if (folder / "preprocessor_config.json").is_file():
            return super().from_pretrained(str(folder), **kwargs)
        # -hf folders written by transformers 5 and our own keep these settings elsewhere
        from dromaius.models.emu3.layouts import read_config

        image = read_config(folder).image
        settings = {
            "min_pixels": image.min_pixels,
            "max_pixels": image.max_pixels,
            "image_mean": list(image.mean),
            "image_std": list(image.std),
            "rescale_factor": image.rescale_factor,
            "resample": image.resample,
        }
        return cls(**{**settings, **kwargs})

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_convert_rgb: bool | None = None,
        return_tensors: Any = None,
        data_format: ChannelDimension | str = ChannelDimension.FIRST,
        input_data_format: ChannelDimension | str | None = None,
    ) -> BatchFeature:
        """One picture, or pictures of one size (frames of a clip) -> "pixel_values" [N,3,H,W].

        PIL images, arrays or tensors, values 0..255. An argument left None is the processor's own.
        Raises ValueError for pictures of different sizes, under 8 pixels or beyond 5:1.
        """

        def chosen(name: str, value: Any) -> Any:
            return getattr(self, name) if value is None else value

        arrays, dimension = self._arrays(
            images, chosen("do_convert_rgb", do_convert_rgb), input_data_format
        )
        if chosen("do_resize", do_resize):
            size = self._size(arrays[0], dimension)
            filter_ = chosen("resample", resample)
            arrays = [resize(a, size, filter_, input_data_format=dimension) for a in arrays]
        out = []
        for array in arrays:
            values: Any = array
            if chosen("do_rescale", do_rescale):
                # float64 first, then float32: the rounding of upstream, bit for bit
                factor = chosen("rescale_factor", rescale_factor)
                values = (values.astype(np.float64) * factor).astype(np.float32)
            values = to_channel_dimension_format(values, ChannelDimension.LAST, dimension)
            if chosen("do_normalize", do_normalize):
                mean = np.asarray(chosen("image_mean", image_mean), dtype=np.float32)
                std = np.asarray(chosen("image_std", image_std), dtype=np.float32)
                values = (values.astype(np.float32) - mean) / std
            out.append(to_channel_dimension_format(values, data_format, ChannelDimension.LAST))
        return BatchFeature({"pixel_values": np.stack(out)}, tensor_type=return_tensors)

    def postprocess(
        self,
        images: Any,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        return_tensors: Any = "PIL.Image.Image",
        input_data_format: ChannelDimension | str | None = None,
    ) -> BatchFeature:
        """Decoded pixels [3,H,W], [N,3,H,W] or a list of them -> "pixel_values".

        A list of PIL images, or with another `return_tensors` uint8 [N,H,W,3]. Values are clipped
        and truncated, as upstream (0.0 becomes 127).
        """

        def chosen(name: str, value: Any) -> Any:
            return getattr(self, name) if value is None else value

        mean = np.asarray(chosen("image_mean", image_mean), dtype=np.float32)
        std = np.asarray(chosen("image_std", image_std), dtype=np.float32)
        out = []
        for image in _split(images):
            values: Any = to_numpy_array(image)
            dimension = input_data_format or infer_channel_dimension_format(values)
            values = to_channel_dimension_format(values, ChannelDimension.LAST, dimension)
            values = values.astype(np.float32)
            if chosen("do_normalize", do_normalize):
                values = values * std + mean
            if chosen("do_rescale", do_rescale):
                values = values / np.float32(chosen("rescale_factor", rescale_factor))
            out.append(np.nan_to_num(values).clip(0, 255).astype(np.uint8))
        if return_tensors == "PIL.Image.Image":
            return BatchFeature({"pixel_values": [Image.fromarray(array) for array in out]})
        return BatchFeature({"pixel_values": np.stack(out)}, tensor_type=return_tensors)

    def _arrays(
        self, images: Any, convert: bool, dimension: ChannelDimension | str | None
    ) -> tuple[list[np.ndarray], ChannelDimension]:
        """Arrays of one size and where their channels are."""
        arrays = [
            to_numpy_array(
                image.convert("RGB") if convert and isinstance(image, Image.Image) else image
            )
            for image in _split(images)
        ]
        if not arrays:
            raise ValueError("no pictures given")
        if len({array.shape for array in arrays}) > 1:
            sizes = sorted({array.shape for array in arrays})
            raise ValueError(f"pictures of one call must have one size, got {sizes}")
        found = dimension or infer_channel_dimension_format(arrays[0])
        return arrays, ChannelDimension(found)

    def _size(self, array: np.ndarray, dimension: ChannelDimension) -> tuple[int, int]:
        first = dimension == ChannelDimension.FIRST
        height, width = array.shape[-2:] if first else array.shape[:2]
        bounds = ImageSettings(
            min_pixels=self.min_pixels, max_pixels=self.max_pixels, max_aspect=MAX_ASPECT
        )
        return smart_resize(height, width, bounds, self.spatial_factor)


def _split(images: Any) -> list[Any]:
    """One picture or many -> list of pictures; tensors leave the graph."""
    if isinstance(images, torch.Tensor):
        images = images.detach().float().cpu()
    if isinstance(images, (torch.Tensor, np.ndarray)):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence):
        return [one for image in images for one in _split(image)]
    return [images]
