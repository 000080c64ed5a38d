"""A model without weights, for the command line's manners; `python fake.py VERB ...` runs with it.

Its pictures follow from prompt, seed and size alone. Environment variables make it slow
(FAKE_DELAY seconds a step), failing (FAKE_FAILS names an exception), blind (FAKE_BLIND) or
forgetful (a chat of FAKE_CONTEXT messages is too long), or have it make a file once it is at work
(FAKE_MARKER). In a chat it never ends an answer to "slowly", nor begins one to "silently", and has
no memory for "too much". It imports no torch.
"""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dromaius import errors
from dromaius.cli import main

STEPS = 12


class Codes:
    """As much of a LongTensor [h,w] as the command line looks at."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]


class Drawing:
    def __init__(self, step: int, records: list[dict[str, Any]]) -> None:
        self.step, self.steps, self.records = step, STEPS, records
        self.closes_row = step % 3 == 0
        self.passes, self.accelerate, self.reason = step, "off", ""
        self.codes = [Codes(r["height"] // 8, r["width"] // 8) for r in records]
        self.tokens = [codes.numel() for codes in self.codes]

    def pictures(self) -> list[Image.Image]:
        return [picture(record, self.step / self.steps) for record in self.records]


def picture(record: dict[str, Any], share: float) -> Image.Image:
    """One colour that prompt and seed give; the undrawn lower rest is grey."""
    digest = hashlib.sha256(f"{record['prompt']} {record['seed']}".encode()).digest()
    image = Image.new("RGB", (record["width"], record["height"]), (128, 128, 128))
    drawn = (0, 0, record["width"], round(record["height"] * share))
    image.paste((digest[0], digest[1], digest[2]), drawn)
    return image


class Tokenizer:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class FakeModel:
    name, hash = "fake", "0123abcd"
    folders = ()

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        self.calls = calls

    def stream_image(self, prompt: list[str], **given: Any) -> Iterator[Drawing]:
        self.calls.append({"prompt": prompt, **given})
        fail()
        records = [self._record(i, prompt[i], given) for i in range(len(prompt))]
        for step in range(1, STEPS + 1):
            time.sleep(float(os.environ.get("FAKE_DELAY", 0)))
            if marker := os.environ.get("FAKE_MARKER"):
                Path(marker).touch()
            yield Drawing(step, records)

    def _record(self, i: int, prompt: str, given: dict[str, Any]) -> dict[str, Any]:
        def own(key: str) -> Any:
            return given[key][i] if isinstance(given[key], list) else given[key]

        return {
            "prompt": prompt,
            "negative_prompt": own("negative_prompt") or "",
            "guidance": 3.0 if own("guidance") is None else own("guidance"),
            "seed": own("seed"),
            "height": own("height") or 64,
            "width": own("width") or 64,
            "top_k": given["top_k"],
            "top_p": given["top_p"],
            "min_p": given["min_p"],
            "temperature": given["temperature"],
            "guided": given.get("guided", (0.0, 1.0)),
        }

    def require_vision_tokenizer(self) -> None:
        if os.environ.get("FAKE_BLIND"):
            raise errors.CheckpointError("fake holds no vision tokenizer")

    def require_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def stream_answer(
        self, images: list[Image.Image], question: str, max_new_tokens: int | None = None
    ) -> Iterator[str]:
        fail()
        sizes = " and ".join(f"{image.width}x{image.height}" for image in images)
        for word in ["You", f" asked {question}", f" about {sizes}.\x1b[2J \n"][:max_new_tokens]:
            time.sleep(float(os.environ.get("FAKE_DELAY", 0)))
            yield word

    def caption(self, image: Image.Image, max_new_tokens: int | None = None) -> str:
        fail()
        return f"{image.width} wide, {max_new_tokens}"

    def as_question(self, words: str) -> str:
        return words if words.endswith(("?", "？")) else f"{words}."

    def stream_chat(
        self, messages: list[dict[str, Any]], max_new_tokens: int | None = None
    ) -> Iterator[str]:
        self.calls.append({"messages": messages, "max_new_tokens": max_new_tokens})
        fail()
        if len(messages) >= int(os.environ.get("FAKE_CONTEXT", 99)):
            raise errors.ContextError("the prompt takes 99 tokens; the model's context is 9")
        if marker := os.environ.get("FAKE_MARKER"):
            Path(marker).touch()
        *images, last = messages[-1]["content"]
        sizes = "".join(" {}x{}".format(*part["image"].shape) for part in images)
        time.sleep(600 * ("silently" in last["text"]))
        if "too much" in last["text"]:
            raise MemoryError
        yield f"{len(messages)}:"
        time.sleep(600 * ("slowly" in last["text"]))
        yield from [f" {last['text']}{sizes}", "\x1b[2J\n", "ok \n"][:max_new_tokens]

    def encode_image(self, image: Image.Image) -> Codes:
        self.image = image
        return Codes(image.height // 8, image.width // 8)

    def decode_image(self, codes: Codes) -> Image.Image:
        """The encoded picture cut to whole codes, one level brighter everywhere."""
        height, width = codes.shape
        return self.image.resize((width * 8, height * 8)).point(lambda v: min(v + 1, 255))

    def describe(self) -> dict[str, Any]:
        amounts = {"language_model": 1234567}
        return {"name": "fake", "parameters": amounts, "hash": self.hash, "device": "meta"}


def fail() -> None:
    if name := os.environ.get("FAKE_FAILS"):
        kinds = {"MemoryError": MemoryError, "KeyError": KeyError, "InputError": errors.InputError}
        raise kinds[name]("the prompt has 9 tokens,\ntoo many")


def load(source: str, *given: Any, **named: Any) -> FakeModel:
    if source != "nano":
        raise errors.CheckpointError(f"no model at {source!r}")
    return FakeModel([])


if __name__ == "__main__":
    import dromaius

    dromaius.load = load  # type: ignore[assignment]  # the stand-in has a part of the surface
    sys.argv[0] = "dromaius"
    main.main()
