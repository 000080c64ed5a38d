"""`dromaius chat`: a conversation about pictures, in a terminal or line by line through a pipe."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from dromaius.cli import console, inputs, options
from dromaius.cli.explain import Terminated, debugging, explain
from dromaius.errors import DromaiusError, InputError
from dromaius.pipelines import presets

if TYPE_CHECKING:
    from PIL.Image import Image

    from dromaius.cli.conversation import Conversation

Images = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGE", help="Pictures that the first question is about."),
]
PROMPT = "> "


def chat(
    images: Images = None,
    preset: options.Preset = None,
    lang: options.Language = None,
    max_tokens: options.MaxTokens = None,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Talk about pictures, turn by turn; /help lists the commands.

    Without a terminal every line of stdin is a turn, and every answer a line of stdout.
    """
    if preset is not None and not images:
        raise typer.BadParameter("--preset asks about pictures: give at least one IMAGE")
    if sys.stdin is None:
        raise InputError("standard input is closed")
    from dromaius.cli.conversation import Conversation

    pictures = open_pictures(images or [])
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet, memory)
    conversation = Conversation(loaded, max_tokens)
    conversation.add(pictures)
    talk = Talk(conversation, lang or "en", as_json, quiet)
    if talk.interactive and not quiet:
        console.remark(f"talking with {loaded.name}; /help lists the commands, Ctrl-D ends")
    talk.run(preset)
    if talk.failed and not talk.interactive:
        raise typer.Exit(1)


@dataclass
class Talk:
    """A conversation's lines: read, done, shown."""

    conversation: Conversation
    language: presets.Language = "en"
    as_json: bool = False
    quiet: bool = False
    failed: bool = False
    """Whether a line could not be done."""
    ended: bool = False

    def __post_init__(self) -> None:
        terminal = sys.stdout is not None and sys.stdin.isatty() and sys.stdout.isatty()
        self.interactive = terminal and not self.as_json
        """With a prompt, streamed answers, and remarks on what commands did."""

    def run(self, preset: presets.Preset | None = None) -> None:
        """Does line after line, until the input or the person ends it."""
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # line editing and history for input()
        if preset is not None:
            self.attempt(lambda: self.ask_preset(preset))
        while not self.ended:
            self.next_line()

    def next_line(self) -> None:
        """Reads a line and does what it says."""
        try:
            line = self.read()
        except InputError as error:
            return self.fail(error)
        if line is None:
            self.ended = True
        else:
            self.attempt(lambda: self.obey(line))

    def attempt(self, action: Callable[[], None]) -> None:
        """After an error, or Ctrl-C in a terminal, the conversation goes on.

        Ctrl-C at the prompt is not within an action: it ends the program. So does an error of the
        system, such as a reader that has gone: the next answer would meet it again.
        """
        try:
            action()
        except DromaiusError as error:
            self.fail(error)
        except Exception as error:
            if isinstance(error, (OSError, typer.Exit)) or debugging():
                raise
            self.fail(error)
        except KeyboardInterrupt as stop:
            if not self.interactive or isinstance(stop, Terminated):
                raise
            self.note("stopped; the conversation goes on")

    def fail(self, error: Exception) -> None:
        """One line on stderr."""
        self.failed = True
        console.remark(f"error: {explain(error)}")

    def read(self) -> str | None:
        """The next line without its end; None at the end of the input."""
        if not self.interactive:
            return read_line()
        try:
            return input(PROMPT)
        except (EOFError, KeyboardInterrupt) as end:
            console.write("\n")
            if isinstance(end, KeyboardInterrupt):
                raise
            return None
        except UnicodeDecodeError:
            raise InputError("the line is not UTF-8") from None

    def obey(self, line: str) -> None:
        """Runs a command, asks a question, or passes over a blank line."""
        text = line.strip()
        if text.startswith("/") and not text.startswith("//"):
            self.command(text)
        elif text:
            self.ask(inputs.checked_text(text.removeprefix("/")))

    def command(self, text: str) -> None:
        """Runs a line such as "/image cat.png"."""
        name, *rest = text.split(None, 1)
        command = COMMANDS.get(name.removeprefix("/"))
        if command is None:
            raise InputError(f"unknown command {name}; /help lists the commands")
        try:
            words = shlex.split(rest[0]) if rest else []
        except ValueError as error:  # an open quotation
            raise InputError(f"{name}: {str(error).lower()}") from None
        if "\0" in text:
            raise InputError(f"{name}: a path cannot hold a zero byte")
        if not command.least <= len(words) <= command.most:
            raise InputError(f"usage: {command.usage}")
        command.run(self, words)

    def ask(self, question: str) -> None:
        """Asks, and shows the answer: streamed to a terminal, elsewhere on one line."""
        conversation = self.conversation
        pictures = [part["path"] for part in conversation.waiting]
        start = time.perf_counter()
        if self.interactive:
            self.stream(question)
            return
        answer = conversation.ask(question)
        seconds = time.perf_counter() - start
        if not self.as_json:
            console.result(console.one_line(answer))
            return
        console.result_json(
            {
                "turn": conversation.turns,
                "answer": answer,
                "question": question,
                "images": pictures,
                "model": conversation.model.name,
                "tokens": len(conversation.model.require_tokenizer().encode(answer)),
                "seconds": round(seconds, 3),
            }
        )

    def stream(self, question: str) -> None:
        """Asks; the answer appears as it comes."""
        before = self.conversation.turns
        try:
            answer = self.conversation.ask(question, console.shown)
        except KeyboardInterrupt:
            if self.conversation.turns == before:  # no word came, so no line was ended
                console.write("\n")
            raise
        if not answer:
            self.note("no answer")

    def ask_preset(self, name: presets.Preset) -> None:
        question = presets.question(name, self.language)
        if not self.conversation.has_picture:
            raise InputError("there is no picture yet; /image PATH adds one")
        if self.interactive:
            console.result(f"{PROMPT}{question}")
        self.ask(question)

    def note(self, text: str) -> None:
        """A remark for a person at a terminal."""
        if self.interactive and not self.quiet:
            console.remark(text)

    # --- commands --------------------------------------------------------------------------------

    def do_image(self, words: Sequence[str]) -> None:
        pictures = open_pictures([os.path.expanduser(word) for word in words])
        self.conversation.add(pictures)
        self.note(f"added {', '.join(words)} to the next question")

    def do_preset(self, words: Sequence[str]) -> None:
        self.ask_preset(cast(presets.Preset, words[0]))

    def do_lang(self, words: Sequence[str]) -> None:
        language = cast(presets.Language, words[0])
        presets.question("caption", language)  # raises for a language that is not there
        self.language = language

    def do_reset(self, words: Sequence[str]) -> None:
        self.conversation.reset()
        self.note("a new conversation, without pictures")

    def do_save(self, words: Sequence[str]) -> None:
        path = Path(os.path.expanduser(words[0]))
        self.conversation.save(path)
        self.note(f"saved {path}")

    def do_help(self, words: Sequence[str]) -> None:
        width = max(len(command.usage) for command in COMMANDS.values())
        say = console.result if self.interactive else console.remark
        for command in COMMANDS.values():
            say(f"{command.usage:{width}}  {command.says}")
        say("any other line is a question; // at its start stands for /")

    def do_exit(self, words: Sequence[str]) -> None:
        self.ended = True


