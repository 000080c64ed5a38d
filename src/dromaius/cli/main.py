"""`dromaius VERB ...`: finds the verb, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted. DROMAIUS_DEBUG=1 shows tracebacks.
"""

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import typer

from dromaius.cli import console
from dromaius.errors import DromaiusError

VERBS = ("image", "ask", "chat", "reconstruct", "convert", "info", "train", "eval")
"""Each is a function of its own name in the module of its own name."""

# typer carries its own click since 0.20-odd: the base of its one public usage error serves both
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


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
        if os.environ.get("DROMAIUS_DEBUG") == "1":
            raise
        console.remark(f"error: {_explain(error)}")
        _silence_stdout()
        return 2 if isinstance(error, USAGE_ERROR) else 1


def main() -> None:
    """The console script."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no locale and no file name stops a result
            stream.reconfigure(errors="backslashreplace")
    if "-q" in sys.argv or "--quiet" in sys.argv or not (sys.stderr and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.exit(run(sys.argv[1:]))


def _explain(error: Exception) -> str:
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


if __name__ == "__main__":
    main()
