"""Seed 002: the two scripts of a blog that frees models between the steps."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.compat.seed_blocks.support import FLASH_WARNINGS, Run, grid, picture_of, read, says


def test_generation(run: Run, parts: SimpleNamespace, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run("002 generation")
    assert says(caught, "flash_attention_2") == FLASH_WARNINGS
    assert "model" not in names  # the script frees it before it decodes
    prompt = names["pos_inputs"]
    assert prompt.image_size.tolist() == [[6, 6]]
    codes = grid(names["outputs"][0, prompt.input_ids.shape[1] :].tolist(), 6, 6)
    saved = read(tmp_path / "result_0_1.png")
    assert saved.shape == (48, 48, 3) and np.array_equal(saved, picture_of(parts, codes))


def test_understanding(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("002 understanding")
    (answer,) = names["answers"]
    assert isinstance(answer, str) and answer.strip()
    assert answer in capsys.readouterr().out
    assert names["outputs"].shape == (1, 8)  # cut at the prompt's length
