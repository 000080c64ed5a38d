"""Where special ids stand around text and pictures: the only place that inserts them.

User text is encoded by a tokenizer that never parses special tokens; everything structural is
added here as ids. Sizes are in pixels unless a name says codes. Legend: h/w grid of codes.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from dromaius.errors import InputError
from dromaius.models.emu3.config import ImageSettings, PromptSettings
from dromaius.models.emu3.vocabulary import Vocabulary

POSITIVE_SUFFIX = " masterpiece, film grained, best quality."
"""What the Emu3 authors append to prompts for Emu3-Gen (seeds 001, 002). Never added unasked."""

NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
"""The negative prompt of the Emu3 authors for Emu3-Gen (seeds 000-002). Never used unasked."""

MIN_GRID_SIDE = 3
"""Below three codes a side the published grid rule is ambiguous (spec section 4.5)."""

MAX_GRID_CODES = 2**20
"""A picture of 8192x8192 pixels: beyond it a size is a slip, and its memory could not be had."""


class Encodes(Protocol):
    def encode(self, text: str) -> list[int]: ...


# --- sizes ---------------------------------------------------------------------------------------


def generation_grid(ratio: str, area: int, factor: int = 8) -> tuple[int, int]:
    """Grid (rows, columns) of a picture of about `area` pixels with the ratio "W:H".

    Both sides are rounded half to even, as upstream does (spec section 4.2).
    Raises InputError for a malformed ratio or a side under three codes.
    """
    try:
        width, height = (int(part) for part in ratio.split(":"))
    except ValueError:
        raise InputError(f"ratio must look like 16:9, got {ratio!r}") from None
    if width < 1 or height < 1:
        raise InputError(f"ratio must be of positive numbers, got {ratio!r}")
    if area < 1:
        raise InputError(f"area must be positive, got {area}")
    scale = (area / (width * height)) ** 0.5
    return check_grid(round(height * scale / factor), round(width * scale / factor), factor)


def check_grid(rows: int, columns: int, factor: int = 8) -> tuple[int, int]:
    """Return the grid unchanged. Raises InputError under three codes a side, over 2^20 in all."""
    if min(rows, columns) < MIN_GRID_SIDE:
        raise InputError(
            f"a picture of {columns * factor}x{rows * factor} pixels is too small: "
            f"each side needs at least {MIN_GRID_SIDE * factor}"
        )
    if rows * columns > MAX_GRID_CODES:
        raise InputError(
            f"a picture of {columns * factor}x{rows * factor} pixels is too large: "
            f"at most {MAX_GRID_CODES * factor**2} pixels"
        )
    return rows, columns


def smart_resize(height: int, width: int, image: ImageSettings, factor: int = 8) -> tuple[int, int]:
    """The size at which a picture is encoded: multiples of 8 within the pixel bounds.

    Raises InputError if a side is under 8 pixels or the picture is too elongated.
    """
    if min(height, width) < factor:
        raise InputError(
            f"picture of {width}x{height} pixels: both sides must be at least {factor}"
        )
    if max(height, width) > image.max_aspect * min(height, width):
        raise InputError(
            f"picture of {width}x{height} pixels is too elongated: "
            f"the sides' ratio must not exceed {image.max_aspect:g}"
        )
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > image.max_pixels:
        shrink = math.sqrt(height * width / image.max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < image.min_pixels:
        grow = math.sqrt(image.min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


# --- picture blocks ------------------------------------------------------------------------------


def image_header(tokenizer: Encodes, ids: Vocabulary, rows: int, columns: int) -> list[int]:
    """[image start] "rows*columns" [image token]: what stands before the first visual id."""
    return [ids.image_start, *tokenizer.encode(f"{rows}*{columns}"), ids.image_token]


def image_block(tokenizer: Encodes, ids: Vocabulary, codes: Tensor) -> list[int]:
    """A whole picture: header, rows with line ends, end of frame, end of image. codes [h,w]."""
    header = image_header(tokenizer, ids, *codes.shape)
    return [*header, *ids.codes_to_ids(codes).tolist(), ids.end_of_frame, ids.image_end]


# --- prompts -------------------------------------------------------------------------------------


def generation_prompt(
    tokenizer: Encodes, ids: Vocabulary, text: str, rows: int, columns: int
) -> list[int]:
    """[bos] text, then the header of the picture that is to follow (spec section 4.1, mode G)."""
    return [ids.bos, *tokenizer.encode(text), *image_header(tokenizer, ids, rows, columns)]


Part = str | Tensor
"""A piece of a message: text, or the codes [h,w] of a picture."""


def layout(tokenizer: Encodes, ids: Vocabulary, parts: Sequence[Part]) -> list[int]:
    """[bos], then text and pictures in order; neighbouring texts are encoded as one string."""
    out, text = [ids.bos], ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        out += tokenizer.encode(text) + image_block(tokenizer, ids, part)
        text = ""
    return out + tokenizer.encode(text)


def understanding_parts(
    settings: PromptSettings, pictures: Sequence[Tensor], question: str
) -> list[Part]:
    """One question about one or more pictures.

    Chat template: "{system} USER: {pictures}{question}. ASSISTANT:"; the period is added only
    where the question does not end with punctuation of its own. Stage1 template: pictures, then
    the question.
    """
    if settings.template == "stage1":
        return [*pictures, question]
    turn = {"role": "user", "content": [*pictures, with_period(question)]}
    return chat_parts(settings, [{"role": "system", "content": [settings.system]}, turn])


def chat_parts(settings: PromptSettings, messages: Sequence[dict[str, Any]]) -> list[Part]:
    """A conversation that ends where the assistant is to speak.

    Args:
        settings: the checkpoint's template.
        messages: {"role": "system" | "user" | "assistant", "content": [text or codes, ...]}.
            Within a message pictures come first, as in the published template.
    """
    parts: list[Part] = []
    for message in messages:
        if settings.template == "chat" and message["role"] != "system":
            parts.append(f"{message['role'].upper()}: ")
        parts += [part for part in message["content"] if isinstance(part, Tensor)]
        parts += [f"{part} " for part in message["content"] if isinstance(part, str)]
    if settings.template == "chat":
        parts.append("ASSISTANT:")
    return parts


def with_period(question: str) -> str:
    """The question without white space at its end, and with a period if it has no mark there."""
    question = question.rstrip()
    return question if question[-1:] in ".?!…。？！" and question else f"{question}."
