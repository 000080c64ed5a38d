"""onnxruntime with the exported graphs against transformers' model and its `generate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import dromaius
from dromaius.errors import CheckpointError, InputError
from dromaius.models.vision_encoder_decoder.onnx import export as onnx
from dromaius.pipelines.reading.export_onnx import export_onnx, greedy
from tests.pipelines.reading import folders

pytest.importorskip("onnxruntime")

PAIRS = [("vit", "gpt2"), ("vit", "bert"), ("deit", "trocr")]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_onnxruntime_writes_what_transformers_writes(
    encoder: str, decoder: str, tmp_path: Path
) -> None:
    source = folders.write(tmp_path / "model", decoder, encoder)
    report = export_onnx(dromaius.load(source), tmp_path / "onnx")
    assert report["greedy"]["equal"] and report["greedy"]["tokens"] > 8
    assert 0 < report["largest_difference"] < 1e-3
    assert json.loads((tmp_path / "onnx" / "parity.json").read_text()) == report
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(source).eval()
    for batch in (1, 3):
        drawn = torch.Generator().manual_seed(batch)
        pixels = torch.randn(batch, 3, folders.HEIGHT, folders.WIDTH, generator=drawn)
        wanted = theirs.generate(pixel_values=pixels, max_new_tokens=15)[:, 1:].tolist()
        start = np.full((batch, 1), folders.START)
        found = greedy(tmp_path / "onnx", pixels.numpy(), start, [folders.END], 15)
        for ids, expected in zip(found, wanted, strict=True):
            assert ids == expected[: len(ids)]
            assert set(expected[len(ids) :]) <= {folders.PAD}
    run = onnx.session(tmp_path / "onnx" / "decoder_with_past_model.onnx")
    names = [node.name for node in run.get_inputs()]
    assert names[:3] == [
        "input_ids",
        "past_key_values.0.decoder.key",
        "past_key_values.0.decoder.value",
    ]
    assert "past_key_values.1.encoder.value" in names
    held = {file.name for file in (tmp_path / "onnx").iterdir()}
    assert {"config.json", "tokenizer.json", "preprocessor_config.json"} <= held
    assert not any(name.endswith((".safetensors", ".index.json")) for name in held)


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exporter with an error would: the graph is of another model."""
    model = dromaius.load(folders.write(tmp_path / "model"))
    right = onnx._write

    def wrong(graph, inputs, path):  # type: ignore[no-untyped-def]  # as the original's
        with torch.no_grad():
            weight = model.model.decoder.get_input_embeddings().weight
            weight *= 2
            right(graph, inputs, path)
            weight /= 2

    monkeypatch.setattr(onnx, "_write", wrong)
    with pytest.raises(CheckpointError, match="decoder_model.onnx: .* differs by"):
        export_onnx(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dromaius.load(folders.write(tmp_path / "model"), device="meta")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime \(pip install 'dromaius\[onnx\]'\)"):
        export_onnx(model, tmp_path / "onnx")
