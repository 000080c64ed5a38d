"""The benchmarks of a GPU and of all modes: their arithmetic, their picture, and that they run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from benchmarks import modes
from benchmarks.chart import LEFT, Bar, bars
from benchmarks.machine import held_bytes, pass_bytes
from benchmarks.modes import Mode, language_model, picture, roofline
from dromaius.models.emu3.config import LanguageModelConfig

ROOT = Path(__file__).parents[2]
META = torch.device("meta")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("weights", "gigabytes", "seconds"),
    [("bfloat16", 14.23, 29.2), ("int8", 7.36, 16.1), ("int4", 3.89, 9.5)],
)
def test_a_pass_reads_what_the_specification_says(
    weights: str, gigabytes: float, seconds: float
) -> None:
    """Spec decoding.md 2.3: Emu3-8B, visual head in bfloat16, an H200's 4.3 TB/s, guidance.

    Here head and scales are stored in int8 and by row or in groups of 64: up to 5 % otherwise.
    """
    model = language_model(LanguageModelConfig(), weights, META)
    request = picture(90, 90)
    span = (request.grid.visual_start, request.grid.visual_stop)
    assert pass_bytes(model, span, 2, 0) / 1e9 == pytest.approx(gigabytes, rel=0.05)
    assert pass_bytes(model, span, 2, 4155) - pass_bytes(model, span, 2, 0) == 2 * 4155 * 2**17
    assert roofline(model, request, 8190, 4.3e12) == pytest.approx(seconds, rel=0.05)


def test_shared_memory_counts_once() -> None:
    layer, other = torch.nn.Linear(10, 20, bias=False), torch.nn.Linear(10, 20, bias=False)
    both = torch.nn.ModuleList((layer, other))
    assert held_bytes(both) == 1600
    other.weight = layer.weight
    assert held_bytes(both) == 800


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Bar("a < b", 4.0, 1.0, "", "#111111"), Bar("c", 2.0, 0.5, "", "#111111")]
    drawn = ET.fromstring(bars("t", ["s"], rows, []))
    found = [r.attrib for r in drawn.iter(f"{SVG}rect")]
    lengths = [float(r["width"]) for r in found if r["height"] == "20"]
    marks = [float(r["x"]) + 1.5 - LEFT for r in found if r["height"] == "26"]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=0.2)
    assert marks == pytest.approx([length / 4 for length in lengths], abs=0.2)
    assert "a < b" in [text.text for text in drawn.iter(f"{SVG}text")]


def test_modes_on_nano(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real drafts hold: fewer passes than codes, and bounds that follow passes and bytes."""
    some = (Mode("bfloat16"), Mode("bfloat16", "seed-exact"), Mode("int4"))
    monkeypatch.setattr(modes, "MODES", some)
    monkeypatch.setattr(modes, "read_bandwidth", lambda device: 1e9)
    result = modes.measure(argparse.Namespace(model="nano", repeats=1))
    plain, quick, few = result["modes"]
    assert plain["passes"] == plain["codes"] == few["passes"] == 64
    assert quick["passes"] < 64
    ratio = quick["roofline_seconds"] / plain["roofline_seconds"]
    assert ratio == pytest.approx(quick["passes"] / 64, rel=0.02)
    assert few["roofline_seconds"] < plain["roofline_seconds"] and not few["exact"]
    made = modes.write(result, tmp_path)
    assert json.loads((tmp_path / "modes.json").read_text()) == result
    assert ET.parse(made[1]).getroot().tag == f"{SVG}svg"
    assert "int4" in modes.table(result)


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu(tmp_path: Path) -> None:
    """Every kind of phase writes its line, one after the other, and none fails."""
    phases = ["bfloat16, whole", "transformers", "bfloat16, eager", "bfloat16, coupled", "int4"]
    phases += ["bfloat16, profile", "pixels", "memory"]
    given = {"OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [ROOT / "benchmarks/gpu.sh", "--small", "--phases", ";".join(phases)],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    found = {line.pop("phase"): line for line in lines}
    made = ["machine", *(f"{weights}, made" for weights in ("bfloat16", "int8", "int4"))]
    assert set(found) == {*phases, *made}
    assert found["bfloat16, whole"]["passes"] == 36
    assert found["int4"]["extrapolated"] and found["transformers"]["extrapolated"]
    assert found["transformers"]["tokens"] == 4
    assert found["bfloat16, coupled"]["codes_a_pass"][0] >= 1
    assert found["bfloat16, profile"]["most"]
    assert found["pixels"]["whole"]["seconds"] > 0
