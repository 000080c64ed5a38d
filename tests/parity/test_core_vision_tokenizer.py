"""The vision tokenizer gives transformers' codes and pixels, whatever is done around it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Emu3VQVAEConfig

from dromaius.models.emu3.config import VisionTokenizerConfig
from dromaius.models.emu3.vision_tokenizer import Quantizer, VisionTokenizer
from tests.tiny import (
    assert_same_codes,
    baai_vision_state,
    make_vision_tokenizer,
    our_vision_config,
    our_vision_tokenizer,
    random_vision_config,
)

pytestmark = pytest.mark.parity

# ------------------------------------------------------ golden vectors (spec section 8, V1)

GOLDEN_IMAGE_CODES = """
    439 110 359 71 176 347 343 65 / 444 272 199 155 176 144 469 272 / 342 4 296 403 19 408 408 359
    / 294 66 66 154 408 359 359 379 / 343 262 262 176 66 408 294 342
    / 131 131 390 183 343 408 501 156
"""
GOLDEN_VIDEO_CODES = """
    443 443 355 408 / 246 380 19 156 / 343 443 69 408 / 480 444 359 435
    / 254 464 12 18 / 397 329 19 75 / 19 486 23 206 / 380 140 19 19
"""


def grid(text: str) -> Tensor:
    return torch.tensor([[int(code) for code in row.split()] for row in text.split("/")])


def fingerprint(codes: Tensor) -> str:
    return hashlib.sha256(codes.contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def golden() -> tuple[Any, VisionTokenizer]:
    """transformers' model of V1 and ours with its weights."""
    config = Emu3VQVAEConfig(
        codebook_size=512,
        base_channels=32,
        channel_multiplier=[1, 1, 2, 2],
        num_res_blocks=2,
        attn_resolutions=[3],
        hidden_size=64,
    )
    reference = make_vision_tokenizer(config, 2)
    return reference, our_vision_tokenizer(reference)


@pytest.fixture(scope="module")
def golden_inputs() -> tuple[Tensor, Tensor]:
    """Two pictures [2,3,48,64] and a clip [1,8,3,32,32]."""
    generator = torch.Generator().manual_seed(100)
    pictures = torch.rand(2, 3, 48, 64, generator=generator) * 2 - 1
    return pictures, torch.rand(1, 8, 3, 32, 32, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def ours(golden: tuple[Any, VisionTokenizer]) -> VisionTokenizer:
    return golden[1]


def test_golden_sizes(ours: VisionTokenizer) -> None:
    assert sum(p.numel() for p in ours.parameters()) == 1_506_335
    assert len(ours.state_dict()) == 491


def test_golden_codes(ours: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]) -> None:
    pictures, clip = golden_inputs
    codes = ours.encode(pictures)
    assert codes.dtype == torch.int64
    assert torch.equal(codes[0], grid(GOLDEN_IMAGE_CODES))
    assert fingerprint(codes) == "e2cb45fd1277bc55"
    codes = ours.encode(clip)
    assert torch.equal(codes[0].flatten(0, 1), grid(GOLDEN_VIDEO_CODES))
    assert fingerprint(codes) == "3b0e3b1a05fa2a15"


def test_golden_pixels(ours: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]) -> None:
    pictures, clip = golden_inputs
    pixels = ours.decode(ours.encode(pictures))
    assert pixels.shape == (2, 3, 48, 64) and pixels.dtype == torch.float32
    close = pytest.approx
    assert [pixels.mean().item(), pixels.std().item()] == close([0.662745, 2.580438], abs=1e-3)
    assert pixels[0, :, 0, 0].tolist() == close([0.97055, -0.3834, 0.25005], abs=1e-3)
    assert pixels[1, :, -1, -1].tolist() == close([-0.54224, 1.30314, -0.48151], abs=1e-3)
    frames = ours.decode(ours.encode(clip))
    assert frames.shape == (1, 8, 3, 32, 32)
    assert [frames.mean().item(), frames.std().item()] == close([2.145599, 8.630683], abs=1e-3)
    column = [4.61712, 1.45011, 4.09034, 6.55643, 4.98906, 6.74589, 16.65728, 22.19315]
    assert frames[0, :, 0, 5, 5].tolist() == close(column, abs=1e-3)


