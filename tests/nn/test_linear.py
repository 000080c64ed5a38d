"""Products of few rows: against float64, row by row, and with the ways to do without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dromaius.nn import kernels
from dromaius.nn.linear import (
    MOST_ROWS,
    ONE_DNN_SIZE,
    Linear,
    applies,
    few_rows,
    linear,
    many_rows,
    together,
)

KERNEL = kernels.library("few_rows")
built = pytest.mark.skipif(KERNEL is None, reason="no compiler, or DROMAIUS_KERNELS=0")
SHAPES = [(1, 1, 1), (1, 64, 10), (2, 100, 33), (3, 17, 5), (5, 31, 4), (7, 320, 19), (16, 96, 70)]


def draw(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(rows * 1000 + inputs)
    sizes = ((rows, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(size, generator=g).to(dtype) for size in sizes]


@built
@torch.no_grad()
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_few_rows_is_the_product(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, biased: bool
) -> None:
    x, weight, bias = draw(rows, inputs, outputs, dtype)
    y = few_rows(x, weight, bias if biased else None)
    exact = F.linear(x.double(), weight.double(), bias.double() if biased else None)
    # the sum in float32, the result rounded to the dtype: half a unit in the last place of each
    terms = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    allowed = torch.finfo(dtype).eps * exact.abs() + 2e-7 * terms
    assert ((y.double() - exact).abs() <= allowed).all()
    assert y.dtype == dtype and y.shape == (rows, outputs)


@built
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_company_nor_on_threads(dtype: torch.dtype) -> None:
    x, weight, bias = draw(MOST_ROWS, 200, 50, dtype)
    together = few_rows(x, weight, bias)
    threads = torch.get_num_threads()
    try:
        for number in range(1, MOST_ROWS + 1):
            torch.set_num_threads(1 + number % 3)
            assert torch.equal(few_rows(x[:number], weight, bias), together[:number])
            alone = few_rows(x[number - 1 : number], weight, bias)
            assert torch.equal(alone[0], together[number - 1])
    finally:
        torch.set_num_threads(threads)


@built
def test_what_it_takes() -> None:
    layer = Linear(32, 8)
    x = torch.randn(2, 3, 32)
    with torch.no_grad():
        assert applies(x, layer.weight)
        assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6)
        assert not applies(torch.randn(MOST_ROWS + 1, 32), layer.weight)
        assert not applies(x.double(), layer.weight)
        assert not applies(x.bfloat16(), layer.weight)
        assert not applies(x, torch.randn(32, 8).t())
        assert applies(x.transpose(0, 1), layer.weight)  # is made contiguous
        assert torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            assert not applies(x, layer.weight)
    assert not applies(x, layer.weight)  # gradients are torch's work
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_together_is_each_alone(dtype: torch.dtype) -> None:
    """Whatever stands beside a layer: another size, a bias, a hook, a layer of another kind."""
    layers = [Linear(96, n, bias=n % 2 == 1).to(dtype) for n in (70, 1, 33)]
    x = draw(3, 96, 1, dtype)[0]
    alone = [layer(x) for layer in layers]
    for y, expected in zip(together(x, *layers), alone, strict=True):
        assert y.equal(expected)
    seen = []
    handle = layers[1].register_forward_hook(lambda *given: seen.append(given[2].shape))
    other = torch.nn.Linear(96, 5).to(dtype)
    made = together(x, *layers, other)
    assert seen == [(3, 1)]
    handle.remove()
    for y, expected in zip(made, [*alone, other(x)], strict=True):
        assert y.equal(expected)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CODE = """
import torch
from dromaius.nn.linear import Linear, applies
layer = Linear(8, 4)
with torch.no_grad():
    print(applies(torch.ones(1, 8), layer.weight), tuple(layer(torch.ones(1, 8)).shape))
"""


@pytest.mark.parametrize(
    "change",
    [
        {"DROMAIUS_KERNELS": "0"},
        {"PATH": "", "CXX": ""},
        {"CXX": "false"},
        {"XDG_CACHE_HOME": "/dev/null"},
    ],
    ids=["switched off", "no compiler", "a compiler that fails", "no place to keep it"],
)
def test_torch_does_the_work_where_there_is_no_kernel(
    change: dict[str, str], tmp_path: Path
) -> None:
    change = {"XDG_CACHE_HOME": str(tmp_path)} | change
    if change.get("CXX") == "false":  # found, but unable: the others must not be found
        (tmp_path / "false").symlink_to("/bin/false")
        change |= {"PATH": str(tmp_path)}
    assert run(CODE, **change) == "False (1, 4)"


@pytest.mark.parametrize(
    "error, words",
    [
        (subprocess.TimeoutExpired(["c++"], 1), "was not done after"),
        (subprocess.CalledProcessError(3, ["c++"]), "failed with status 3"),
        (PermissionError("no room"), "no room"),
    ],
)
def test_what_cannot_be_built_is_told(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DROMAIUS_KERNELS", raising=False)
    monkeypatch.setattr(kernels.platform, "system", lambda: "Linux")
    monkeypatch.setattr(kernels, "_compiler", lambda: ("c++", b""))
    monkeypatch.setattr(kernels, "_build", fail)
    with pytest.warns(RuntimeWarning, match=f"few_rows.cpp: no kernels.*{words}"):
        assert kernels.library.__wrapped__("few_rows") is None


@built
def test_it_is_built_once_and_kept(tmp_path: Path) -> None:
    assert run(CODE, XDG_CACHE_HOME=str(tmp_path)) == "True (1, 4)"
    (kept,) = (tmp_path / "dromaius" / "kernels").iterdir()
    first = kept.stat().st_mtime_ns
    assert run(CODE, XDG_CACHE_HOME=str(tmp_path)) == "True (1, 4)"
    assert kept.stat().st_mtime_ns == first


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_many_rows_are_the_product(biased: bool, strided: bool) -> None:
    """Whoever computes it: float32 with the rounding of a sum in float32."""
    x, weight, bias = draw(40, 640, ONE_DNN_SIZE // 640 + 1, torch.float32)
    exact = F.linear(x.double(), weight.double(), bias.double() if biased else None)
    if strided:
        x, weight = x.t().contiguous().t(), torch.stack((weight, weight), 1)[:, 0]
    with torch.no_grad():
        y = linear(x[None], weight, bias if biased else None)
    terms = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    assert ((y[0].double() - exact).abs() <= 1e-6 * terms).all()
    assert y.shape == (1, 40, len(weight)) and y.dtype == torch.float32


def test_one_dnn_computes_nothing_that_needs_gradients_or_another_dtype() -> None:
    x, weight, _ = draw(40, 640, ONE_DNN_SIZE // 640 + 1, torch.float32)
    with torch.no_grad():
        usual = many_rows(x, weight)
        assert usual or not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        assert not many_rows(x[:MOST_ROWS], weight)
        assert not many_rows(x, weight[:10])
        assert not many_rows(x.bfloat16(), weight.bfloat16())
        assert not many_rows(x.to("meta"), weight.to("meta"))
        with torch.autocast("cpu"):
            assert not many_rows(x, weight)
    assert not many_rows(x, weight)
    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(linear(x, weight).sum(), weight)
    assert torch.allclose(gradient, x.sum(0).expand_as(weight), atol=1e-4)
