"""Emu3Processor: text and pictures -> model inputs (spec: emu3.md, sections 4.1 and 4.6)."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, TextKwargs

from dromaius.compat.grid_rule import GridRule
from dromaius.compat.transformers.image_processing import Emu3ImageProcessor
from dromaius.compat.transformers.loading import WITHOUT_EFFECT
from dromaius.compat.transformers.tokenization import load_transformers_tokenizer, vocabulary_of
from dromaius.io import hub
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.config import ImageSettings
from dromaius.models.emu3.export import CHAT_TEMPLATE
from dromaius.models.emu3.layouts import detect, read_config, read_json
from dromaius.models.emu3.prompt import generation_grid

GRID_SIDE = 8
"""Pixels per code along one side, whatever the image processor's `spatial_factor`."""
_OWN = ("return_for_image_generation", "ratio", "image_area")


class Emu3ProcessorKwargs(ProcessingKwargs, total=False):
    """What `Emu3Processor.__call__` accepts besides text and pictures."""

    text_kwargs: TextKwargs
    images_kwargs: ImagesKwargs


class Emu3Processor(ProcessorMixin):
    """A tokenizer and an image processor that speak Emu3's prompts. Arguments: seed 000.

    Pads left unless the tokenizer's files or the caller set `tokenizer.padding_side`: published
    files store none, and with transformers' default, right, the rows of every shorter prompt's
    picture start at the wrong place.
    """

    valid_processor_kwargs = Emu3ProcessorKwargs
    ratio = "1:1"
    image_area = ImageSettings.image_area

    def __init__(
        self, image_processor: Any, tokenizer: Any, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        self.image_token = tokenizer.image_token
        self.image_token_id = tokenizer.image_token_id
        self.image_start_token = tokenizer.boi_token
        self.image_end_token = tokenizer.eoi_token
        self.fake_token_around_image = tokenizer.image_wrapper_token
        self.eof_token = tokenizer.eof_token
        self.bos_token = tokenizer.bos_token
        self.downsample_ratio = GRID_SIDE
        if tokenizer.init_kwargs.get("padding_side") is None:
            tokenizer.padding_side = "left"
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # any layout, one signature
        cls, pretrained_model_name_or_path: str | Path, revision: str = "main", **kwargs: Any
    ) -> "Emu3Processor":
        """Read tokenizer, image settings and chat template of a folder or hub id.

        `image_processor` and `vision_tokenizer` (BAAI: the folder or hub id with the image
        settings) may be given; other arguments are settings of the image processor.
        """
        folder = hub.resolve(
            pretrained_model_name_or_path, None if revision == "main" else revision
        )
        partner = kwargs.pop("vision_tokenizer", None)
        images = kwargs.pop("image_processor", None)
        tokenizer = load_transformers_tokenizer(folder)
        if (side := kwargs.pop("padding_side", None)) is not None:
            tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = side
        kwargs = {k: v for k, v in kwargs.items() if k not in WITHOUT_EFFECT}
        if images is None:
            settings = _image_settings(hub.resolve(partner) if partner is not None else folder)
            images = Emu3ImageProcessor.from_dict(settings)
            known = inspect.signature(Emu3ImageProcessor).parameters
            for name, value in kwargs.items():
                if name not in known:
                    raise TypeError(f"Emu3Processor.from_pretrained got an unknown {name!r}")
                setattr(images, name, value)
        processor = cls(images, tokenizer, chat_template=_chat_template(folder))
        processor.image_area = _generated_area(folder)
        return processor

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Write an -hf processor; arguments as upstream's."""
        if (backend := getattr(self.tokenizer, "backend_tokenizer", None)) is not None:
            backend.no_padding()  # state of the last call, not a setting
            backend.no_truncation()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def __call__(
        self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Model inputs of prompts, with pictures or for a picture.

        Args:
            images: pictures for the `<image>` marks of all prompts, in reading order.
            text: one prompt or several; special tokens in it are read as such.
            return_for_image_generation: end each prompt with the header of a picture of `ratio`
                ("W:H") and `image_area` (pixels); `image_sizes` are then (rows, columns) of codes
                as numbers. Defaults: the processor's attributes of these names.
            **kwargs: options of the tokenizer and of the image processor, also as `text_kwargs`,
                `images_kwargs` or `common_kwargs`.

        Raises ValueError where marks and pictures differ in number, or arguments contradict.
        """
        kwargs, own = _take_own(kwargs)
        merged = self._merge_kwargs(
            Emu3ProcessorKwargs,  # type: ignore[arg-type]  # the class, as upstream's callers do
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            **kwargs,
        )
        text_options, image_options = merged["text_kwargs"], merged["images_kwargs"]
        prompts = [text] if isinstance(text, str) else text
        if prompts is not None and not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("text must be a string or a list of strings")
        if own.get("return_for_image_generation"):
            return self._for_generation(images, prompts, own, text_options)
        if prompts is None and images is None:
            raise ValueError("give text, images or both")
        features: Any = {} if images is None else self.image_processor(images, **image_options)
        if prompts is None:
            return features
        prompts = self._expand(list(prompts), features.get("image_sizes", ()))
        return BatchFeature({**self._tokenize(prompts, text_options), **features})

    def calculate_generate_size(
        self, ratio: str, image_area: int, spatial_factor: int
    ) -> tuple[int, int]:
        """(rows, columns) of codes of a picture of about `image_area` pixels."""
        return generation_grid(ratio, image_area, spatial_factor)

    def build_prefix_constrained_fn(self, height: Any, width: Any) -> GridRule:
        """The rule of a picture for `generate(prefix_allowed_tokens_fn=...)`, as BAAI's processor.

        Args:
            height, width: rows and columns of codes, one number for all prompts or one each.
        """
        return GridRule.from_sizes(height, width, vocabulary_of(self.tokenizer))

    def postprocess(self, images: Any, **kwargs: Any) -> Any:
        """See `Emu3ImageProcessor.postprocess`."""
        return self.image_processor.postprocess(images, **kwargs)

    def _for_generation(
        self, images: Any, prompts: Sequence[str] | None, own: dict[str, Any], options: Any
    ) -> BatchFeature:
        if images is not None:
            raise ValueError("return_for_image_generation=True takes no images")
        if prompts is None:
            raise ValueError("return_for_image_generation=True needs text")
        ratio = own.get("ratio", self.ratio)
        if not isinstance(ratio, str):
            raise ValueError(f"ratio must be one string such as '16:9', got {ratio!r}")
        area = own.get("image_area", self.image_area)
        rows, columns = self.calculate_generate_size(ratio, area, self.downsample_ratio)
        header = f"{self.image_start_token}{rows}*{columns}{self.fake_token_around_image}"
        inputs = BatchFeature(self._tokenize([f"{p}{header}" for p in prompts], options))
        inputs["image_sizes"] = [[rows, columns] for _ in prompts]
        return inputs

    def _tokenize(self, prompts: list[str], options: dict[str, Any]) -> dict[str, Any]:
        if options.get("add_special_tokens", True):
            prompts = [f"{self.bos_token}{prompt}" for prompt in prompts]
        options.setdefault("return_token_type_ids", False)
        for name in ("return_mm_token_type_ids", "return_text_replacement_offsets"):
            if options.pop(name, False):
                raise ValueError(f"{name} is not supported")
        return dict(self.tokenizer(prompts, **options))

    def _expand(self, prompts: list[str], sizes: Any) -> list[str]:
        """Each `<image>` mark -> header, placeholders for the rows, end of frame, end of image."""
        marks = sum(prompt.count(self.image_token) for prompt in prompts)
        if marks != len(sizes):
            raise ValueError(
                f"the text has {marks} {self.image_token} marks for {len(sizes)} images"
            )
        blocks = iter([self._block(*(int(side) for side in size)) for size in sizes])
        return [re.sub(re.escape(self.image_token), lambda _: next(blocks), p) for p in prompts]

    def _block(self, height: int, width: int) -> str:
        rows, columns = height // self.downsample_ratio, width // self.downsample_ratio
        return (
            f"{self.image_start_token}{rows}*{columns}{self.fake_token_around_image}"
            f"{self.image_token * (rows * (columns + 1))}{self.eof_token}{self.image_end_token}"
        )


def _take_own(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split off the processor's own options, wherever they are nested.

    Raises ValueError if one is given twice with different values.
    """
    nested = ("images_kwargs", "text_kwargs", "common_kwargs")
    kwargs = {k: dict(v) if k in nested else v for k, v in kwargs.items()}
    own: dict[str, Any] = {}
    for table in (kwargs, *(kwargs[name] for name in nested if name in kwargs)):
        for name in _OWN:
            if name in table:
                value = table.pop(name)
                if own.setdefault(name, value) != value:
                    raise ValueError(f"{name} is given twice: {own[name]!r} and {value!r}")
    return kwargs, own


def _generated_area(folder: Path) -> int:
    """Pixels of a generated picture; -hf files do not say, ours and BAAI's do."""
    if (folder / "config.json").exists() and detect(folder) in ("dromaius", "baai"):
        return read_config(folder).image.image_area
    return ImageSettings.image_area


def _image_settings(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            data = read_json(folder / name)
            data = data.get("image_processor", data) if name.startswith("processor") else data
            if "min_pixels" in data or "image_mean" in data:
                return {k: v for k, v in data.items() if k not in ("auto_map", "size")}
    if (folder / "config.json").exists() and detect(folder) == "dromaius":
        return dialects.to_foreign(read_config(folder).image, dialects.IMAGE_PROCESSOR)
    # Every published checkpoint has 0.5; the class default (CLIP's) is right for none.
    return {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _chat_template(folder: Path) -> str | None:
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json"):
        path = folder / name
        if path.exists() and name.endswith(".jinja"):
            return path.read_text(encoding="utf-8")
        if path.exists() and isinstance(template := read_json(path).get("chat_template"), str):
            return template
    return None