# -------------------------------------------------------------------- random configurations

DRAWS = 5


@pytest.fixture(scope="module", params=range(DRAWS))
def pair(request: pytest.FixtureRequest, rng_seed: int) -> tuple[Any, VisionTokenizer]:
    """A random configuration, in transformers' code and in ours, computing in float64.

    There both agree to twelve digits and codes never tie, so nothing hides behind a tolerance.
    """
    rng = random.Random(f"{rng_seed} {request.param}")
    seed = rng.randrange(2**32)
    # eager attention would round to float32 in its softmax
    reference = make_vision_tokenizer(random_vision_config(rng), seed, attention="sdpa")
    ours = our_vision_tokenizer(reference)
    nn.Module._apply(ours, Tensor.double)  # our own _apply would keep float32
    return reference.double(), ours


def draw_pixels(model: VisionTokenizer, seed: int, *lead: int) -> Tensor:
    """Noise of random sides, [*lead,3,H,W]."""
    rng = random.Random(seed)
    side = model.config.spatial_factor
    height, width = (side * rng.randrange(1, 6) for _ in "hw")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*lead, 3, height, width, generator=generator) * 2 - 1
    return noise * torch.rand(*lead, 3, 1, 1, generator=generator)


@torch.no_grad()
def reference_codes(reference: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of transformers' model and the vectors [...,E] it quantized."""
    # these sizes exceed every axis, so that nothing is cropped (a clip is cropped wrongly there)
    sizes = torch.full((len(pixels), 2), 10**6)
    out = reference.encode(pixels, sizes)
    vectors = reference.quant_conv(out.last_hidden_state.transpose(1, 2)).movedim(1, -1)
    codes = torch.stack(out.image_tokens)
    return codes, vectors if pixels.ndim == 5 else vectors.squeeze(1)


def check_codes(pair: tuple[Any, VisionTokenizer], pixels: Tensor) -> Tensor:
    """Our codes of the pixels, after they were found equal to transformers'."""
    reference, ours = pair
    found = ours.encode(pixels)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference_codes(reference, pixels)[0])
    return found


def draw_codes(model: VisionTokenizer, seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.codebook_size, shape, generator=generator)


