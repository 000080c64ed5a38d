"""Pictures and clips to codes and back: transformers' image processor and VQ model agree."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dromaius.errors import CheckpointError, InputError
from dromaius.pipelines.emu3 import Emu3
from tests.pipelines.small import CODES, MAX_PIXELS, MIN_PIXELS, Reference


def noise_picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours with noise on them."""
    generator = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = generator.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    fine = generator.integers(-30, 30, (height, width, channels))
    bands = [
        np.asarray(Image.fromarray(coarse[..., c]).resize((width, height))) for c in range(channels)
    ]
    values = (np.stack(bands, -1).astype(int) + fine).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values, mode=mode)


# --------------------------------------------------------------------------------------- pictures


@pytest.mark.parity
@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(48, 40, id="as it is"),
        pytest.param(51, 45, id="to multiples of 8"),
        pytest.param(200, 90, id="shrunk"),
        pytest.param(20, 16, id="enlarged"),
        pytest.param(9, 40, id="enlarged and narrow"),
    ],
)
def test_codes_equal_transformers(
    model: Emu3, baai_model: Emu3, reference: Reference, width: int, height: int
) -> None:
    picture = noise_picture(width, width, height)
    theirs = reference.codes(picture)
    assert theirs.unique().numel() > 5
    for ours in (model.encode_image(picture), baai_model.encode_image(picture)):
        assert ours.dtype == torch.int64 and ours.equal(theirs)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "CMYK"])
def test_any_mode_of_picture(model: Emu3, reference: Reference, mode: str) -> None:
    picture = noise_picture(3, 40, 48, mode)
    opaque = Image.new("RGBA", picture.size, "white")
    rgba = picture.convert("RGBA")
    expected = reference.codes(Image.alpha_composite(opaque, rgba).convert("RGB"))
    assert model.encode_image(picture).equal(expected)


def test_size_of_the_grid(model: Emu3) -> None:
    """Within the bounds sides are rounded to 8; outside, the area is brought within them."""
    grids = {
        (48, 40): (5, 6),
        (52, 44): (6, 6),  # 6.5 and 5.5 rounded half to even
        (128, 128): (8, 8),
        (160, 40): (4, 16),
        (8, 8): (4, 4),
        (16, 32): (6, 3),
    }
    for (width, height), grid in grids.items():
        codes = model.encode_image(Image.new("RGB", (width, height), "orange"))
        assert tuple(codes.shape) == grid
        assert MIN_PIXELS <= codes.numel() * 64 <= MAX_PIXELS


@pytest.mark.parametrize("size", [(7, 40), (40, 7), (200, 30)])
def test_a_picture_that_cannot_be_encoded(model: Emu3, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]}"):
        model.encode_image(Image.new("RGB", size))


