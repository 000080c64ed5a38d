"""Clips <-> codes, in independent chunks of as many frames as share one grid of codes.

Legend: T frames, t latent frames, h/w grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from dromaius.errors import InputError
from dromaius.io import images

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

CHUNKS_AT_ONCE = 4
"""Chunks that go through the vision tokenizer together; bounds memory on long clips."""


@torch.no_grad()
def encode_video(model: Emu3, frames: Sequence[Image.Image]) -> Tensor:
    """Frames of one size -> codes int64 [t,h,w]. A last chunk that is short repeats its last frame.

    Chunks are encoded apart from each other: published weights were trained on 4-frame clips, and
    a longer clip in one pass has other codes from its second chunk on (spec section 2.5).
    """
    if not frames:
        raise InputError("a clip needs at least one frame")
    if len({frame.size for frame in frames}) != 1:
        raise InputError("the frames of a clip must have one size")
    vision = model.require_vision_tokenizer()
    per_chunk = vision.config.temporal_downsample_factor
    padded = [*frames, *[frames[-1]] * (-len(frames) % per_chunk)]
    codes = []
    for start in range(0, len(padded), per_chunk * CHUNKS_AT_ONCE):
        some = padded[start : start + per_chunk * CHUNKS_AT_ONCE]
        pixels = model.to_pixels(some).to(model.device)  # [n*4,3,H,W]
        chunks = pixels.unflatten(0, (-1, per_chunk))  # [n,4,3,H,W]
        codes.append(vision.encode(chunks)[:, 0].cpu())  # [n,1,h,w] -> [n,h,w]
    return torch.cat(codes)


@torch.no_grad()
def decode_video(model: Emu3, codes: Tensor) -> list[Image.Image]:
    """Codes int64 [t,h,w] -> 4t frames."""
    vision = model.require_vision_tokenizer()
    if codes.ndim != 3:
        raise InputError(f"codes of a clip must be [t,h,w], got {list(codes.shape)}")
    frames: list[Image.Image] = []
    for chunk in codes.to(model.device).split(CHUNKS_AT_ONCE):
        pixels = vision.decode(model.checked_codes(chunk)[:, None])  # [n,4,3,H,W]
        settings = model.config.image
        frames += images.from_pixels(pixels.flatten(0, 1), settings.mean, settings.std)
    return frames
