"""Convolutions in bands equal the layers as they are written; results stay the same."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.nn import affine as kernels
from dromaius.nn import banded
from dromaius.nn.norm import SpatialNorm
from tests.tiny import fill

SIZES = [(24, 16), (7, 5), (1, 1)]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=[2**14, 40], ids=["one band", "many bands"])
def band(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banded, "BAND", request.param)


@pytest.fixture(params=["compiled", "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "library", lambda _: None)
    elif kernels.library("group_norm") is None:
        pytest.skip("no compiler here")
    return str(request.param)


def picture(seed: int, *shape: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (3 * drawn + 5).to(memory_format=torch.channels_last)


def norms(seed: int) -> list[nn.Module]:
    return [fill(nn.GroupNorm(4, 32, eps=1e-6), seed), fill(SpatialNorm(32, 3, 4), seed)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("onto", [False, True])
def test_norm_swish_and_convolution(
    size: tuple[int, int], onto: bool, band: None, form: str, rng_seed: int
) -> None:
    for norm in norms(rng_seed):
        conv = fill(nn.Conv2d(32, 20, 3, padding=1), rng_seed)
        x = picture(rng_seed, 1, 32, *size)
        # half as fine as the picture, where that is possible
        sides = [side // 2 if side % 2 == 0 else side for side in size]
        grid = [picture(rng_seed + 1, 1, 3, *sides)] if isinstance(norm, SpatialNorm) else []
        target = picture(rng_seed + 2, 1, 20, *size) if onto else None
        wide = [g.double() for g in grid]
        expected = conv.double()(F.silu(norm.double()(x.double(), *wide)))
        expected = expected if target is None else target + expected
        norm.float(), conv.float()
        found = banded.norm_convolve(norm, conv, x, *grid, onto=target)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_double_is_nearest_neighbours_then_a_convolution(
    size: tuple[int, int], band: None, rng_seed: int
) -> None:
    conv = fill(nn.Conv2d(8, 12, 3, padding=1), rng_seed)
    x = picture(rng_seed, 1, 8, *size)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(banded.double(conv, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES[:2])
def test_halve_pads_right_and_below(size: tuple[int, int], band: None, rng_seed: int) -> None:
    conv = fill(nn.Conv2d(8, 8, 3, stride=2), rng_seed)
    x = picture(rng_seed, 1, 8, *size)
    expected = conv(F.pad(x, (0, 1, 0, 1)))
    torch.testing.assert_close(banded.halve(conv, x), expected, rtol=1e-4, atol=1e-4)


def test_swish_is_within_two_units_in_the_last_place(form: str) -> None:
    x = torch.cat((torch.linspace(-30, 30, 5003), torch.tensor([0.0, 200.0, -200.0, 1e-30])))
    exact = x.double() * torch.sigmoid(x.double())
    far = (kernels.swish(x).double() - exact).abs()
    assert bool((far <= 3e-7 * exact.abs() + 1e-30).all())
    assert bool(torch.isnan(kernels.swish(torch.tensor([float("nan")]))).all())


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_norm_and_swish_do_not_depend_on_threads(threads: int, rng_seed: int) -> None:
    """torch's own do: a group norm in channels last, and the last elements of a thread's share."""
    if kernels.library("group_norm") is None:
        pytest.skip("no compiler here")
    x, grid = picture(rng_seed, 1, 32, 66, 62), picture(rng_seed, 1, 3, 33, 31)
    before = torch.get_num_threads()
    made = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            values = kernels.affine(norms(rng_seed)[1], x, grid)
            made.append((values.rows(x, -1, 67), kernels.swish(x[0, 0, :, :].contiguous())))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_other_default_dtypes_do_not_reach_the_kernel(rng_seed: int) -> None:
    x = picture(rng_seed, 1, 32, 9, 9)
    norm = norms(rng_seed)[0]
    expected = kernels.affine(norm, x).rows(x, -1, 10)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = kernels.affine(norm, x).rows(x, -1, 10)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_items_of_a_batch_go_alone(rng_seed: int) -> None:
    x = picture(rng_seed, 3, 8, 4, 4)
    seen: list[int] = []

    def look(one: Tensor) -> Tensor:
        seen.append(len(one))
        return 2 * one

    assert torch.equal(banded.each_alone(look, x), 2 * x) and seen == [1, 1, 1]
    with torch.enable_grad():
        banded.each_alone(look, x)
    assert seen == [1, 1, 1, 3]
