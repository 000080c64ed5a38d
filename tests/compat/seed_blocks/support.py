"""What the tests of the seeds' blocks share: the grammar of pictures, and reference formulas."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import is_flash_attn_2_available

Run = Callable[..., dict[str, Any]]
"""(block name, given names) -> the names it leaves; "_" is its last expression."""

PAD, EOL, EOF, BOS, EOS = 151643, 151846, 151847, 151849, 151850
IMG, BOI, EOI = 151851, 151852, 151853
VISUAL = range(151854, 184622)
FLASH_WARNINGS = 0 if is_flash_attn_2_available() else 1
"""How often a script that asks for flash attention is told that it gets PyTorch's."""
NEGATIVE_LENGTH = 44
"""Ids of the seeds' negative prompt (spec section 3.3)."""


def grid(ids: list[int], height: int, width: int) -> list[list[int]]:
    """Codes of a generated picture; asserts the whole grammar, padding behind it included."""
    cells = height * (width + 1)
    rows = [ids[i : i + width + 1] for i in range(0, cells, width + 1)]
    assert all(row[-1] == EOL and set(row[:-1]) <= set(VISUAL) for row in rows)
    assert ids[cells : cells + 3] == [EOF, EOI, EOS]
    assert set(ids[cells + 3 :]) <= {PAD}
    return [[i - VISUAL.start for i in row[:-1]] for row in rows]


def to_bytes(pixels: torch.Tensor) -> np.ndarray:
    """Decoded pixels [3,H,W] -> uint8 [H,W,3] by the formula of spec section 4.3."""
    return ((pixels * 0.5 + 0.5) * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def picture_of(parts: SimpleNamespace, codes: list[list[int]]) -> np.ndarray:
    """Codes [h,w] -> uint8 [8h,8w,3]."""
    return to_bytes(parts.vision.decode(torch.tensor([codes]))[0])


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@torch.no_grad()
def guided(
    model: Any, prompt: list[int], negative: list[int], height: int, width: int, scale: float
) -> list[int]:
    """Greedy ids of a picture by the formulas of spec section 5: a full forward per step."""
    out: list[int] = []
    cells = height * (width + 1)
    for offset in range(1, cells + 4):
        s, u = (
            model(input_ids=torch.tensor([ids + out]), logits_to_keep=1)
            .logits[0, -1]
            .float()
            .log_softmax(-1)
            for ids in (prompt, negative)
        )
        score = scale * (s - u) + u
        forced = {cells + 1: EOF, cells + 2: EOI, cells + 3: EOS}.get(offset)
        if forced is None and offset % (width + 1) == 0:
            forced = EOL
        visual = score[VISUAL.start : VISUAL.stop]
        out.append(forced or VISUAL.start + int(visual.argmax()))
    return out


def says(caught: Any, words: str) -> int:
    """How many of the caught warnings hold the words."""
    return sum(words in str(warning.message) for warning in caught)