@dataclass(frozen=True)
class Command:
    """A line that begins with a slash; it takes `least` to `most` words."""

    usage: str
    says: str
    run: Callable[[Talk, Sequence[str]], None]
    least: int = 0
    most: int = 0


def _short_form(name: presets.Preset) -> Command:
    wordings = presets.PRESETS[name].values()
    return Command(
        f"/{name}", f"ask {' or '.join(wordings)}", lambda talk, _: talk.ask_preset(name)
    )


COMMANDS: dict[str, Command] = {
    "image": Command(
        "/image PATH...", "add pictures to the next question", Talk.do_image, 1, sys.maxsize
    ),
    **{name: _short_form(name) for name in presets.PRESETS},
    "preset": Command("/preset NAME", "the same, by name", Talk.do_preset, 1, 1),
    "lang": Command(
        f"/lang {'|'.join(get_args(presets.Language))}", "language of presets", Talk.do_lang, 1, 1
    ),
    "reset": Command("/reset", "forget what was said and all pictures", Talk.do_reset),
    "save": Command("/save FILE", "write the conversation as JSON", Talk.do_save, 1, 1),
    "help": Command("/help", "list the commands", Talk.do_help),
    "exit": Command("/exit", "end (or Ctrl-D); Ctrl-C stops an answer", Talk.do_exit),
}


def open_pictures(sources: Sequence[str]) -> list[tuple[str, Image]]:
    """Names and pictures. Raises InputError for one that cannot be read, and for "-"."""
    from dromaius.io.images import open_image

    if "-" in sources:
        raise InputError("a picture cannot be -: standard input is the conversation")
    return [(source, open_image(source)) for source in sources]


def read_line() -> str | None:
    """A line of stdin without its end; None after the last. Raises InputError for a bad line."""
    line = sys.stdin.buffer.readline(inputs.MAX_TEXT)
    if not line:
        return None
    if len(line) == inputs.MAX_TEXT and not line.endswith(b"\n"):
        while line and not line.endswith(b"\n"):
            line = sys.stdin.buffer.readline(inputs.MAX_TEXT)
        raise InputError(f"a line is longer than the allowed {inputs.MAX_TEXT} bytes")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"a line is not UTF-8 (byte {error.start})") from None