def test_pictures(pair: tuple[Any, VisionTokenizer], rng_seed: int) -> None:
    reference, ours = pair
    pixels = draw_pixels(ours, rng_seed, 3)
    codes = check_codes(pair, pixels)
    side = ours.config.spatial_factor
    assert codes.shape == (3, pixels.shape[2] // side, pixels.shape[3] // side)
    for grids in (codes, draw_codes(ours, rng_seed, 2, 3, 4)):
        with torch.no_grad():
            expected = reference.decode(grids)
        torch.testing.assert_close(ours.decode(grids), expected, rtol=1e-8, atol=1e-8)


def test_clips(pair: tuple[Any, VisionTokenizer], rng_seed: int) -> None:
    """5-D: one causal sequence of frames; what does not fill a latent frame at the end is lost."""
    reference, ours = pair
    factor = ours.config.temporal_downsample_factor
    for frames in (factor, 2 * factor, 2 * factor + 1):
        pixels = draw_pixels(ours, rng_seed + frames, 1, frames)
        codes = check_codes(pair, pixels)
        assert codes.shape[:2] == (1, frames // factor)
    grids = draw_codes(ours, rng_seed, 2, 2, 3, 2)
    with torch.no_grad():
        expected = reference.decode(grids)
    assert expected.shape[1] == 2 * factor
    torch.testing.assert_close(ours.decode(grids), expected, rtol=1e-8, atol=1e-8)


def test_chunks_on_the_batch_axis_are_independent(
    pair: tuple[Any, VisionTokenizer], rng_seed: int
) -> None:
    """How longer videos are coded: each chunk alone, in one call."""
    ours = pair[1]
    factor = ours.config.temporal_downsample_factor
    video = draw_pixels(ours, rng_seed, 3 * factor)
    chunks = video.unflatten(0, (3, factor))
    codes = check_codes(pair, chunks)
    alone = torch.cat([ours.encode(chunk[None]) for chunk in chunks])
    assert torch.equal(codes, alone) and codes.shape[:2] == (3, 1)


def test_stills_equal_clips_of_equal_frames(
    pair: tuple[Any, VisionTokenizer], rng_seed: int
) -> None:
    """V8: one spatial pass and frame 0 alone, against all frames by transformers."""
    reference, ours = pair
    frames = ours.config.temporal_downsample_factor
    pixels = draw_pixels(ours, rng_seed, 2)
    clip = pixels[:, None].repeat(1, frames, 1, 1, 1)
    codes = reference_codes(reference, clip)[0]
    assert torch.equal(ours.encode(pixels), codes[:, 0])
    with torch.no_grad():
        first = reference.decode(codes)[:, 0]
    torch.testing.assert_close(ours.decode(codes[:, 0]), first, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("draw", range(DRAWS))
def test_in_float32(draw: int, rng_seed: int) -> None:
    """As it is used: codes equal but for ties within rounding, pixels within 1e-4."""
    rng = random.Random(f"{rng_seed} float32 {draw}")
    config, seed = random_vision_config(rng), rng.randrange(2**32)
    loud = make_vision_tokenizer(config, seed)
    ours = our_vision_tokenizer(loud)
    for pixels in (draw_pixels(ours, seed, 2), draw_pixels(ours, seed, 1, 8)):
        codes, vectors = reference_codes(loud, pixels)
        assert_same_codes(ours.encode(pixels), codes, vectors, loud.quantize.embedding.weight)
    calm = make_vision_tokenizer(config, seed, scale=1.0)
    ours = our_vision_tokenizer(calm)
    for grids in (draw_codes(ours, seed, 2, 3, 4), draw_codes(ours, seed, 1, 2, 3, 2)):
        with torch.no_grad():
            expected = calm.decode(grids)
        assert ours.decode(grids).dtype == torch.float32
        torch.testing.assert_close(ours.decode(grids), expected, rtol=0, atol=1e-4)


def test_only_one_spatial_pass_for_a_still(ours: VisionTokenizer) -> None:
    """The point of the shortcut: a quarter of the work, so a quarter of the frames."""
    seen: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
        for module in (ours.encoder.conv_in, ours.decoder.conv_in)
    ]
    ours.decode(ours.encode(torch.zeros(3, 3, 16, 16)))
    for hook in hooks:
        hook.remove()
    assert sum(seen) == 3 + 3


def test_causal_over_latent_frames(ours: VisionTokenizer, golden_inputs: object) -> None:
    """The second latent frame sees the first four frames, never the other way round."""
    clip = torch.rand(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    whole = ours.encode_latents(clip)
    late, early = clip.clone(), clip.clone()
    late[:, 4:] *= -1
    early[:, :4] *= -1
    assert torch.equal(ours.encode_latents(late)[:, :, 0], whole[:, :, 0])
    assert not torch.equal(ours.encode_latents(early)[:, :, 1], whole[:, :, 1])
    alone = ours.encode_latents(clip[:, 4:])
    assert not torch.allclose(alone[:, :, 0], whole[:, :, 1], atol=1e-3)


# ------------------------------------------------------------- always float32, always frozen

MOVES: dict[str, Callable[[nn.Module], object]] = {
    "to(bfloat16)": lambda m: m.to(torch.bfloat16),
    "to(dtype=float16)": lambda m: m.to(dtype=torch.float16),
    "to(device, dtype)": lambda m: m.to("cpu", torch.bfloat16),
    "half()": lambda m: m.half(),
    "bfloat16()": lambda m: m.bfloat16(),
    "double()": lambda m: m.double(),
}


class Parent(nn.Module):
    """A model that holds the tokenizer among its own layers."""

    def __init__(self, tokenizer: VisionTokenizer) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"vision": tokenizer, "own": nn.Linear(2, 2)})


@pytest.fixture
def fresh(golden: tuple[Any, VisionTokenizer]) -> VisionTokenizer:
    """A copy that a test may spoil."""
    return our_vision_tokenizer(golden[0])


def assert_intact(model: VisionTokenizer, pictures: Tensor) -> None:
    """float32 throughout, with the golden codes."""
    floats = {t.dtype for t in model.state_dict().values() if t.is_floating_point()}
    assert floats == {torch.float32}
    assert fingerprint(model.encode(pictures)) == "e2cb45fd1277bc55"


@pytest.mark.parametrize("move", MOVES)
def test_dtype_does_not_follow_a_parent(
    move: str, fresh: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]
) -> None:
    parent = Parent(fresh)
    MOVES[move](parent)
    assert parent.inner["own"].weight.dtype != torch.float32  # the move was a real one
    assert_intact(fresh, golden_inputs[0])
    MOVES[move](fresh)
    assert_intact(fresh, golden_inputs[0])


