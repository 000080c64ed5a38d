"""Products with packed matrices against the product with the matrix they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dromaius.nn import quantized
from dromaius.nn.linear import Linear, linear
from dromaius.nn.packing import KINDS, Form, unpack
from dromaius.nn.quantized import Packed, QuantizedEmbedding, QuantizedLinear, quantize

SHAPES = [(1, 1), (5, 31), (16, 32), (37, 45), (20, 129), (50, 200)]
PATHS = ["wide", "plain", "torch"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """AVX-512 where there is any, the form for every processor, and PyTorch alone."""
    if request.param == "torch":
        monkeypatch.setattr(quantized, "kernels", lambda: None)
    elif quantized.kernels() is None:
        pytest.skip("no compiler here")
    if request.param == "plain":
        monkeypatch.setenv("DROMAIUS_KERNELS", "plain")
    return request.param


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full(packed: Packed) -> Tensor:
    """The matrix by PyTorch alone, in double precision."""
    return unpack(packed.stored(), packed.form, packed.shape[1], torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_products_of_all_row_counts_and_odd_sizes(kind: str, path: str) -> None:
    for outputs, inputs in SHAPES:
        for group in (0, 32, 64):
            packed = Packed.from_matrix(random(outputs, inputs), Form(kind, group))
            matrix, bias = full(packed), random(outputs, seed=1)
            for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 40):
                x = random(rows, inputs, seed=2)
                expected = x.double() @ matrix.T + bias.double()
                got = packed.product(x, bias)
                assert got.shape == (rows, outputs) and got.dtype == torch.float32
                torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_products_in_bfloat16(kind: str) -> None:
    """Weights may be rounded to bfloat16 (2^-9 of each), sums are not, results are once."""
    if quantized.kernels() is None:
        pytest.skip("no compiler here")
    packed, bias = Packed.from_matrix(random(40, 200), Form(kind, 32)), random(40, seed=2)
    for rows in range(1, 17):
        x = random(rows, 200, seed=1).bfloat16()
        expected = x.double() @ full(packed).T + bias.bfloat16().double()
        got = packed.product(x, bias.bfloat16())
        assert got.dtype == torch.bfloat16
        error = (got.double() - expected).abs()
        assert (error <= expected.abs() * 2**-8 * 1.01 + 0.08).all()  # results are about 14
        alone = torch.cat([packed.product(row[None], bias.bfloat16()) for row in x])
        assert torch.equal(got, alone)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str, path: str) -> None:
    if path == "torch":
        pytest.skip("torch's products depend on the number of rows in the last bit")
    packed = Packed.from_matrix(random(37, 150), Form(kind, 64))
    x = random(16, 150, seed=3)
    alone = torch.cat([packed.product(row[None]) for row in x])
    for rows in range(1, 17):
        assert torch.equal(packed.product(x[:rows]), alone[:rows])


@torch.no_grad()
def test_number_of_threads_changes_nothing() -> None:
    packed = Packed.from_matrix(random(100, 96), Form("int4", 32))
    x, before = random(2, 96, seed=1), torch.get_num_threads()
    one = packed.product(x)
    torch.set_num_threads(3)
    try:
        assert torch.equal(packed.product(x), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_of_a_head(kind: str, path: str) -> None:
    """What the language model does for the ids that a grid allows: head.weight[start:stop]."""
    packed = Packed.from_matrix(random(60, 80), Form(kind, 32))
    for rows in (2, 30):
        x = random(rows, 80, seed=1)
        part = linear(x, packed[7:41])
        torch.testing.assert_close(part, packed.product(x)[:, 7:41], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_written_out_in_the_kernel_as_by_torch(kind: str) -> None:
    if quantized.kernels() is None:
        pytest.skip("no compiler here")
    for group in (0, 32):
        packed = Packed.from_matrix(random(9, 77), Form(kind, group))
        expected = full(packed)[2:8]
        got = packed.matrix(torch.float32, 2, 8).double()
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
        rounded = packed.matrix(torch.bfloat16, 2, 8).double()
        assert ((rounded - expected).abs() <= expected.abs() * 2**-8 * 1.01 + 1e-9).all()


def test_every_fp8_number_is_read_as_torch_reads_it() -> None:
    """All finite codes of float8_e4m3fn, the subnormal ones among them."""
    if quantized.kernels() is None:
        pytest.skip("no compiler here")
    codes = torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)
    packed = Packed(1, len(codes), Form("fp8"))
    packed.packed = codes.view(torch.float8_e4m3fn)[None]
    packed.scales = torch.ones(1, 1, dtype=torch.bfloat16)
    assert torch.equal(packed.matrix(torch.float32)[0], codes.view(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("kind", KINDS)
def test_lookup_is_a_row_of_the_table(kind: str) -> None:
    table = QuantizedEmbedding(Packed.from_matrix(random(30, 50), Form(kind, 32)))
    ids = torch.tensor([[3, 29], [0, 3]])
    got = table(ids)
    assert got.shape == (2, 2, 50)
    torch.testing.assert_close(got.double(), full(table.weight)[ids])


def test_a_cast_changes_what_is_returned_and_not_what_is_stored() -> None:
    layer = QuantizedLinear(Packed.from_matrix(random(8, 64), Form("fp8", 32)))
    table = QuantizedEmbedding(layer.weight)
    before = {name: t.clone() for name, t in layer.weight.stored().items()}
    layer.to(torch.float16).to(torch.bfloat16)
    table.to(torch.bfloat16)
    after = layer.weight.stored()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8))
    assert table(torch.tensor([1])).dtype == torch.bfloat16


def test_gradients_reach_x() -> None:
    """Without no_grad the product is torch's own."""
    packed = Packed.from_matrix(random(8, 40), Form("int4", 32))
    x = random(2, 40, seed=1).requires_grad_()
    packed.product(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), full(packed).sum(0).expand(2, -1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 40)
        self.inner = Linear(40, 40)
        self.head = Linear(40, 20, bias=False)
        self.head.weight = self.table.weight


def test_quantize_replaces_what_the_plan_names_and_keeps_ties() -> None:
    model = Tied()
    bias = model.inner.bias
    plan = {"inner": Form("int4", 32), "table": Form("int8"), "head": Form("int8")}
    assert quantize(model, plan) is model
    assert isinstance(model.inner, QuantizedLinear) and model.inner.bias is bias
    assert model.head.weight is model.table.weight
    assert [name for name, _ in model.named_parameters()] == ["inner.bias"]
    model.to(torch.device("cpu"))
    assert model.head.weight is model.table.weight
    assert quantized.count_numbers(model) == 20 * 40 + 40 * 40 + 40


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"nowhere": Form("int8")}, "nowhere is not in the model"),
        ({"": Form("int8")}, "no linear layer"),
        ({"table": Form("int8"), "head": Form("int4", 32)}, "head shares its matrix"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: dict[str, Form], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize(Tied(), plan)
