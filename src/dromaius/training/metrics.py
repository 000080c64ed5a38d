"""Where figures go while training: a JSON Lines file, and TensorBoard where it is installed."""

import json
from pathlib import Path
from typing import Any, TextIO

from dromaius.training.loop import Report

LOG = "log.jsonl"


class Recorder:
    """Appends every report to `folder`/log.jsonl and to TensorBoard's files in the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self._board: Any = None

    def __call__(self, report: Report) -> None:
        if self._file is None:  # of several processes only one reports
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._folder / LOG, "a", encoding="utf-8")
            self._board = _tensorboard(self._folder)
        line = {"step": report.step, "seconds": round(report.seconds, 1)}
        line |= {name: round(value, 6) for name, value in report.figures.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in report.figures.items():
                self._board.add_scalar(name, value, report.step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
