"""What a run writes of its progress, over several sittings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dromaius.errors import InputError
from dromaius.training.loop import Report
from dromaius.training.metrics import Recorder
from tests.training.conftest import full_disk


def sitting(folder: Path, began: int, steps: list[int], loss: float) -> None:
    record = Recorder(folder)
    for step in steps:
        record(Report(step, 100, 1.0, 1.0, {"loss": loss}, began=began))
    record.close()


def test_lines_behind_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    sitting(tmp_path, 0, [10, 20, 30, 40], 1.0)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 50, "se')  # killed while it wrote
    sitting(tmp_path, 25, [50, 100], 2.0)  # and now reports less often
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = [(10, 1.0), (20, 1.0), (50, 2.0), (100, 2.0)]
    assert [(line["step"], line["loss"]) for line in lines] == expected
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == expected


def test_a_full_disk_is_named_once(tmp_path: Path) -> None:
    record = Recorder(tmp_path)
    with full_disk(), pytest.raises(InputError, match="cannot write .*log.jsonl: File too large"):
        record(Report(1, 2, 1.0, 1.0, {"loss": 1.0}))
    record.close()  # has nothing more to say
    record(Report(1, 2, 1.0, 1.0, {"loss": 1.0}))
    with full_disk(), pytest.raises(InputError, match="cannot write .*log.jsonl"):
        record(Report(2, 2, 1.0, 1.0, {"loss": 1.0}))
    with full_disk():
        record.close()


# TensorBoard's thread raises what its writer then raises too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_behind_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    record = Recorder(tmp_path)
    record(Report(1, 2, 1.0, 1.0, {"loss": 1.0}))
    monkeypatch.setattr(Recorder, "_note", lambda self, report: None)
    with full_disk(), pytest.raises(InputError, match=r"cannot write .*events\.out\.tfevents"):
        record(Report(2, 2, 1.0, 1.0, {"loss": 1.0}))
    with full_disk():
        record.close()
    sheet = Image.new("RGB", (9, 9))
    with full_disk(), pytest.raises(InputError, match=r"cannot write .*step-000002\.png"):
        record(Report(2, 2, 1.0, 1.0, {"loss": 1.0}, sheet))


def test_a_run_from_the_beginning_has_no_past(tmp_path: Path) -> None:
    sitting(tmp_path, 0, [10, 20], 1.0)
    sitting(tmp_path, 0, [10], 2.0)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["step"], line["loss"]) == (10, 2.0)
