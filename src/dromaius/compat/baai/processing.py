"""The processor of the BAAI repositories: text and pictures <-> ids (spec sections 4.1-4.4)."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

from dromaius.compat.baai.image_processing import Emu3VisionVQImageProcessor
from dromaius.compat.baai.tokenization import Emu3Tokenizer
from dromaius.compat.baai.vision import Emu3VisionVQModel
from dromaius.compat.grid_rule import GridRule
from dromaius.models.emu3.vocabulary import Vocabulary

CHAT_TEMPLATE = "You are a helpful assistant. USER: {image_prompt}{text_prompt}. ASSISTANT:"
STAGE1_TEMPLATE = "{image_prompt}{text_prompt}"
"""For Emu3-Stage1; give it to the processor. The tokenizer ignores templates, also upstream."""

VISUAL_TEMPLATE = ("<|visual token {token_id:0>6d}|>", r"<\|visual token (\d+)\|>")
"""How a code is written as text, and the expression that finds it there."""


class Emu3Processor(ProcessorMixin):
    """Prompts with pictures as ids, and ids as text and pictures.

    Legend: H/W pixels, h/w grid of codes.
    """

    def __init__(
        self,
        image_processor: Emu3VisionVQImageProcessor,
        vision_tokenizer: Emu3VisionVQModel | None = None,
        tokenizer: Emu3Tokenizer | None = None,
        chat_template: str = CHAT_TEMPLATE,
        prefix_template: str = "{H}*{W}",
        visual_template: tuple[str, str] = VISUAL_TEMPLATE,
        **kwargs: Any,
    ) -> None:
        """Raises AssertionError without a vision tokenizer, TypeError for parts in wrong order."""
        assert vision_tokenizer is not None, "image tokenizer can not be None"
        if tokenizer is None:
            raise TypeError("Emu3Processor needs a tokenizer")
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)
        if not callable(getattr(vision_tokenizer, "encode", None)):
            raise TypeError(f"{type(vision_tokenizer).__name__} is no vision tokenizer")
        self.vision_tokenizer = vision_tokenizer
        self.prefix_template = prefix_template
        self.visual_template = visual_template

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that transformers checks and saves; the vision tokenizer is a model."""
        return ["image_processor", "tokenizer"]

    def to_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes: everything but the vision tokenizer's weights."""
        vision_tokenizer = self.__dict__.pop("vision_tokenizer")
        try:
            return super().to_dict()
        finally:
            self.vision_tokenizer = vision_tokenizer

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the base takes one folder for all parts
        cls, source: Any, vision_tokenizer: Any, **kwargs: Any
    ) -> "Emu3Processor":
        """Read the tokenizer of one folder, image processor and vision tokenizer of another."""
        return cls(
            Emu3VisionVQImageProcessor.from_pretrained(vision_tokenizer),
            Emu3VisionVQModel.from_pretrained(vision_tokenizer),
            Emu3Tokenizer.from_pretrained(source, padding_side="left"),
            **kwargs,
        )

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        image: Image.Image | Sequence[Image.Image] | None = None,
        *,
        mode: str = "G",
        ratio: str | Sequence[str] = "1:1",
        image_area: int = 720 * 720,
        padding_image: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Ids of prompts.

        Args:
            text: one prompt or several.
            image: mode "U": as many pictures as prompts.
            mode: "G" to generate a picture, "U" to understand one.
            ratio: mode "G": "W:H", one for all or one per prompt.
            image_area: mode "G": pixels of the picture to come.
            padding_image: mode "U": pictures of different sizes are padded to the largest and
                encoded in one go. Padding changes their codes; without it they go one by one.
            kwargs: for the tokenizer (padding, return_tensors, ...).

        Returns:
            The tokenizer's fields, and "image_size": [h,w] of each picture, in codes.

        Raises:
            ValueError: arguments that do not fit together. AssertionError: another mode.
        """
        assert mode in ("G", "U"), "mode must be 'G' or 'U'."
        texts = [text] if isinstance(text, str) else list(text or ())
        if not texts or not all(isinstance(t, str) for t in texts):
            raise ValueError("`text` must be a string or a list of strings")
        if mode == "G":
            blocks, sizes = self._headers(texts, image, ratio, image_area)
            prompts = [t + block for t, block in zip(texts, blocks, strict=True)]
        else:
            blocks, sizes = self._pictures(texts, image, padding_image)
            prompts = [
                self.chat_template.format(image_prompt=block, text_prompt=t)  # type: ignore[union-attr]  # ours is a str
                for t, block in zip(texts, blocks, strict=True)
            ]
        fields = self.tokenizer([self.tokenizer.bos_token + prompt for prompt in prompts], **kwargs)
        return BatchFeature(
            {**fields, "image_size": sizes}, tensor_type=kwargs.get("return_tensors")
        )

    def _headers(
        self, texts: list[str], image: Any, ratio: str | Sequence[str], area: int
    ) -> tuple[list[str], list[list[int]]]:
        """What stands before the first code of the pictures to come, and their sizes."""
        if image is not None:
            raise ValueError("mode 'G' takes no image")
        ratios = [ratio] * len(texts) if isinstance(ratio, str) else list(ratio)
        if len(ratios) != len(texts):
            raise ValueError(f"{len(ratios)} ratios were given for {len(texts)} texts")
        factor = self.vision_tokenizer.spatial_scale_factor
        sizes = [list(self.calculate_generate_size(r, area, factor)) for r in ratios]
        return [self._header(h, w) for h, w in sizes], sizes

    def _pictures(
        self, texts: list[str], image: Any, padding_image: bool
    ) -> tuple[list[str], list[list[int]]]:
        """Whole pictures as text, and their sizes."""
        images = [image] if isinstance(image, Image.Image) else list(image or ())
        if not images or not all(isinstance(one, Image.Image) for one in images):
            raise ValueError("mode 'U' takes a PIL image or a list of them")
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images were given for {len(texts)} texts")
        tokenizer, blocks, sizes = self.tokenizer, [], []
        for codes in self.tokenize_image(images, padding_image=padding_image):
            h, w = codes.shape
            closing = tokenizer.eol_token + tokenizer.eof_token + tokenizer.eoi_token
            blocks.append(self._header(h, w) + self.to_imgstr(codes) + closing)
            sizes.append([h, w])
        return blocks, sizes

    def _header(self, height: int, width: int) -> str:
        size = self.prefix_template.format(H=height, W=width)
        return str(self.tokenizer.boi_token + size + self.tokenizer.img_token)

    @torch.no_grad()
    def tokenize_image(
        self, image: Sequence[Image.Image], *, padding_image: bool = False
    ) -> Tensor | list[Tensor]:
        """PIL images -> codes [N,h,w], or a list of [h,w] if their sizes differ."""
        same_size = all(one.size == image[0].size for one in image)
        if same_size:
            return self._encode(self._pixels(image))
        pixels = [self._pixels(one)[0] for one in image]  # [3,H,W] each
        if not padding_image:
            return [self._encode(one[None])[0] for one in pixels]
        height, width = (max(one.shape[axis] for one in pixels) for axis in (1, 2))
        batch = pixels[0].new_zeros(len(pixels), 3, height, width)
        for row, one in zip(batch, pixels, strict=True):
            row[:, : one.shape[1], : one.shape[2]] = one
        factor = self.vision_tokenizer.spatial_scale_factor
        return [
            codes[: -(-one.shape[1] // factor), : -(-one.shape[2] // factor)]
            for codes, one in zip(self._encode(batch), pixels, strict=True)
        ]

    def _pixels(self, image: Any) -> Tensor:
        return self.image_processor(image, return_tensors="pt")["pixel_values"]

    def _encode(self, pixels: Tensor) -> Tensor:
        model = self.vision_tokenizer
        return model.encode(pixels.to(model.device, model.dtype))

    @staticmethod
    def calculate_generate_size(ratio: str, image_area: int, spatial: int) -> tuple[int, int]:
        """Grid (rows, columns) of about `image_area` pixels with the ratio "W:H"; half to even.

        Raises ValueError for a malformed ratio or an area too small for one code.
        """
        try:
            w, h = (int(part) for part in ratio.split(":"))
            scale = (image_area / (h * w)) ** 0.5
        except (ValueError, ZeroDivisionError, AttributeError):
            raise ValueError(f"ratio must look like 16:9, got {ratio!r}") from None
        rows, columns = round(h * scale / spatial), round(w * scale / spatial)
        if rows < 1 or columns < 1:
            raise ValueError(f"image_area {image_area} is too small for the ratio {ratio!r}")
        return rows, columns

    def to_imgstr(self, image_tokens: Tensor) -> str:
        """Codes [h,w] as text, rows joined by the line end."""
        rows = (
            "".join(self.visual_template[0].format(token_id=code) for code in row)
            for row in image_tokens.tolist()
        )
        return str(self.tokenizer.eol_token).join(rows)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Ids of one sequence -> text and PIL images in order; a single piece comes alone."""
        return self.multimodal_decode(self.tokenizer.decode(*args, **kwargs))

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[Any]:
        """`decode` of each sequence; `skip_special_tokens=True` drops pictures too, as upstream."""
        return [self.multimodal_decode(doc) for doc in self.tokenizer.batch_decode(*args, **kwargs)]

    @torch.no_grad()
    def multimodal_decode(self, doc: str) -> Any:
        """Text with pictures written out -> list of str and PIL images, or its only piece.

        Raises ValueError for a picture without codes or with rows of different lengths.
        """
        boi, eoi = (re.escape(t) for t in (self.tokenizer.boi_token, self.tokenizer.eoi_token))
        pieces: list[str | Image.Image] = []
        for index, chunk in enumerate(re.split(f"({boi}.*?{eoi})", doc)):
            if index % 2:  # what the group matched
                pieces.append(self._picture(chunk))
            elif chunk:
                pieces.append(chunk)
        return pieces[0] if len(pieces) == 1 else pieces

    def _picture(self, text: str) -> Image.Image:
        rows = [
            [int(code) for code in re.findall(self.visual_template[1], line)]
            for line in text.split(self.tokenizer.eol_token)
        ]
        rows = [row for row in rows if row]
        if len({len(row) for row in rows}) != 1:
            lengths = sorted({len(row) for row in rows})
            raise ValueError(f"a picture's rows must have one length, got {lengths or 'no rows'}")
        codes = torch.tensor([rows], device=self.vision_tokenizer.device)  # [1,h,w]
        pixels = self.vision_tokenizer.decode(codes).float()
        return self.image_processor.postprocess(pixels)["pixel_values"][0]

    def postprocess(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Decoded pixels -> pictures; see `Emu3VisionVQImageProcessor.postprocess`."""
        return self.image_processor.postprocess(*args, **kwargs)

    def build_prefix_constrained_fn(self, height: Any, width: Any) -> GridRule:
        """The rule for `PrefixConstrainedLogitsProcessor`.

        Args:
            height, width: sizes in codes as the call returned them; 1-D tensors or arrays, one
                entry per row of the batch, or one number for all rows.
        """
        return GridRule.from_sizes(height, width, self._vocabulary())

    def _vocabulary(self) -> Vocabulary:
        t = self.tokenizer
        return Vocabulary(
            pad=t.pad_token_id,
            bos=t.bos_token_id,
            eos=t.eos_token_id,
            image_token=t.img_token_id,
            image_start=t.boi_token_id,
            image_end=t.eoi_token_id,
            end_of_line=t.eol_token_id,
            end_of_frame=t.eof_token_id,
            visual_start=t.convert_tokens_to_ids(self.visual_template[0].format(token_id=0)),
            codebook_size=self.vision_tokenizer.config.codebook_size,
        )
