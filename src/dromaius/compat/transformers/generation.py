"""`generate` with the guidance that a negative prompt asks for.

Upstream ignores `negative_prompt_ids` unless `guidance_scale` is given, and takes the unconditional
branch's softmax in the model's dtype (spec sections 0 and 5). Legend: B batch, T tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from dromaius.compat.drawing import GridGenerationMixin
from dromaius.compat.transformers.configuration import PUBLISHED_VOCAB_SIZE
from dromaius.errors import warn_once
from dromaius.models.emu3.config import GenerationSettings, VocabularyConfig


class Emu3GenerationMixin(GridGenerationMixin):
    """transformers' generation, pictures by the engine; a negative prompt always takes effect."""

    def generate(
        self: Any,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `GenerationMixin.generate`, but `negative_prompt_ids` alone means guidance 3.0.

        Where the prompt ends with a picture's header and the negative prompt does not, the header
        is appended to the negative prompt, so that both branches draw a picture of that size.
        """
        if kwargs.get("negative_prompt_ids") is not None:
            _turn_guidance_on(self, generation_config, kwargs)
            prompt = inputs if inputs is not None else kwargs.get("input_ids")
            if prompt is not None:
                _complete_negative_prompt(self, prompt, kwargs)
                _repeat_negative_prompt(self, prompt, generation_config, kwargs)
        return GridGenerationMixin.generate(self, inputs, generation_config, *args, **kwargs)

    def _get_logits_processor(self: Any, *args: Any, **kwargs: Any) -> Any:
        processors = GenerationMixin._get_logits_processor(self, *args, **kwargs)
        for processor in processors:
            if (
                isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
                and processor.model is self
            ):
                processor.model = _LastLogitsInFloat32(processor.model)
        return processors


@dataclass(frozen=True)
class _LastLogitsInFloat32:
    """What the guidance processor needs of the unconditional branch, as exact as the other."""

    model_behind: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.model_behind(*args, **kwargs, logits_to_keep=1, return_dict=True)
        output.logits = output.logits.float()
        return output


def _turn_guidance_on(model: Any, generation_config: Any, kwargs: dict[str, Any]) -> None:
    given = kwargs.get("guidance_scale")
    settings = generation_config or model.generation_config
    if given is None and getattr(settings, "guidance_scale", None) is None:
        scale = GenerationSettings.guidance
        warn_once(
            f"negative_prompt_ids without guidance_scale: guidance {scale} is used "
            "(transformers ignores the negative prompt)"
        )
        kwargs["guidance_scale"] = scale


def _complete_negative_prompt(model: Any, prompt: Tensor, kwargs: dict[str, Any]) -> None:
    """Append each prompt's picture header to its negative prompt, where that has none."""
    markers = picture_markers(model.config)
    negative = kwargs["negative_prompt_ids"]
    if markers is None or len(negative) != len(prompt):
        return
    headers = [_header(row.tolist(), *markers) for row in prompt]
    mask = kwargs.get("negative_prompt_attention_mask")
    kept = torch.ones_like(negative, dtype=torch.bool) if mask is None else mask.bool()
    rows = [row[keep].tolist() for row, keep in zip(negative, kept, strict=True)]
    completed = [
        row if _header(row, *markers) else row + header
        for row, header in zip(rows, headers, strict=True)
    ]
    if completed == rows:
        return
    warn_once(
        "the negative prompt has no picture header: the prompt's own is appended "
        "(transformers' unconditional branch does not know that a picture is due)"
    )
    pad = model.config.get_text_config().pad_token_id or 0
    ids, attention = pad_left(completed, pad)
    kwargs["negative_prompt_ids"] = ids.to(negative.device)
    kwargs["negative_prompt_attention_mask"] = attention.to(negative.device)


def _repeat_negative_prompt(
    model: Any, prompt: Tensor, generation_config: Any, kwargs: dict[str, Any]
) -> None:
    """One row for each row that is generated, where upstream fails: several results a prompt.

    Raises ValueError where prompts and negative prompts differ in number.
    """
    settings = generation_config or model.generation_config
    names = ("num_return_sequences", "num_beams")
    copies = max(kwargs.get(name) or getattr(settings, name, None) or 1 for name in names)
    rows = len(kwargs["negative_prompt_ids"])
    if rows not in (len(prompt), len(prompt) * copies):
        raise ValueError(f"{rows} negative prompts for {len(prompt)} prompts")
    if rows == len(prompt) and copies > 1:
        for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name].repeat_interleave(copies, dim=0)


def picture_markers(config: Any) -> tuple[int, int] | None:
    """Ids of image start and image token; None where the vocabulary is unknown."""
    names = getattr(config, "vocabulary_map", None) or {}
    if "<|image start|>" in names and "<|image token|>" in names:
        return names["<|image start|>"], names["<|image token|>"]
    if config.get_text_config().vocab_size == PUBLISHED_VOCAB_SIZE:
        return VocabularyConfig.image_start, VocabularyConfig.image_token
    return None


def _header(ids: list[int], image_start: int, image_token: int) -> list[int]:
    """The unfinished picture header at the end of a prompt, or nothing."""
    if not ids or ids[-1] != image_token or image_start not in ids:
        return []
    return ids[len(ids) - 1 - ids[::-1].index(image_start) :]


def pad_left(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids [B,T] and attention mask [B,T], both int64."""
    size = max(map(len, rows))
    ids = torch.tensor([[pad] * (size - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (size - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