@pytest.mark.parity
def test_decoded_pictures_equal_transformers(model: Emu3, reference: Reference) -> None:
    codes = torch.randint(0, CODES, (5, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pixels = reference.model.model.vqmodel.decode(codes[None])  # [1,3,40,56]
    theirs = reference.processor.postprocess(list(pixels), return_tensors="PIL.Image.Image")
    ours = model.decode_image(codes)
    assert ours.mode == "RGB" and ours.size == (56, 40)
    difference = np.asarray(ours).astype(int) - np.asarray(theirs["pixel_values"][0]).astype(int)
    # values are truncated: rounding of 1e-6 may move one across the edge of a whole number
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01
    assert np.asarray(ours).std() > 10


@pytest.mark.parametrize(
    "codes",
    [
        pytest.param(torch.full((3, 3), CODES), id="too large"),
        pytest.param(torch.full((3, 3), -1), id="negative"),
        pytest.param(torch.zeros(0, 3, dtype=torch.long), id="empty"),
        pytest.param(torch.zeros(9, dtype=torch.long), id="one dimension"),
        pytest.param(torch.zeros(1, 3, 3, dtype=torch.long), id="three dimensions"),
    ],
)
def test_codes_that_cannot_be_decoded(model: Emu3, codes: Tensor) -> None:
    with pytest.raises(InputError, match="codes"):
        model.decode_image(codes)


def test_without_a_vision_tokenizer(model: Emu3) -> None:
    blind = copy.copy(model)
    blind.vision_tokenizer = None
    calls = (
        lambda: blind.encode_image(Image.new("RGB", (48, 48))),
        lambda: blind.decode_image(torch.zeros(3, 3, dtype=torch.long)),
        lambda: blind.encode_video([Image.new("RGB", (48, 48))]),
        lambda: blind.decode_video(torch.zeros(1, 3, 3, dtype=torch.long)),
        lambda: blind.generate_image("a cat", height=24, width=24),
        lambda: blind.answer(Image.new("RGB", (48, 48)), "what?"),
    )
    for call in calls:
        with pytest.raises(CheckpointError, match="no vision tokenizer"):
            call()


# ------------------------------------------------------------------------------------------ clips


def clip(count: int, size: tuple[int, int] = (48, 40)) -> list[Image.Image]:
    return [noise_picture(100 + i, *size) for i in range(count)]


@pytest.mark.parity
@pytest.mark.parametrize("count", [4, 8, 20])
def test_clip_codes_equal_transformers_chunk_by_chunk(
    model: Emu3, reference: Reference, count: int
) -> None:
    frames = clip(count)
    pixels = reference.processor.image_processor(frames, return_tensors="pt")["pixel_values"]
    uncropped = torch.tensor([[999, 999]])  # transformers crops a clip along the wrong axes
    theirs = []
    for chunk in pixels.split(4):  # [4,3,40,48]
        with torch.no_grad():
            encoded = reference.model.model.vqmodel.encode(chunk[None], uncropped)
        theirs.append(encoded.image_tokens[0])
    assert model.encode_video(frames).equal(torch.cat(theirs))


def test_a_short_last_chunk_repeats_its_last_frame(model: Emu3) -> None:
    frames = clip(6)
    padded = [*frames, frames[-1], frames[-1]]
    assert model.encode_video(frames).equal(model.encode_video(padded))


def test_one_frame_is_a_still_picture(model: Emu3) -> None:
    frame = clip(1)[0]
    assert model.encode_video([frame])[0].equal(model.encode_image(frame))


@pytest.mark.parity
def test_decoded_clips_equal_transformers_chunk_by_chunk(model: Emu3, reference: Reference) -> None:
    codes = torch.randint(0, CODES, (6, 4, 5), generator=torch.Generator().manual_seed(2))
    frames = model.decode_video(codes)
    assert len(frames) == 24 and {frame.size for frame in frames} == {(40, 32)}
    for index, chunk in enumerate(codes):
        with torch.no_grad():
            pixels = reference.model.model.vqmodel.decode(chunk[None, None])[0]  # [4,3,32,40]
        theirs = ((pixels * 0.5 + 0.5) * 255).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        ours = np.stack([np.asarray(frame) for frame in frames[4 * index : 4 * index + 4]])
        difference = np.abs(ours.astype(int) - theirs.astype(int))
        assert difference.max() <= 1 and (difference != 0).mean() < 0.01


@pytest.mark.parametrize("others", [[1], [4], [17], [16, 17, 18, 19]], ids=str)
def test_frames_of_two_sizes(model: Emu3, others: list[int]) -> None:
    """Also where all frames of each forward pass have one size."""
    frames = clip(20, (40, 40))
    for position in others:
        frames[position] = noise_picture(0, 48, 48)
    with pytest.raises(InputError, match="one size"):
        model.encode_video(frames)


def test_clips_that_cannot_be_used(model: Emu3) -> None:
    with pytest.raises(InputError, match="at least one frame"):
        model.encode_video([])
    with pytest.raises(InputError, match=r"\[t,h,w\]"):
        model.decode_video(torch.zeros(3, 3, dtype=torch.long))
    with pytest.raises(InputError, match="codes must lie"):
        model.decode_video(torch.full((1, 3, 3), CODES))
