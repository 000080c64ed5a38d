"""Where figures go while training: a JSON Lines file, and TensorBoard where it is installed."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dromaius.errors import InputError
from dromaius.files import atomic_path, write_text
from dromaius.training.loop import Report

LOG = "log.jsonl"
SAMPLES = "samples"


class Recorder:
    """Writes every report to `folder`: figures to log.jsonl and to TensorBoard's files, sheets of
    samples to samples/step-000300.png and to TensorBoard.

    A run that was killed may have reported steps behind its checkpoint, which are taken again when
    it goes on: those reports are dropped. What cannot be written is an InputError naming the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = False
        self._board: Any = None

    def __call__(self, report: Report) -> None:
        if not self._begun:  # of several processes only one reports
            _forget(self._folder / LOG, report.began)
        self._note(report)
        if report.samples is not None:
            with atomic_path(self._folder / SAMPLES / f"step-{report.step:06d}.png") as temporary:
                report.samples.save(temporary, format="PNG")
        with _naming(self._folder / "events.out.tfevents.*"):
            if not self._begun:
                self._board = _tensorboard(self._folder, report.began)
            if self._board is not None:
                self._show(report)
        self._begun = True

    def _note(self, report: Report) -> None:
        """A line of log.jsonl; the file is open no longer than that takes."""
        line = {"step": report.step, "seconds": round(report.seconds, 1)}
        line |= {name: round(value, 6) for name, value in report.figures.items()}
        with _naming(self._folder / LOG):
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._folder / LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _show(self, report: Report) -> None:
        for name, value in report.figures.items():
            self._board.add_scalar(name, value, report.step)
        if report.samples is not None:
            picture = np.asarray(report.samples)
            self._board.add_image(SAMPLES, picture, report.step, dataformats="HWC")
        self._board.flush()  # a killed run leaves behind what it had told

    def close(self) -> None:
        """Everything reported is on disk already: there is nothing left that could fail."""
        if self._board is not None:
            with suppress(OSError):
                self._board.close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What the system says, as an error that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _forget(log: Path, step: int) -> None:
    """Drop the lines of steps behind `step`, and a last line that was cut off."""
    if not log.exists():
        return
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"cannot read {log}: {error.strerror}") from error
    kept = [line for line in lines if _step(line) <= step]
    if len(kept) < len(lines):
        write_text(log, "".join(kept))


def _step(line: str) -> float:
    """The step of a line; of a line that is none, infinity."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer for whose readers steps behind `step` of earlier sittings are void."""
    # with this TensorBoard does without TensorFlow, whose import takes seconds where it is there
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
