"""Where figures go while training: a JSON Lines file, and TensorBoard where it is installed."""

import json
import math
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from dromaius.files import atomic_path, write_text
from dromaius.training.loop import Report

LOG = "log.jsonl"
SAMPLES = "samples"


class Recorder:
    """Writes every report to `folder`: figures to log.jsonl and to TensorBoard's files, sheets of
    samples to samples/step-000300.png and to TensorBoard.

    A run that was killed may have reported steps behind its checkpoint, which are taken again when
    it goes on: those reports are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self._board: Any = None

    def __call__(self, report: Report) -> None:
        if self._file is None:  # of several processes only one reports
            self._folder.mkdir(parents=True, exist_ok=True)
            _forget(self._folder / LOG, report.began)
            self._file = open(self._folder / LOG, "a", encoding="utf-8")
            self._board = _tensorboard(self._folder, report.began)
        line = {"step": report.step, "seconds": round(report.seconds, 1)}
        line |= {name: round(value, 6) for name, value in report.figures.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in report.figures.items():
                self._board.add_scalar(name, value, report.step)
        if report.samples is not None:
            self._show(report.samples, report.step)
        if self._board is not None:
            self._board.flush()  # a killed run leaves behind what it had told

    def _show(self, sheet: Image.Image, step: int) -> None:
        with atomic_path(self._folder / SAMPLES / f"step-{step:06d}.png") as temporary:
            sheet.save(temporary, format="PNG")
        if self._board is not None:
            self._board.add_image(SAMPLES, np.asarray(sheet), step, dataformats="HWC")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _forget(log: Path, step: int) -> None:
    """Drop the lines of steps behind `step`, and a last line that was cut off."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
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
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
