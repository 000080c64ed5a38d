"""What a person gives: text as an argument or on stdin, prompts in a file, sizes."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from dromaius.errors import InputError

MAX_TEXT = 16 * 2**20  # bytes of a file of prompts, or of text on stdin


@dataclass(frozen=True)
class PictureSpec:
    """One picture to draw; None is what the checkpoint or another setting says."""

    prompt: str
    seed: int | None = None
    height: int | None = None
    """Pixels."""
    width: int | None = None
    """Pixels."""
    ratio: str | None = None
    """ "W:H"."""
    negative_prompt: str | None = None
    guidance: float | None = None


_KINDS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "seed": (int,),
    "height": (int,),
    "width": (int,),
    "ratio": (str,),
    "negative_prompt": (str,),
    "guidance": (int, float),
}


def text_argument(text: str) -> str:
    """The text, or for `-` all of stdin without the line end that closes it.

    Raises InputError for what is not UTF-8, or blank.
    """
    if text == "-":
        text = _decode(read_stdin(MAX_TEXT), "standard input").removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise InputError(f"the text is empty: {text!r:.60}")
    return checked_text(text)


def checked_text(text: str) -> str:
    """The text itself. Raises InputError for what is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"not valid UTF-8: {ascii(text[:60])}") from None
    return text


def at_most_one_stdin(arguments: list[str]) -> None:
    """Raises InputError if more than one of the arguments is `-`."""
    if arguments.count("-") > 1:
        raise InputError("only one argument can be -: standard input is read once")


def read_prompts(source: str) -> list[PictureSpec]:
    """Prompts of a file: one a line or, in *.jsonl, one object a line; `-` is lines on stdin.

    An object's keys are the fields of `PictureSpec`. Raises InputError naming what is wrong.
    """
    specs = list(_read_objects(source) if source.lower().endswith(".jsonl") else _lines(source))
    if not specs:
        raise InputError(f"{source} holds no prompts")
    return specs


def read_stdin(limit: int) -> bytes:
    """All of standard input. Raises InputError above `limit` bytes."""
    if sys.stdin is None:
        raise InputError("standard input is closed")
    content = sys.stdin.buffer.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"standard input holds more than the allowed {limit} bytes")
    return content


def finite(value: float | None) -> float | None:
    """The callback of a flag that takes a number: infinities and "nan" are wrong usage."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def seed(value: int | None) -> int | None:
    """The callback of --seed."""
    if value is not None and not -(2**63) <= value < 2**63:
        raise typer.BadParameter(f"{value} does not fit into 64 bits")
    return value


def size(text: str) -> tuple[int, int]:
    """ "768x512" (width x height, in pixels) -> (height, width)."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"size must look like 768x512 (width x height), got {text!r}") from None
    return height, width


def part(text: str) -> tuple[float, float]:
    """ "0:0.5" -> shares (0, 0.5) of a picture. Raises InputError for anything else."""
    try:
        first, last = (float(share) for share in text.split(":"))
    except ValueError:
        first = last = math.nan
    if not 0 <= first < last <= 1:
        raise InputError(f"a part of a picture must look like 0:0.5, got {text!r:.60}")
    return first, last


def _lines(source: str) -> Iterator[PictureSpec]:
    from dromaius.files import read_bytes

    content = read_stdin(MAX_TEXT) if source == "-" else read_bytes(Path(source), MAX_TEXT)
    for line in _decode(content, source).removeprefix("\ufeff").splitlines():
        if line.strip():
            yield PictureSpec(line)


def _read_objects(source: str) -> Iterator[PictureSpec]:
    from dromaius.io.jsonl import read_jsonl

    for number, values in enumerate(read_jsonl(source), start=1):
        where = f"{source}, object {number}"
        if not isinstance(values.get("prompt"), str):
            raise InputError(f'{where}: "prompt" must be a text')
        if not values["prompt"].strip():
            raise InputError(f'{where}: "prompt" is empty')
        for key, value in values.items():
            _check(key, value, where)
        if (values.get("height") is None) != (values.get("width") is None):
            raise InputError(f"{where}: give both height and width, or neither")
        yield PictureSpec(**values)


def _check(key: str, value: Any, where: str) -> None:
    if key not in _KINDS:
        known = ", ".join(f.name for f in fields(PictureSpec))
        raise InputError(f"{where}: unknown key {key!r} (known: {known})")
    if value is not None and (isinstance(value, bool) or not isinstance(value, _KINDS[key])):
        expected = {str: "a text", int: "a whole number", float: "a number"}[_KINDS[key][-1]]
        raise InputError(f"{where}: {key} must be {expected}, got {value!r}")


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 (byte {error.start})") from None
