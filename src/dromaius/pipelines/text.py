"""Pictures and text to text: prompts, greedy decoding, text as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from dromaius.engine.decode import write_text
from dromaius.engine.sampling import Sampler
from dromaius.errors import InputError
from dromaius.io.images import open_image
from dromaius.models.emu3.prompt import Part, chat_parts, layout, understanding_parts
from dromaius.pipelines.image import whole

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

Picture = Image.Image | str | Path | Tensor
"""A PIL image, the path of one, or codes [h,w]."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def stream_answer(
    model: Emu3,
    pictures: Picture | Sequence[Picture],
    question: str,
    max_new_tokens: int | None = None,
) -> Iterator[str]:
    """Answer a question about one or more pictures; yields pieces of text as they come."""
    given: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if not isinstance(question, str):
        raise InputError(f"a question must be a text, got {type(question).__name__}")
    codes = [_codes(model, picture) for picture in given]
    parts = understanding_parts(model.config.prompt, codes, question)
    return _stream(model, parts, max_new_tokens)


def stream_chat(
    model: Emu3, messages: Sequence[dict[str, Any]], max_new_tokens: int | None = None
) -> Iterator[str]:
    """Continue a conversation; see `Emu3.chat` for the form of messages."""
    turns = [_turn(model, message) for message in messages]
    if not turns or turns[-1]["role"] != "user":
        raise InputError("a conversation must end with a message of the user")
    if turns[0]["role"] != "system" and model.config.prompt.template == "chat":
        turns.insert(0, {"role": "system", "content": [model.config.prompt.system]})
    return _stream(model, chat_parts(model.config.prompt, turns), max_new_tokens)


def _turn(model: Emu3, message: dict[str, Any]) -> dict[str, Any]:
    """{"role", "content": text or [{"type": "text" | "image", ...}]} with pictures as codes."""
    if not isinstance(message, dict):
        raise InputError(f"a message must be a dictionary, got {message!r:.80}")
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant"):
        raise InputError(f"a message's role must be system, user or assistant, got {role!r}")
    if isinstance(content, str):
        return {"role": role, "content": [content]}
    if not isinstance(content, (list, tuple)):
        raise InputError("a message's content must be a text or a list of parts")
    parts: list[Part] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "image" and part.get("image") is not None:
            parts.append(_codes(model, part["image"]))
        else:
            raise InputError(f"a part of a message must be a text or an image, got {part!r:.80}")
    return {"role": role, "content": parts}


def _codes(model: Emu3, picture: Picture) -> Tensor:
    if isinstance(picture, Tensor):
        if picture.ndim != 2:
            raise InputError(f"codes of a picture must be [h,w], got {list(picture.shape)}")
        return model.checked_codes(picture)
    return model.encode_image(open_image(picture))


def _stream(model: Emu3, parts: Sequence[Part], max_new_tokens: int | None) -> Iterator[str]:
    limit = model.config.generation.max_new_tokens if max_new_tokens is None else max_new_tokens
    if whole(limit, "max_new_tokens") < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {limit}")
    language_model, tokenizer = model.require_language_model(), model.require_tokenizer()
    prompt = layout(tokenizer, model.vocabulary, parts)
    room = model.room_for_text(len(prompt))
    ids, shown = [], 0
    greedy = Sampler(temperature=0)
    stops = (model.vocabulary.eos,)
    for step in write_text(language_model, [prompt], min(limit, room), stops, greedy, [0]):
        ids.append(step[0])
        text = tokenizer.decode(i for i in ids if i is not None).lstrip()
        # A character of several tokens shows as replacement marks until its last byte is there.
        ready = len(text.rstrip(REPLACEMENT))
        if ready > shown:
            yield text[shown:ready]
            shown = ready
    rest = tokenizer.decode(i for i in ids if i is not None).lstrip()[shown:]
    if rest:
        yield rest
