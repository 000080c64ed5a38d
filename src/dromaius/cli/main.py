"""`dromaius VERB ...`: finds the verb, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted, 143 terminated.
DROMAIUS_DEBUG=1 shows tracebacks.
"""

import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import TextIO

import typer

from dromaius.cli import console
from dromaius.cli.explain import USAGE_ERROR, Terminated, debugging, explain

VERBS = (
    "image",
    "ask",
    "chat",
    "caption",
    "read",
    "reconstruct",
    "convert",
    "quantize",
    "info",
    "plan",
    "train",
    "eval",
)
"""Each is a function of its own name in the module of its own name."""

_asked_to_end: list[int] = []
"""SIGTERM, once it has come."""


def make_app() -> typer.Typer:
    """The command line with all its verbs; none of their modules imports torch."""
    app = typer.Typer(
        name="dromaius",
        help="One transformer that reads pictures and draws them.",
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(dromaius)
    for verb in VERBS:
        function = getattr(importlib.import_module(f"dromaius.cli.{verb}"), verb)
        app.command(name=verb)(function)
    return app


def dromaius(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    """One transformer that reads pictures and draws them."""
    if version:
        from dromaius import __version__

        console.result(f"dromaius {__version__}")
    elif context.invoked_subcommand is None:
        console.result(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; what goes wrong is said on stderr."""
    code = _run(arguments)
    return 143 if _asked_to_end and code else code


def _run(arguments: Sequence[str]) -> int:
    try:
        command = typer.main.get_command(make_app())
        code = command.main(list(arguments), prog_name="dromaius", standalone_mode=False)
        _flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except typer.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        _silence_stdout()
        return stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:  # the reader has gone, as in `dromaius info nano | head -1`
        _silence_stdout()
        return 1
    except Exception as error:
        if debugging():
            raise
        if not _asked_to_end:  # else torch has made an error of its own of the signal
            console.remark(f"error: {explain(error)}")
        _silence_stdout()
        return 2 if isinstance(error, USAGE_ERROR) else 1


def main() -> None:
    """The console script."""
    warnings.showwarning = _show_warning
    threading.excepthook = _show_thread_error
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no locale and no file name stops a result
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    if "-q" in sys.argv or "--quiet" in sys.argv or not (sys.stderr and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(run(sys.argv[1:]))


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: tidying up is not broken into
    _asked_to_end.append(number)
    raise Terminated


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _silence_stdout() -> None:
    """Lets the interpreter end without complaining of what can no longer be written."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    console.remark(f"warning: {message}")


def _show_thread_error(failed: threading.ExceptHookArgs) -> None:
    """A library's helper thread has failed; whoever waits for it is told as well."""
    if debugging():
        threading.__excepthook__(failed)
    elif isinstance(failed.exc_value, Exception):
        console.remark(f"warning: {explain(failed.exc_value)}")


if __name__ == "__main__":
    main()
