"""Norms give the numbers of transformers' layers."""

import pytest
import torch
from torch import nn
from transformers.models.emu3.modeling_emu3 import Emu3VQVAESpatialNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dromaius.nn.norm import RMSNorm, SpatialNorm
from tests.tiny import fill


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_equals_llama_bit_for_bit(dtype: torch.dtype, rng_seed: int) -> None:
    """In half precision too: the statistics are float32, the weight multiplies after the cast."""
    reference = fill(LlamaRMSNorm(24, eps=1e-3), rng_seed).to(dtype)
    norm = RMSNorm(24, eps=1e-3)
    norm.load_state_dict(reference.state_dict())
    norm.to(dtype)
    x = (torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(rng_seed)) * 7).to(dtype)
    y = norm(x)
    assert y.dtype == dtype
    assert torch.equal(y, reference(x))


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0])
    # root mean square of (3, 4) is sqrt(12.5)
    y = norm(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(y, torch.tensor([3.0, 8.0]) / 12.5**0.5)


def test_rms_norm_statistics_do_not_overflow_in_float16() -> None:
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)  # 1000 squared is beyond float16
    assert torch.equal(RMSNorm(8, eps=1e-5).half()(x), torch.ones_like(x))


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (10, 9)])
def test_spatial_norm_equals_transformers(size: tuple[int, int], rng_seed: int) -> None:
    """Also where the picture is no whole multiple of the grid."""
    reference = fill(Emu3VQVAESpatialNorm(4, 64), rng_seed)
    norm = SpatialNorm(64, 4, num_groups=32)
    norm.load_state_dict(reference.state_dict())
    generator = torch.Generator().manual_seed(rng_seed)
    x = torch.randn(2, 64, *size, generator=generator)
    grid = torch.randn(2, 4, 4, 6, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(norm(x, grid), reference(x, grid), rtol=0, atol=1e-5)


def test_spatial_norm_scale_and_shift_come_from_the_grid() -> None:
    norm = SpatialNorm(4, 1, num_groups=2)
    for conv, weight, bias in ((norm.conv_y, 2.0, 0.0), (norm.conv_b, 0.0, 5.0)):
        nn.init.constant_(conv.weight, weight)
        nn.init.constant_(conv.bias, bias)
    x = torch.randn(1, 4, 2, 2)
    grid = torch.tensor([[[[0.0, 1.0]]]])  # left column scaled by 0, right column by 2; shift 5
    y = norm(x, grid)
    torch.testing.assert_close(y[..., 0], torch.full((1, 4, 2), 5.0))
    torch.testing.assert_close(y[..., 1], norm.norm_layer(x)[..., 1] * 2 + 5)
