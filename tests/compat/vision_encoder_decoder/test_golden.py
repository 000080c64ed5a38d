"""Files that TensorFlow and Flax wrote give the logits that TensorFlow and Flax computed.

`golden/make.py` made them with transformers 4.48; neither framework is needed to read them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from tests.compat.vision_encoder_decoder.golden.make import IDS, pixels

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("flax", "tf-h5", "tf-safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["gpt2", "bert"])
def test_logits(decoder: str, kind: str) -> None:
    folder = GOLDEN / f"{decoder}-{kind}"
    model, info = VisionEncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        logits = model(
            torch.from_numpy(pixels()), decoder_input_ids=torch.from_numpy(IDS).long()
        ).logits
    expected = torch.from_numpy(np.load(folder / "logits.npy"))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
