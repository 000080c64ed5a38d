"""What went wrong, in one line for a person."""

from __future__ import annotations

import os

import typer

from dromaius.errors import DromaiusError

# typer carries its own click since 0.20-odd: the base of its one public usage error serves both
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


class Terminated(KeyboardInterrupt):
    """SIGTERM ends the program as Ctrl-C does: nothing half-written is left."""


def debugging() -> bool:
    """Whether errors are to be shown with their tracebacks."""
    return os.environ.get("DROMAIUS_DEBUG") == "1"


def explain(error: Exception) -> str:
    """The line that stands behind "error: "."""
    if isinstance(error, USAGE_ERROR):
        text = error.format_message()  # type: ignore[attr-defined]  # every click error has it
        context = getattr(error, "ctx", None)
        command = "dromaius" if context is None else context.command_path
        return f"{text.removeprefix('Invalid value: ').rstrip('.')} (see {command} --help)"
    if isinstance(error, DromaiusError):
        return str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{where}"
    if _is_out_of_memory(error):
        return "out of memory: try fewer or smaller pictures, or another --dtype or --device"
    return f"{type(error).__name__}: {error} (DROMAIUS_DEBUG=1 shows where)"


def _is_out_of_memory(error: Exception) -> bool:
    """Torch says it in three ways: an error of its own on a GPU, text on a CPU."""
    words = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
    )
