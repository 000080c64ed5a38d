"""`model.chat` with the real vocabulary: the ids of transformers' chat template and processor.

The small vocabulary's tests are in tests/pipelines/test_text.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import dromaius
from dromaius.pipelines import text
from tests.compat.conftest import Checkpoints
from tests.pipelines.small import Reference
from tests.pipelines.test_text import SYSTEM, Spy, inputs_of, said, user, with_codes

EOS = 151850


@pytest.fixture(scope="module")
def reference(checkpoints: Checkpoints, theirs: Any) -> Reference:
    from transformers import AutoProcessor

    return Reference(theirs, AutoProcessor.from_pretrained(checkpoints.hf))


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["hf", "baai"])
def test_turns_and_pictures_equal_transformers(
    layout: str, checkpoints: Checkpoints, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three turns, two languages; two pictures in the first message, one in the last."""
    if layout == "hf":
        model = dromaius.load(checkpoints.hf)
    else:
        model = dromaius.load(checkpoints.baai_lm, vision_tokenizer=checkpoints.baai_vq)
    spy = Spy()
    monkeypatch.setattr(text, "write_text", spy)
    noise = np.random.default_rng(5)
    pictures = [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((40, 64), (64, 40), (48, 48))
    ]
    images = [{"type": "image", "image": picture} for picture in pictures]
    ours = [
        {"role": "user", "content": [*images[:2], {"type": "text", "text": "Compare them."}]},
        {"role": "assistant", "content": "The first is wide, the second tall."},
        {"role": "user", "content": "哪个是红色？"},
        {"role": "assistant", "content": [{"type": "text", "text": "都不是。"}]},
        {
            "role": "user",
            "content": [images[2], {"type": "text", "text": "In 2024, was it 90*90?"}],
        },
    ]
    model.chat(ours)
    theirs = [
        said("system", SYSTEM),
        user("Compare them.", 2),
        said("assistant", "The first is wide, the second tall."),
        said("user", "哪个是红色？"),
        said("assistant", "都不是。"),
        user("In 2024, was it 90*90?", 1),
    ]
    inputs = inputs_of(reference, theirs, pictures)
    [prompt] = spy.prompts
    assert prompt == with_codes(reference, inputs, pictures)
    assert prompt.count(151852) == prompt.count(151853) == 3  # image start, image end
    assert EOS not in prompt  # the published template puts none between turns
