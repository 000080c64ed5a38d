"""Emu3VQVAE against transformers 5.23: codes and pixels of pictures and clips."""

import random

import pytest
import torch

from dromaius.compat import transformers as compat
from tests import tiny
from tests.compat.transformers.pairs import largest_difference

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def twins(rng_seed: int, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    theirs = tiny.make_vision_tokenizer(
        tiny.random_vision_config(random.Random(rng_seed)), rng_seed
    )
    folder = tmp_path_factory.mktemp("vision")
    theirs.save_pretrained(folder)
    return theirs, compat.Emu3VQVAE.from_pretrained(folder)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_pictures_of_a_padded_batch(twins: tuple, rng_seed: int) -> None:
    """Codes of the padded picture, cut to the picture's own size, as upstream does."""
    theirs, ours = twins
    side = ours.vision_spatial_factor
    pixels = noise(rng_seed, 2, 3, 4 * side, 5 * side)
    sizes = torch.tensor([[4 * side, 5 * side], [2 * side, 3 * side]])
    expected, got = theirs.encode(pixels, sizes), ours.encode(pixels, sizes)
    assert largest_difference(got.last_hidden_state, expected.last_hidden_state) <= 1e-4
    latents = ours.tokenizer.encode_latents(pixels).movedim(1, -1)[:, 0]  # [B,h,w,E]
    book = ours.tokenizer.quantize.embedding.weight
    assert [tuple(t.shape) for t in got.image_tokens] == [(4, 5), (2, 3)]
    for a, b, vectors in zip(got.image_tokens, expected.image_tokens, latents, strict=True):
        tiny.assert_same_codes(a, b, vectors[: a.shape[0], : a.shape[1]], book)
    uncut = ours.encode(pixels).image_tokens
    assert torch.equal(uncut[1][:2, :3], got.image_tokens[1]) and uncut[1].shape == (4, 5)
    as_lists = ours.encode(pixels, sizes.tolist(), return_dict=False)
    assert isinstance(as_lists, tuple) and torch.equal(as_lists[1][1], got.image_tokens[1])
    with pytest.raises(ValueError, match="image_sizes"):
        ours.encode(pixels, sizes[:1])
    with pytest.raises(ValueError, match="multiples"):
        ours.encode(pixels[..., 1:])


@torch.no_grad()
def test_clips(twins: tuple, rng_seed: int) -> None:
    """transformers cuts clips on the wrong axes; codes are compared before its cut."""
    theirs, ours = twins
    side, frames = ours.vision_spatial_factor, ours.config.temporal_downsample_factor
    clip = noise(rng_seed, 1, 2 * frames, 3, 2 * side, 3 * side)
    huge = torch.tensor([[10**6, 10**6]])
    expected = theirs.encode(clip, huge).image_tokens[0]
    got = ours.encode(clip, torch.tensor([[2 * side, 3 * side]])).image_tokens[0]
    latents = ours.tokenizer.encode_latents(clip).movedim(1, -1)[0]
    tiny.assert_same_codes(got, expected, latents, ours.tokenizer.quantize.embedding.weight)
    assert got.shape == (2, 2, 3)
    cut = ours.encode(clip, torch.tensor([[2 * side, side]])).image_tokens[0]
    assert torch.equal(cut, got[..., :1])


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 2, 3)], ids=["pictures", "clips"])
@torch.no_grad()
def test_decode(twins: tuple, rng_seed: int, shape: tuple[int, ...]) -> None:
    theirs, ours = twins
    generator = torch.Generator().manual_seed(rng_seed)
    codes = torch.randint(0, ours.config.codebook_size, shape, generator=generator)
    expected, got = theirs.decode(codes), ours.decode(codes)
    assert largest_difference(got, expected) <= 1e-4 * max(1.0, float(expected.abs().max()))


@torch.no_grad()
def test_it_stays_float32_and_frozen(twins: tuple, rng_seed: int) -> None:
    _, ours = twins
    pixels = noise(rng_seed, 1, 3, *[2 * ours.vision_spatial_factor] * 2)
    before = ours.encode(pixels).image_tokens[0]
    ours.to(torch.bfloat16).train()
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in ours.parameters())
    assert not any(m.training for m in ours.tokenizer.modules())
    assert torch.equal(ours.encode(pixels.clone()).image_tokens[0], before)
