"""Seed 001: the inference scripts of mindone's README, with torch in mindspore's place."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.generation import (
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from tests.compat.seed_blocks.support import (
    BOI,
    BOS,
    FLASH_WARNINGS,
    IMG,
    NEGATIVE_LENGTH,
    Run,
    grid,
    picture_of,
    read,
    says,
    to_bytes,
)


def test_generation(run: Run, parts: SimpleNamespace, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run("001 generation")
    assert says(caught, "flash_attention_2") == FLASH_WARNINGS
    prompt, negative = (names[k]["input_ids"][0].tolist() for k in ("pos_inputs", "neg_inputs"))
    header = [BOI, 21, 9, 21, IMG]  # "6*6"
    assert prompt[0] == negative[0] == BOS and prompt[-5:] == negative[-5:] == header
    assert len(negative) == 1 + NEGATIVE_LENGTH + 5
    codes = grid(names["outputs"][0, len(prompt) :].tolist(), 6, 6)
    assert [type(piece) for piece in names["mm_list"]] == [str, Image.Image, str]
    assert [path.name for path in tmp_path.glob("result_*.png")] == ["result_1.png"]
    assert np.array_equal(read(tmp_path / "result_1.png"), picture_of(parts, codes))
    # test_language_model.py compares guided ids with the formulas; here it must have had a part
    assert drawn_again(names, 3.0) != drawn_again(names, 1.0)


def drawn_again(names: dict[str, Any], scale: float) -> list[list[int]]:
    """The block's `generate`, with another weight of the prompt and one seed."""
    model, inputs = names["model"], names["pos_inputs"]
    unconditional = torch.from_numpy(names["neg_inputs"].input_ids)
    processors = LogitsProcessorList(
        [
            UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model, unconditional),
            PrefixConstrainedLogitsProcessor(names["constrained_fn"], num_beams=1),
        ]
    )
    torch.manual_seed(0)
    outputs = model.generate(
        torch.tensor(inputs.input_ids),
        names["GENERATION_CONFIG"],
        logits_processor=processors,
        attention_mask=torch.tensor(inputs.attention_mask),
    )
    return outputs.tolist()


def test_understanding(
    run: Run, parts: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run("001 understanding")
    inputs, outputs = names["inputs"], names["outputs"]
    assert inputs["image_size"].tolist() == [[5, 8], [5, 8]]
    printed = capsys.readouterr().out
    # the answers hold the prompt too: the block does not cut it off
    questions = ["Please describe the image", "请描述该图片"]
    for answer, question in zip(names["answers"], questions, strict=True):
        assert answer in printed
        assert answer.startswith(f"You are a helpful assistant. USER: 5*8{question}. ASSISTANT:")
        assert answer.split("ASSISTANT:", 1)[1].strip()
    # greedy, and the padding before the shorter question changes nothing
    for row, ids in enumerate(inputs["input_ids"]):
        alone = torch.tensor(ids[inputs["attention_mask"][row] == 1])[None]
        with torch.no_grad():
            scores = parts.model(alone, logits_to_keep=1).logits[0, -1]
        chosen = int(outputs[row, len(ids)])  # of a bfloat16 model
        assert int((scores > scores[chosen]).sum()) < 5


def test_autoencoding(
    run: Run, theirs: Any, parts: SimpleNamespace, frames: Path, tmp_path: Path
) -> None:
    """Codes and pictures are those of transformers' tokenizer: frame 0 alone, clips of four."""
    names = run("001 autoencoding")
    video = [read(frames / f"{i}.png") for i in range(8)]
    pixels = torch.stack([torch.from_numpy(f.copy()).permute(2, 0, 1) / 255 for f in video]) * 2 - 1
    vision, size = theirs.model.vqmodel, torch.tensor([[32, 48]])
    clips = torch.stack(
        [vision.quantize(latents(vision, pixels[i : i + 4])) for i in (0, 4)]
    ).flatten(0, 1)
    assert names["codes"].tolist() == clips.tolist()
    assert len(clips.unique()) > 10
    still = vision.encode(pixels[:1], size).image_tokens[0]
    expected = to_bytes(vision.decode(still[None])[0])
    assert close(read(tmp_path / "recon_image.png"), expected)
    decoded = vision.decode(clips).flatten(0, 1)
    assert len(decoded) == 8
    for index, frame in enumerate(decoded):
        assert close(read(tmp_path / f"recon_video_{index}.png"), to_bytes(frame))


def latents(vision: Any, clip: torch.Tensor) -> torch.Tensor:
    """What the quantizer sees of one clip [4,3,H,W], as transformers' `encode` computes it."""
    hidden = vision.encoder(clip[None]).permute(0, 2, 1, 3, 4)
    return vision.quant_conv(hidden).permute(0, 2, 1, 3, 4)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal pictures but for the last bit, which truncation may flip."""
    return bool(np.abs(found.astype(int) - expected).max() <= 1)
