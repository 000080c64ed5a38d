"""What stands between products, by kernel: against float64, against torch, row by row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dromaius.engine.kv_cache import SlotCache
from dromaius.nn import few_tokens, kernels
from dromaius.nn.norm import RMSNorm
from dromaius.nn.rope import rotate

pytestmark = pytest.mark.skipif(kernels.library("few_tokens") is None, reason="no kernels here")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(y: Tensor, exact: Tensor, unit: float = 4e-6, roundings: int = 1) -> None:
    """y is `exact` (float64), but for sums in float32 and roundings to the dtype."""
    step = torch.finfo(y.dtype).eps * roundings
    assert ((y.double() - exact).abs() <= step * exact.abs() + unit).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 1, 64), (16, 1023), (4, 2, 100)])
def test_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = RMSNorm(shape[-1], 1e-5).to(dtype)
    layer.weight.copy_(1 + normal(1, shape[-1]) / 10)
    x = normal(2, *shape, dtype=dtype) * 3
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert few_tokens.applies(x, layer.weight)
    close(layer(x), exact * layer.weight.double(), roundings=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, heads, tokens, dim", [(1, 1, 1, 2), (3, 5, 2, 8), (2, 4, 3, 128)])
@pytest.mark.parametrize("shared", [True, False])
def test_rotation(
    batch: int, heads: int, tokens: int, dim: int, shared: bool, dtype: torch.dtype
) -> None:
    x = normal(1, batch, tokens, heads, dim, dtype=dtype).transpose(1, 2)
    angles = normal(2, 1 if shared else batch, tokens, dim)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    assert few_tokens.applies(x, cos, sin)
    close(rotate(x, cos, sin), rotate(x.double(), cos.double(), sin.double()))


ATTENTION = [(1, 1, 1, 1, 1, 8), (2, 4, 2, 3, 19, 64), (3, 6, 2, 1, 130, 128), (2, 5, 5, 2, 40, 10)]


def attention_case(
    batch: int, heads: int, shared: int, new: int, seen: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As a layer has them: queries side by side, keys in slots, some of them hidden garbage."""
    q = normal(1, batch, new, heads, dim, dtype=dtype).transpose(1, 2)
    k, v = (normal(s, batch, shared, seen + 3, dim, dtype=dtype)[:, :, :seen] for s in (2, 3))
    mask = torch.rand(batch, 1, new, seen, generator=torch.Generator().manual_seed(4)) < 0.7
    mask[..., 0] = True
    return q, k, v, mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", ATTENTION, ids=str)
def test_attention(sizes: tuple[int, int, int, int, int, int], dtype: torch.dtype) -> None:
    q, k, v, mask = attention_case(*sizes, dtype)
    assert few_tokens.can_attend(q, k, v, mask, 0.0)
    groups = sizes[1] // sizes[2]
    keys, values = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    exact = F.scaled_dot_product_attention(q.double(), keys, values, attn_mask=mask)
    close(few_tokens.attend(q, k, v, mask), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_never_sees_a_hidden_slot(dtype: torch.dtype) -> None:
    q, k, v, mask = attention_case(2, 4, 2, 1, 40, 64, dtype)
    mask[:] = False
    mask[0, ..., :7], mask[1, ..., 3:21] = True, True
    before = few_tokens.attend(q, k, v, mask)
    k[0, :, 7:], v[0, :, 7:] = torch.nan, torch.inf
    k[1, :, :3], v[1, :, 21:] = torch.nan, torch.nan
    assert few_tokens.attend(q, k, v, mask).equal(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_company_nor_on_threads(dtype: torch.dtype) -> None:
    q, k, v, mask = attention_case(6, 8, 2, 1, 300, 64, dtype)
    weight = normal(9, 64, dtype=dtype)
    together, normed = few_tokens.attend(q, k, v, mask), few_tokens.rms_norm(q, weight, 1e-5)
    threads = torch.get_num_threads()
    try:
        for row in range(6):
            torch.set_num_threads(1 + row % 3)
            one = slice(row, row + 1)
            alone = few_tokens.attend(q[one], k[one], v[one], mask[one])
            assert alone.equal(together[one])
            assert few_tokens.rms_norm(q[one], weight, 1e-5).equal(normed[one])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_land_in_their_slots(dtype: torch.dtype) -> None:
    class Shape:
        num_hidden_layers, key_value_heads, head_size = 1, 3, 4

    cache = SlotCache(Shape(), 2, 9, "cpu", dtype)
    positions = torch.tensor([[0, 1], [6, 8]])
    keys, values = (normal(s, 2, 2, 3, 4, dtype=dtype).transpose(1, 2) for s in (1, 2))
    (view,) = cache.at(positions, 7)
    assert few_tokens.applies(keys, values, *cache.keys, *cache.values)
    seen_keys, _ = view.update(keys, values)
    assert seen_keys.shape == (2, 3, 7, 4)
    for row, slots in enumerate(positions.tolist()):
        for token, slot in enumerate(slots):
            assert cache.keys[0][row, :, slot].equal(keys[row, :, token])
            assert cache.values[0][row, :, slot].equal(values[row, :, token])
    assert cache.keys[0].count_nonzero() == keys.count_nonzero()


def test_what_they_take() -> None:
    x = normal(1, 2, 8)
    assert few_tokens.applies(x, x)
    assert not few_tokens.applies(x.double())
    assert not few_tokens.applies(x, x.bfloat16())
    assert not few_tokens.applies(torch.empty(few_tokens.MOST_NUMBERS + 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not few_tokens.applies(x)
    with torch.enable_grad():
        assert not few_tokens.applies(x)
