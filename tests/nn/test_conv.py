"""Convolution blocks equal transformers' and never look ahead in time."""

import random

import pytest
import torch
from torch import Tensor, nn
from transformers import Emu3VQVAEConfig
from transformers.models.emu3 import modeling_emu3 as reference

from dromaius.nn import conv
from tests.tiny import baai_vision_state, fill


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (conv.Downsample(6), reference.Emu3VQVAEEncoderConvDownsample(6)),
        (conv.Upsample(6), reference.Emu3VQVAEEncoderConvUpsample(6)),
    ],
    ids=["down", "up"],
)
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_resizing(ours: nn.Module, theirs: nn.Module, size: tuple[int, int], rng_seed: int) -> None:
    ours.load_state_dict(fill(theirs, rng_seed).state_dict())
    x = noise(rng_seed, 2, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


KERNELS = [((3, 1, 1), (1, 1, 1)), ((3, 3, 3), (1, 1, 1)), ((4, 3, 3), (2, 1, 1))]


@pytest.mark.parametrize(("kernel", "stride"), KERNELS)
def test_causal_convolution(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], rng_seed: int
) -> None:
    theirs = fill(reference.Emu3VQVAEConv3d(4, 5, kernel, stride), rng_seed)
    ours = conv.CausalConv3d(4, 5, kernel, stride)
    ours.load_state_dict(theirs.state_dict())
    x = noise(rng_seed, 2, 4, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quant_channels", [None, 4])
@pytest.mark.parametrize("out_channels", [32, 64])
def test_residual_block(quant_channels: int | None, out_channels: int, rng_seed: int) -> None:
    theirs = fill(reference.Emu3VQVAEResnetBlock(32, out_channels, quant_channels), rng_seed)
    ours = conv.ResnetBlock(32, out_channels, quant_channels, num_groups=32)
    ours.load_state_dict(theirs.state_dict())
    x, grid = noise(rng_seed, 2, 32, 8, 6), noise(rng_seed, 2, 4, 4, 3)
    with torch.no_grad():
        expected = theirs(x, grid if quant_channels else None)
        found = ours(x, *([grid] if quant_channels else []))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_over_the_grid(heads: int, rng_seed: int) -> None:
    """transformers keeps norm and residual outside of its block; ours holds them."""
    config = Emu3VQVAEConfig(hidden_size=32, num_attention_heads=heads)
    config._attn_implementation = "eager"
    theirs = fill(reference.Emu3VQVAEAttentionBlock(config), rng_seed, 3.0)
    norm = fill(nn.GroupNorm(32, 32, eps=1e-6), rng_seed)
    ours = conv.AttentionBlock(32, None, 32, heads)
    state = baai_vision_state({f".{k}": v for k, v in theirs.state_dict().items()})
    state |= {f".norm.{k}": v for k, v in norm.state_dict().items()}
    ours.load_state_dict({k.removeprefix("."): v for k, v in state.items()})
    x = noise(rng_seed, 2, 32, 3, 5)
    with torch.no_grad():
        tokens = norm(x).flatten(2).transpose(1, 2)  # [B,HW,C]
        expected = x + theirs(tokens)[0].transpose(1, 2).view_as(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (conv.TemporalDownsample(4), reference.Emu3VQVAETemporalDownsample(4, 4)),
        (conv.TemporalUpsample(4), reference.Emu3VQVAETemporalUpsample(4, 4)),
        (conv.TemporalResnetBlock(4), reference.Emu3VQVAETemporalResnetBlock(4, 4)),
    ],
    ids=["down", "up", "residual"],
)
def test_blocks_over_time(ours: nn.Module, theirs: nn.Module, rng_seed: int) -> None:
    ours.load_state_dict(fill(theirs, rng_seed).state_dict())
    ours.eval()
    x = noise(rng_seed, 2, 4, 8, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda: conv.CausalConv3d(4, 4), 1.0),
        (lambda: conv.CausalConv3d(4, 4, (3, 3, 3)), 1.0),
        (lambda: conv.TemporalResnetBlock(4), 1.0),
        (lambda: conv.TemporalDownsample(4), 0.5),
        (lambda: conv.TemporalUpsample(4), 2.0),
    ],
    ids=["conv", "conv over space", "residual", "down", "up"],
)
def test_a_frame_never_changes_what_came_before(make: object, rate: float, rng_seed: int) -> None:
    """Outputs that end before the changed frame are the same bits; a later one does change."""
    assert callable(make)
    block = fill(make(), rng_seed, 2.0)
    x = noise(rng_seed, 1, 4, 8, 3, 3)
    for frame in random.Random(rng_seed).sample(range(8), 4):
        changed = x.clone()
        changed[:, :, frame] += 1
        with torch.no_grad():
            difference = (block(changed) - block(x)).abs().amax(dim=(0, 1, 3, 4))  # [T]
        first = int(frame * rate)  # the output in which this frame may first be seen
        assert difference[:first].max() == 0 if first else True
        assert difference[first:].max() > 1e-3


def test_time_is_padded_by_two_zero_frames_before() -> None:
    layer = conv.CausalConv3d(1, 1, (3, 1, 1))
    nn.init.zeros_(layer.conv.bias)
    layer.conv.weight.data = torch.tensor([100.0, 10.0, 1.0]).view(1, 1, 3, 1, 1)
    y = layer(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 4, 1, 1))
    assert y.flatten().tolist() == [1.0, 12.0, 123.0, 234.0]


def test_downsampling_pads_right_and_bottom() -> None:
    layer = conv.Downsample(1)
    nn.init.zeros_(layer.conv.bias)
    nn.init.zeros_(layer.conv.weight)
    layer.conv.weight.data[..., 0, 0] = 1  # each output then shows its upper left input
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(layer(x), x[..., ::2, ::2])


def test_batch_norm_of_time_uses_running_statistics_in_eval(rng_seed: int) -> None:
    block = fill(conv.TemporalResnetBlock(4), rng_seed)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    x = noise(rng_seed, 1, 4, 4, 3, 3)
    both = torch.cat((x, 5 * x + 3))  # a second clip changes nothing for the first
    with torch.no_grad():
        torch.testing.assert_close(block(both)[:1], block(x), rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