def test_dtype_does_not_follow_the_default_dtype(
    golden: tuple[Any, VisionTokenizer], golden_inputs: tuple[Tensor, Tensor]
) -> None:
    """transformers builds modules under the checkpoint's dtype."""
    reference, expected = golden
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = VisionTokenizer(our_vision_config(reference.config))
        model.load_state_dict(baai_vision_state(reference.state_dict()))
        assert_intact(model, golden_inputs[0])
        codes = model.encode(golden_inputs[0])
        assert torch.equal(model.decode(codes), expected.decode(codes))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_it(
    dtype: torch.dtype, ours: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]
) -> None:
    expected = ours.decode(ours.encode(golden_inputs[0]))
    with torch.autocast("cpu", dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype  # autocast is at work
        assert_intact(ours, golden_inputs[0])
        pixels = ours.decode(ours.encode(golden_inputs[0]))
    assert torch.equal(pixels, expected)


def test_half_precision_pixels_are_raised_first(
    ours: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]
) -> None:
    rounded = golden_inputs[0].bfloat16()
    assert torch.equal(ours.encode(rounded), ours.encode(rounded.float()))


def test_train_of_a_parent_changes_nothing(
    fresh: VisionTokenizer, golden_inputs: tuple[Tensor, Tensor]
) -> None:
    parent = Parent(fresh)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    for call in (parent.train, fresh.train, lambda: fresh.train(True), fresh.eval, parent.eval):
        call()
        assert not any(module.training for module in fresh.modules())
        assert_intact(fresh, golden_inputs[0])
        fresh.decode(fresh.encode(golden_inputs[1]))
    parent.train()
    assert parent.inner["own"].training  # the call did reach the other layers
    after = fresh.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_frozen_until_unfreeze_is_called(fresh: VisionTokenizer) -> None:
    parent = Parent(fresh)
    parent.train()
    trainable = {name for name, p in parent.named_parameters() if p.requires_grad}
    assert trainable == {"inner.own.weight", "inner.own.bias"}
    parent.requires_grad_(True)  # torch walks the parameters: no override can stop that,
    assert not fresh.decode(torch.zeros(1, 2, 2, dtype=torch.int64)).requires_grad  # but this does
    fresh.unfreeze()
    assert all(p.requires_grad for p in fresh.parameters())
    statistics = {n: b.clone() for n, b in fresh.named_buffers()}
    latents = fresh.encode_latents(torch.rand(1, 3, 16, 16))
    fresh.decode_latents(latents, still=True).sum().backward()
    got = {name for name, p in fresh.named_parameters() if p.grad is not None}
    assert got == {name for name, _ in fresh.named_parameters()} - {"quantize.embedding.weight"}
    assert all(torch.equal(b, statistics[n]) for n, b in fresh.named_buffers())
    fresh.freeze()
    assert not any(p.requires_grad for p in fresh.parameters())


