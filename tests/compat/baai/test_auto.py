"""The Auto classes over a folder in our own layout."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius.compat import baai
from dromaius.errors import CheckpointError
from dromaius.models.emu3.convert import convert
from tests.compat.conftest import Checkpoints
from tests.tokenizers.vectors import ROWS


def test_own_layout(
    checkpoints: Checkpoints, parts: SimpleNamespace, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    convert(checkpoints.baai_lm, folder, "dromaius", vision_tokenizer=checkpoints.baai_vq)
    options = {"trust_remote_code": True}
    tokenizer = baai.AutoTokenizer.from_pretrained(folder, padding_side="left", **options)
    images = baai.AutoImageProcessor.from_pretrained(folder, **options)
    vision = baai.AutoModel.from_pretrained(folder, **options)
    model = baai.AutoModelForCausalLM.from_pretrained(folder, **options)
    assert isinstance(vision, baai.Emu3VisionVQModel)
    assert all(tokenizer(text).input_ids == ids for text, ids, _ in ROWS)
    image = Image.open(picture)
    given = {"mode": "U", "return_tensors": "pt"}
    inputs = baai.Emu3Processor(images, vision, tokenizer)("What is it", image, **given)
    expected = parts.processor("What is it", image, **given)
    assert inputs.input_ids.tolist() == expected.input_ids.tolist()
    with torch.no_grad():
        assert torch.equal(model(inputs.input_ids).logits, parts.model(inputs.input_ids).logits)
    for name in ("pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof"):
        key = f"{name}_token_id"
        assert getattr(model.config, key) == getattr(parts.model.config, key)
    assert model.config.image_area == parts.model.config.image_area
    codes = vision.encode(images(image, return_tensors="pt")["pixel_values"])
    restored = images.postprocess(vision.decode(codes))["pixel_values"][0]
    assert np.asarray(restored).shape == np.asarray(image).shape


def test_halves_that_a_folder_lacks(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no language model"):
        baai.AutoModelForCausalLM.from_pretrained(checkpoints.baai_vq)
    with pytest.raises(CheckpointError, match="config.json"):
        baai.AutoModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no model at"):
        baai.AutoTokenizer.from_pretrained("not a model")
