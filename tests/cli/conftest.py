"""Two ways to run the command line: in this process (fast), and as a real program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import dromaius
from dromaius.cli import main
from tests.cli import fake

FAKE = Path(fake.__file__)
REPOSITORY = FAKE.parents[2]


class Outcome:
    """What a command left: exit code, stdout (bytes or text), lines of stderr."""

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.raw, self.err = code, out, err

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def error(self) -> str:
        """The one line on stderr. Fails if there is another, or a traceback."""
        [line] = self.err.splitlines()
        return line


Calls = list[dict[str, Any]]
Cli = Callable[..., Outcome]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Makes `dromaius.load` give the fake model; holds the arguments of its calls."""
    made: Calls = []

    def load(source: str, *given: Any, **named: Any) -> fake.FakeModel:
        fake.load(source)
        return fake.FakeModel(made)

    monkeypatch.setattr(dromaius, "load", load)
    return made


@pytest.fixture
def cli(
    calls: Calls,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Cli:
    """Runs a command line in this process, in an empty folder, with the fake model."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        code = main.run(arguments)
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return run


def command(*arguments: str, model: str = "fake") -> list[str]:
    """The program's command line: with the fake model, or (model="real") with real ones."""
    program = [str(FAKE)] if model == "fake" else ["-m", "dromaius.cli.main"]
    return [sys.executable, *program, *arguments]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, **extra}


def start(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, **settings: Any
) -> subprocess.Popen[bytes]:
    """Starts a command line of `command`; SIGINT does what it does in a terminal."""
    for name in ("stdout", "stderr"):
        settings.setdefault(name, subprocess.PIPE)
    settings.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        arguments,
        cwd=cwd,
        env=environment(**env or {}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


@pytest.fixture
def program(tmp_path: Path) -> Cli:
    """Runs the real program in an empty folder, with the fake model unless told otherwise."""

    def run(
        *arguments: str, input: bytes | None = None, model: str = "fake", **settings: Any
    ) -> Outcome:
        if input is not None:
            settings["stdin"] = subprocess.PIPE
        process = start(command(*arguments, model=model), tmp_path, **settings)
        out, err = process.communicate(input, timeout=120)
        return Outcome(process.returncode, out or b"", err.decode())

    return run
