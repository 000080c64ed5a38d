"""What a person sees: results on stdout, progress and remarks on stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dromaius.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dromaius.pipelines.emu3 import Emu3
    from dromaius.pipelines.reading.image_to_text import ImageToText


def printable(text: str) -> str:
    """The text with control characters shown, not sent: a file's words cannot drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """The text on one line, printable."""
    return printable(" ".join(str(text).split()))


def write(text: str) -> None:
    """Writes text to stdout at once."""
    if sys.stdout is None:
        raise InputError("standard output is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


def result(text: str) -> None:
    """Writes a line to stdout at once."""
    write(printable(text) + "\n")


def result_json(value: dict[str, Any]) -> None:
    """Writes one JSON object on a line of its own to stdout at once."""
    write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def remark(text: object) -> None:
    """Writes one line to stderr. A closed stderr is no reason to stop."""
    try:
        sys.stderr.write(f"dromaius: {one_line(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def shown(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text, each written to stdout as it passes; the line is ended in any case."""
    started, blank = False, ""  # blank: white space that is written once a word follows
    try:
        for piece in pieces:
            text = blank + piece
            words = text.rstrip()
            blank = text[len(words) :]
            write(printable(words))
            started = True
            yield piece
    finally:
        if started:
            write("\n")


@contextmanager
def status(doing: str, quiet: bool) -> Iterator[None]:
    """Shows on a terminal what is being done for as long as it lasts; elsewhere nothing."""
    if quiet or not is_terminal():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(doing)):
        yield


def load_model(
    source: str,
    vision_tokenizer: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = False,
    memory: str = "resident",
) -> "Emu3":
    """An Emu3 model by `dromaius.load`, with a sign of life on a terminal."""
    model: Any = _load(source, quiet, vision_tokenizer, device=device, dtype=dtype, memory=memory)
    if is_image_to_text(model):
        raise InputError(
            f"{source} is a VisionEncoderDecoder: it describes and reads pictures (dromaius "
            "caption, dromaius read); this verb is for Emu3 models"
        )
    if dtype == "auto" and not quiet:
        remark(f"dtype: {str(model.dtype).removeprefix('torch.')}")
    if memory == "auto" and not quiet:
        remark(f"memory: {model.memory}")
    return model


def load_any(
    source: str,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = False,
    vision_tokenizer: str | None = None,
) -> "Emu3 | ImageToText":
    """A model of any family by `dromaius.load`, with a sign of life on a terminal."""
    return _load(source, quiet, vision_tokenizer, device=device, dtype=dtype)


def is_image_to_text(model: object) -> bool:
    """Whether a loaded model is a VisionEncoderDecoder; looking at its class would import torch."""
    return hasattr(model, "read")


def _load(source: str, quiet: bool, vision_tokenizer: str | None, **given: Any) -> Any:
    import dromaius
    from dromaius.io import hub

    for name in (source, vision_tokenizer):  # a slip is said at once: importing torch takes a while
        if name is not None:
            hub.local_folder(name)
    with status(f"loading {one_line(source)}", quiet):
        return dromaius.load(source, vision_tokenizer, **given)


class Meter:
    """Progress of one piece of work: a bar with ETA on a terminal, elsewhere silence.

    `unit` is what is counted, as in "tokens"; `rate` and `seconds` are for the remark at the end.
    """

    def __init__(self, doing: str, unit: str, quiet: bool) -> None:
        self.doing, self.unit = doing, unit
        self.done = 0.0
        self._start = time.perf_counter()
        self._bar: Progress | None = _new_bar() if not quiet and is_terminal() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.doing, total=None, rate="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, total: float, words: str | None = None) -> None:
        """Sets how much is done and how much there is; `words` stand in place of the rate."""
        self.done = done
        if self._bar is not None:
            rate = f"{self.rate:,.0f} {self.unit}/s" if words is None else words
            self._bar.update(self._task, completed=done, total=total, rate=rate)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(self.seconds, 1e-9)


def is_terminal() -> bool:
    """Whether a person may be looking at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Remaining(),
        TextColumn("{task.fields[rate]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # else results would vanish
    )
