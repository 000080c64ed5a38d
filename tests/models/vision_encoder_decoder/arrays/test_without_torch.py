"""The core where PyTorch and transformers cannot be imported, and frameworks that are absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dromaius.models.vision_encoder_decoder import arrays
from tests.models.vision_encoder_decoder.arrays.conftest import Make

_SCRIPT = """
import sys

class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise RuntimeError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
import numpy as np
from dromaius.models.vision_encoder_decoder import arrays

assert not {"jax", "tensorflow"} & set(sys.modules), "frameworks are imported when asked for"
folder, given, answer = sys.argv[1:]
given = np.load(given)
config, params = arrays.load(folder)
found = {}
for name in ("numpy", "jax", "tensorflow"):
    xp = arrays.namespace(name)
    placed = arrays.place(xp, params)
    if name == "numpy":
        found["logits"] = arrays.forward(xp, config, placed, given["pixels"], given["ids"])
    text = arrays.generate(xp, config, placed, given["pixels"], num_beams=2, max_new_tokens=6)
    found[name] = np.asarray(text.sequences)
np.savez(answer, **found)
"""


@pytest.mark.parity
def test_all_three_run_in_a_process_without_pytorch(
    make: Make, ids: np.ndarray, tmp_path: Path
) -> None:
    pair = make("vit-gpt2")
    given, answer = f"{tmp_path}/given.npz", f"{tmp_path}/answer.npz"
    np.savez(given, pixels=pair.pixels, ids=ids)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(pair.folder), given, answer],
        check=True,
        env=environment,
    )
    found = np.load(answer)
    np.testing.assert_allclose(found["logits"], pair.logits(ids), atol=1e-5)
    pixels = torch.from_numpy(pair.pixels)
    expected = pair.model.generate(pixels, num_beams=2, max_new_tokens=6).numpy()
    for name in ("numpy", "jax", "tensorflow"):
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("name", ["jax", "tensorflow"])
def test_a_framework_that_is_absent_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = f"dromaius.models.vision_encoder_decoder.arrays.backends.{name}"
    monkeypatch.delitem(sys.modules, backend, raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself takes for "not there"
    arrays.namespace.cache_clear()
    try:
        with pytest.raises(ImportError, match=rf"pip install 'dromaius\[{name}\]'"):
            arrays.namespace(name)
    finally:
        arrays.namespace.cache_clear()
