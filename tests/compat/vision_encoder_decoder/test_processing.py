"""Tokenizers of folders that do not name their class (spec section 1.10)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dromaius.compat.vision_encoder_decoder import load_processor, load_tokenizer
from dromaius.errors import CheckpointError
from tests.compat.vision_encoder_decoder import small

TROCR = ["<s>", "<pad>", "</s>", "<unk>"]


def test_trocr_folder_without_a_class(tmp_path: Path) -> None:
    small.byte_level_tokenizer(tmp_path, TROCR, "RobertaTokenizer")
    named = load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    small.image_processor(tmp_path)
    processor = load_processor(tmp_path)
    ids = processor.tokenizer("hello world").input_ids
    assert ids == named("hello world").input_ids
    assert (ids[0], ids[-1]) == (0, 2)
    picture = Image.fromarray(np.zeros((20, 50, 3), dtype=np.uint8))
    assert processor(picture, return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)
    assert processor.batch_decode([ids], skip_special_tokens=True) == ["hello world"]


def test_gpt2_folder_without_a_class(tmp_path: Path) -> None:
    small.byte_level_tokenizer(tmp_path, ["<|endoftext|>"], "GPT2Tokenizer")
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"decoder": {"model_type": "gpt2"}}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer("hello").input_ids) == "hello"
    assert tokenizer.eos_token_id == 0


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_config.json is not valid JSON"):
        load_tokenizer(tmp_path)