# ----------------------------------------------------------------------- the nearest codebook entry


def test_nearest_entry_by_exact_arithmetic(rng_seed: int) -> None:
    """600 vectors against 32768 entries: more than one block of the distance table."""
    generator = torch.Generator().manual_seed(rng_seed)
    quantizer = Quantizer(32768, 4)
    quantizer.embedding.weight.data = torch.randn(32768, 4, generator=generator)
    vectors = torch.randn(2, 3, 100, 4, generator=generator)
    codebook = quantizer.embedding.weight.detach()
    exact = torch.cdist(vectors.double().flatten(0, 2), codebook.double()).argmin(1)
    with torch.no_grad():
        found = quantizer(vectors)
    assert_same_codes(found, exact.view(2, 3, 100), vectors, codebook)


def test_first_of_equally_near_entries() -> None:
    quantizer = Quantizer(4, 2)
    quantizer.embedding.weight.data = torch.tensor([[5.0, 5], [1, 0], [-1, 0], [1, 0]])
    assert quantizer(torch.tensor([[1.0, 0], [0, 0], [-2, 0]])).tolist() == [1, 1, 2]


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("shape", [(1, 3, 20, 16), (1, 3, 16, 4), (1, 3, 0, 16), (1, 4, 3, 16, 9)])
def test_sides_that_are_no_multiple(ours: VisionTokenizer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{shape[-2]}, {shape[-1]}.*multiples of 8"):
        ours.encode(torch.zeros(shape))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_that_are_too_short(ours: VisionTokenizer, frames: int) -> None:
    with pytest.raises(ValueError, match=f"at least 4 frames, got {frames}"):
        ours.encode(torch.zeros(1, frames, 3, 16, 16))


# --------------------------------------------------------------------------- the published size


def test_full_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = VisionTokenizer(VisionTokenizerConfig())
    parts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert parts == {
        "encoder": 109_488_252,
        "decoder": 161_120_859,
        "quantize": 131_072,
        "quant_conv": 52,
        "post_quant_conv": 52,
    }
    assert sum(parts.values()) == 270_740_287
    state = model.state_dict()
    assert len(state) == 495
    assert len([name for name, _ in model.named_buffers()]) == 24
    shapes = {
        "quantize.embedding.weight": (32768, 4),
        "encoder.time_conv.1.conv.conv.weight": (4, 4, 4, 3, 3),
        "decoder.time_conv.1.conv.conv.weight": (4, 4, 3, 3, 3),
        "quant_conv.conv.weight": (4, 4, 3, 1, 1),
        "post_quant_conv.conv.weight": (4, 4, 3, 1, 1),
        "encoder.conv_in.weight": (256, 3, 3, 3),
        "encoder.conv_out.weight": (4, 1024, 3, 3),
        "decoder.conv_in.weight": (1024, 4, 3, 3),
        "decoder.conv_out.weight": (3, 256, 3, 3),
        "encoder.mid.attn_1.q.weight": (1024, 1024, 1, 1),
        "encoder.down.1.block.0.nin_shortcut.weight": (512, 256, 1, 1),
        "decoder.up.3.attn.2.norm.conv_y.weight": (1024, 4, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_empty_weights_can_be_made_on_a_device() -> None:
    """`to_empty` is how a meta-device model gets memory; dtype must survive it."""
    with torch.device("meta"):
        model = VisionTokenizer(VisionTokenizerConfig(ch=32, ch_mult=(1, 2), attn_resolutions=()))
    model.to_empty(device="cpu")
    assert {t.dtype for t in model.parameters()} == {torch.float32}
