"""Loading holds the weights and little else, whatever the file's form and numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dromaius.io.checkpoint import without_memory
from dromaius.io.shards import save_sharded
from dromaius.models.emu3 import config as emu3
from dromaius.models.emu3 import export
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import Layout
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import their_name, their_tensor

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)

CONFIG = emu3.Emu3Config(
    emu3.LanguageModelConfig(
        vocab_size=33000,
        hidden_size=384,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
    ),
    emu3.VisionTokenizerConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
    emu3.VocabularyConfig(0, 1, 2, 3, 4, 5, 6, 7, visual_start=6, codebook_size=32768),
)
"""49 million parameters, half of them in the two tables: 197 MB in float32."""

MEASURE = """
import json, sys
import torch
from dromaius.pipelines.load import load

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def touch(module):
    return [float(tensor.sum()) for tensor in module.parameters()]

load("nano")  # what is imported at the first time does not count
for folder, vision, dtype in json.load(sys.stdin):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = status("VmRSS")
    model = load(folder, vision, device="cpu", dtype=dtype)
    for half in (model.language_model, model.vision_tokenizer):
        touch(half)
    tensors = [*model.language_model.parameters(), *model.vision_tokenizer.parameters()]
    size = sum(tensor.nbytes for tensor in tensors)
    print(json.dumps((status("VmHWM") - before) / size), flush=True)
    del model, half, tensors
"""


def zeros(layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the layout has a place for."""
    assert CONFIG.language_model is not None and CONFIG.vision_tokenizer is not None
    with without_memory():
        halves = {
            "language_model": LanguageModel(CONFIG.language_model),
            "vision_tokenizer": VisionTokenizer(CONFIG.vision_tokenizer),
        }
    for half, module in halves.items():
        for key, tensor in module.state_dict().items():
            name = f"{half}.{key}"
            theirs = their_name(name, layout)
            if theirs is not None:
                made = torch.zeros(tensor.shape, dtype=tensor.dtype)
                yield theirs, their_tensor(name, made, layout)


def write(folder: Path, files: dict[str, dict[str, object]], layout: Layout, shard: int) -> Path:
    save_sharded(zeros(layout), folder, shard)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def as_bin(folder: Path, source: Path) -> Path:
    """The same checkpoint in .bin files."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            torch.save(load_file(file), folder / f"pytorch_{file.stem}.bin")
        elif file.name.endswith(".index.json"):
            text = (
                file.read_text()
                .replace(".safetensors", ".bin")
                .replace('"model-', '"pytorch_model-')
            )
            (folder / "pytorch_model.bin.index.json").write_text(text)
        else:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_peak_is_at_most_1_15_of_the_weights(tmp_path: Path) -> None:
    """Sharded safetensors and .bin, both layouts, as stored and converted to 16 bits."""
    baai = write(
        tmp_path / "language",
        export.baai_language_files(CONFIG, "float32"),
        "baai",
        10**8,
    )
    vision = write(tmp_path / "vision", export.baai_vision_files(CONFIG), "baai-vision", 10**8)
    own = write(tmp_path / "own", export.own_files(replace(CONFIG)), "dromaius", 10**8)
    binary = as_bin(tmp_path / "bin", baai)
    cases: list[tuple[str, str | None, str]] = [
        (str(own), None, "float32"),
        (str(own), None, "bfloat16"),
        (str(baai), str(vision), "bfloat16"),
        (str(binary), str(vision), "float32"),
        (str(binary), str(vision), "bfloat16"),
    ]
    outcome = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    ratios = [float(line) for line in outcome.stdout.split()]
    assert len(ratios) == len(cases)
    assert max(ratios) <= 1.15, dict(zip(cases, ratios, strict=True))
