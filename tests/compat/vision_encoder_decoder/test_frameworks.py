"""JAX and TensorFlow against PyTorch: values, gradients, texts, files, and what must not work.

Both run in a process where importing torch raises.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from tests.compat.vision_encoder_decoder import without_torch
from tests.compat.vision_encoder_decoder.framework_pairs import LENGTH, PAIRS, Found, write

CODE = """
import pathlib
from tests.compat.vision_encoder_decoder.framework_code import run_flax, run_tensorflow

for name in NAMES:
    folder = pathlib.Path(name)
    with numpy.load(folder / "inputs.npz") as file:
        inputs = dict(file)
    found = {"flax": run_flax(folder, inputs, LENGTH)}
    found["tf"] = run_tensorflow(folder, inputs, numpy.load(folder / "words.npy"), LENGTH)
    for kind in found:
        results |= {f"{name}/{kind}/{key}": value for key, value in found[kind].items()}
"""
KINDS = ("flax", "tf")


class Answers:
    """PyTorch's values and those of the others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.torch = {name: write(name, root / name) for name in PAIRS}
        code = CODE.replace("NAMES", repr(list(PAIRS))).replace("LENGTH", str(LENGTH))
        self.others = without_torch.run(code, root)

    def of(self, pair: str, kind: str) -> Found:
        start = f"{pair}/{kind}/"
        return {n.removeprefix(start): v for n, v in self.others.items() if n.startswith(start)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return Answers(tmp_path_factory.mktemp("frameworks"))


def assert_close(ours: np.ndarray, theirs: np.ndarray, name: str, share: float = 1e-5) -> None:
    """Equal to a share of the largest number: the parts are random, their values reach 2e5."""
    atol = share * max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


both = pytest.mark.parametrize("kind", KINDS)
all_pairs = pytest.mark.parametrize("pair", PAIRS)


@both
@all_pairs
def test_forward(answers: Answers, pair: str, kind: str) -> None:
    ours, theirs = answers.of(pair, kind), answers.torch[pair]
    compared = [n for n in theirs if not n.startswith("grad ") and n in ours]
    for name in compared:
        if name not in ("greedy", "beams"):
            assert_close(ours[name], theirs[name], name)
    states = [name for name in compared if "hidden_states" in name or "attentions" in name]
    assert len(states) == len([n for n in theirs if "hidden_states" in n or "attentions" in n])
    assert {"loss", "logits", "masked"} <= set(compared)


@both
@all_pairs
def test_gradients(answers: Answers, pair: str, kind: str) -> None:
    ours, theirs = answers.of(pair, kind), answers.torch[pair]
    names = {name for name in ours if name.startswith("grad ")}
    assert not [name for name in theirs if name.startswith("grad ") and name not in names]
    for name in names:
        assert_close(ours[name], theirs[name], name, 2e-5)


@both
@all_pairs
def test_texts(answers: Answers, pair: str, kind: str) -> None:
    ours, theirs = answers.of(pair, kind), answers.torch[pair]
    for name in ("greedy", "beams"):
        length = theirs[name].shape[1]
        np.testing.assert_array_equal(ours[name][:, :length], theirs[name])


@both
@all_pairs
def test_a_cache_and_another_load_change_nothing(answers: Answers, pair: str, kind: str) -> None:
    ours = answers.of(pair, kind)
    for name in ("stepwise", "again"):
        assert_close(ours[name], ours["logits"], name)


@all_pairs
def test_pytorch_reads_what_the_others_save(answers: Answers, pair: str) -> None:
    folder = answers.root / pair
    with np.load(folder / "inputs.npz") as file:
        pixels, labels = torch.from_numpy(file["pixels"]), torch.from_numpy(file["labels"])
    for saved in ("flax", "tf", "tf-safe"):
        model = VisionEncoderDecoderModel.from_pretrained(folder / saved)
        with torch.no_grad():
            logits = model(pixels, labels=labels).logits.numpy()
        assert_close(logits, answers.torch[pair]["logits"], saved)


ALONE = """
sys.modules["jax"] = sys.modules["tensorflow"] = None
from dromaius.compat.vision_encoder_decoder import (
    FlaxVisionEncoderDecoderModel, TFVisionEncoderDecoderModel)

for cls in (FlaxVisionEncoderDecoderModel, TFVisionEncoderDecoderModel):
    for make in (
        lambda: cls(None),
        lambda: cls.from_pretrained("nowhere"),
        lambda: cls.from_encoder_decoder_pretrained("nowhere", "nowhere"),
    ):
        try:
            make()
        except ImportError as error:
            results[f"{cls.__name__} {len(results)}"] = str(error)
"""


def test_without_the_framework_the_error_names_the_extra(tmp_path: Path) -> None:
    errors = without_torch.run(ALONE, tmp_path)
    assert len(errors) == 6
    for name, error in errors.items():
        extra = "jax" if name.startswith("Flax") else "tensorflow"
        assert f"pip install 'dromaius[{extra}]'" in str(error)


def test_the_names_import_no_framework() -> None:
    code = (
        "import sys, dromaius.compat.vision_encoder_decoder as m; assert len(dir(m)) > 7;"
        "print([n for n in ('torch', 'jax', 'tensorflow', 'transformers') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(without_torch.REPOSITORY / "src")}
    assert subprocess.check_output(command, env=environment, text=True).strip() == "[]"
