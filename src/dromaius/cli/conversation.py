"""The state of a chat: what was said, the pictures that wait for a question, how it is saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dromaius.cli import output
from dromaius.errors import ContextError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dromaius.pipelines.emu3 import Emu3

Show = Callable[[Iterator[str]], Iterator[str]]
"""Passes on the pieces of an answer, and may show them."""


@dataclass
class Conversation:
    """Turns of a person and a model. A turn that fails changes nothing."""

    model: Emu3
    max_tokens: int | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    """As `model.chat` takes them. A picture is its codes and, under "path", its name."""
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Pictures that go into the next message."""

    def add(self, pictures: Sequence[tuple[str, Image]]) -> None:
        """Pictures and their names for the next message; none of them if one cannot be encoded."""
        self.waiting += [
            {"type": "image", "image": self.model.encode_image(picture), "path": name}
            for name, picture in pictures
        ]

    @property
    def turns(self) -> int:
        return len(self.messages) // 2

    @property
    def has_picture(self) -> bool:
        said = [part for message in self.messages for part in message["content"]]
        return any(part["type"] == "image" for part in [*self.waiting, *said])

    def ask(self, question: str, show: Show = iter) -> str:
        """The answer, which is then part of the conversation, as are the waiting pictures.

        Raises:
            KeyboardInterrupt: the answer was interrupted. The words that came are kept as the
                answer; if none came, nothing has changed.
            ContextError: the conversation is longer than the model's context; says what to do.
        """
        words = {"type": "text", "text": self.model.as_question(question)}
        message = {"role": "user", "content": [*self.waiting, words]}
        said: list[str] = []

        def heard() -> Iterator[str]:  # before it is shown: who saw a word may stop the next
            for piece in self.model.stream_chat([*self.messages, message], self.max_tokens):
                said.append(piece)
                yield piece

        try:
            for _ in show(heard()):
                pass
        except KeyboardInterrupt:
            if said:
                self._keep(message, said)
            raise
        except ContextError as error:
            if self.messages or self.waiting:
                raise ContextError(f"{error}; /reset starts a new conversation") from error
            raise
        return self._keep(message, said)

    def reset(self) -> None:
        """Forgets what was said and all pictures."""
        self.messages, self.waiting = [], []

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON, whole or not at all.

        Its "messages" can be given to `model.chat`: pictures are paths as they were given.
        Raises InputError for an empty conversation and a path that cannot be written.
        """
        from dromaius.files import write_bytes

        if not self.messages:
            raise InputError("there is nothing to save yet")
        output.check_writable(path)
        if path.exists() and not path.is_file():
            raise InputError(f"cannot write {path}: it is not a file")
        content = {
            "model": self.model.name,
            "model_hash": self.model.hash,
            "messages": [
                {"role": message["role"], "content": [_named(part) for part in message["content"]]}
                for message in self.messages
            ],
        }
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        # A path may hold bytes that are no UTF-8; JSON's own escapes carry them.
        write_bytes(path, text.encode("utf-8", "backslashreplace"))

    def _keep(self, message: dict[str, Any], said: Sequence[str]) -> str:
        answer = "".join(said).rstrip()
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        self.messages += [message, reply]
        self.waiting = []
        return answer


def _named(part: dict[str, Any]) -> dict[str, Any]:
    """A part with the picture's path in place of its codes."""
    return {"type": "image", "image": part["path"]} if part["type"] == "image" else part
