"""Rounding and byte layout of matrices in few bits, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dromaius.nn.packing import GROUPS, KINDS, Form, pack, unpack


def back(weight: Tensor, form: Form) -> Tensor:
    return unpack(pack(weight, form), form, weight.shape[1], torch.float32)


def test_int8_by_hand() -> None:
    # Row 1: largest 254, scale 2. Row 2: largest 1, scale 1/127 = 0.007874..., as bfloat16
    # 0x3c01 = 2^-7 * (1 + 1/128): 0.00787353515625; 1 / scale = 127.008, held at 127.
    weight = torch.tensor([[254.0, -3.1, 0.9, 100.0], [1.0, -1.0, 0.5, 0.0]])
    stored = pack(weight, Form("int8"))
    assert stored["packed"].tolist() == [[127, -2, 0, 50], [127, -127, 64, 0]]
    assert stored["scales"].dtype == torch.bfloat16
    assert stored["scales"].tolist() == [[2.0], [0.00787353515625]]
    assert set(stored) == {"packed", "scales"}


def test_int8_groups_by_hand() -> None:
    weight = torch.zeros(1, 40)
    weight[0, 3], weight[0, 35] = 127.0, -508.0
    stored = pack(weight, Form("int8", 32))
    assert stored["scales"].tolist() == [[1.0, 4.0]]
    assert stored["packed"][0, 3] == 127 and stored["packed"][0, 35] == -127
    assert torch.equal(back(weight, Form("int8", 32)), weight)


def test_int4_layout_by_hand() -> None:
    # 0..15 twice over: low 0, scale 1, every level is met. Column b is the low half of byte b,
    # column 16 + b the high half.
    weight = torch.cat((torch.arange(16.0), 15 - torch.arange(16.0)))[None]
    stored = pack(weight, Form("int4", 32))
    assert stored["lows"].tolist() == [[0.0]] and stored["scales"].tolist() == [[1.0]]
    assert stored["packed"].tolist() == [[b | (15 - b) << 4 for b in range(16)]]
    assert torch.equal(back(weight, Form("int4", 32)), weight)


def test_int4_of_a_short_row_is_filled_up() -> None:
    weight = torch.tensor([[-1.0, 14.0, 2.0]])
    stored = pack(weight, Form("int4", 32))
    # low -1, scale 1: 0, 15 and 3, and nothing in the halves that stand for no column
    assert stored["packed"].tolist() == [[0, 15, 3] + [0] * 13]
    assert torch.equal(back(weight, Form("int4", 32)), weight)


def test_fp8_by_hand() -> None:
    # Scale 448 / 448 = 1: the numbers are those of float8_e4m3fn, steps of 32 up to 448.
    weight = torch.tensor([[448.0, -250.0, 1.06, 0.001]])
    stored = pack(weight, Form("fp8"))
    assert stored["scales"].tolist() == [[1.0]]
    assert stored["packed"].float().tolist() == [[448.0, -256.0, 1.0, 0.001953125]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", GROUPS)
def test_errors_are_within_half_a_step(kind: str, group: int) -> None:
    noise = torch.Generator().manual_seed(1)
    weight = torch.randn(19, 100, generator=noise) * torch.rand(19, 1, generator=noise)
    form = Form(kind, group)
    size = group or 100
    for start in range(0, 100, size):
        part, got = weight[:, start : start + size], back(weight, form)[:, start : start + size]
        error, largest = (part - got).abs(), part.abs().amax(1, keepdim=True)
        if kind == "int8":  # half a step of 1/127, and what rounding the scale can add
            bound = largest / 127 * 0.51 + largest / 256
        elif kind == "fp8":  # half a unit of the third digit, or half the least number
            bound = part.abs() / 16 * 1.05 + largest * 2**-9 / 448 + largest / 256
        else:  # an extreme may be left out, but squares are not more than plain rounding's
            step = (part.amax(1, keepdim=True) - part.amin(1, keepdim=True)) / 15
            assert ((error**2).mean(1) <= (step[:, 0] * 0.52) ** 2 + 1e-6).all()
            bound = 2 * step
        assert (error <= bound).all()


def test_int4_fit_is_better_than_extremes_alone() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    grouped = weight.view(64, 4, 64)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = (high - low) / 15
    plain = ((((grouped - low) / step).round() * step + low - grouped) ** 2).mean()
    fitted = ((back(weight, Form("int4", 64)) - weight) ** 2).mean()
    assert fitted < 0.9 * plain


def test_equal_numbers_and_zeros_are_exact() -> None:
    for kind in KINDS:
        assert torch.equal(back(torch.zeros(3, 70), Form(kind, 32)), torch.zeros(3, 70))
    assert torch.equal(back(torch.full((2, 33), 0.5), Form("int4", 32)), torch.full((2, 33), 0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        pack(torch.tensor([[1.0, bad]]), Form("int8"))


@pytest.mark.parametrize("wrong", [("int3", 0), ("int4", 48), ("int4", -32), ("int8", True)])
def test_forms_that_do_not_exist_are_refused(wrong: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Form(*wrong)


def test_sizes_are_those_of_the_form() -> None:
    weight = torch.randn(10, 130)
    for kind in KINDS:
        for group in GROUPS:
            form = Form(kind, group)
            told = form.tensors(10, 130)
            found = {n: (tuple(t.shape), t.dtype) for n, t in pack(weight, form).items()}
            assert found == told
    sizes = {n: shape for n, (shape, _) in Form("int4", 64).tensors(10, 130).items()}
    assert sizes == {"packed": (10, 80), "scales": (10, 3), "lows": (10, 3)}


def test_int8_rows_are_those_of_torchao() -> None:
    """An independent implementation of symmetric rounding by row."""
    from torchao.quantization import quant_primitives as quantization

    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(3))
    stored = pack(weight, Form("int8"))
    theirs = quantization.quantize_affine(
        weight,
        (1, 96),
        stored["scales"].float(),
        torch.zeros(32, 1, dtype=torch.int32),
        torch.int8,
        -127,
        127,
    )
    assert torch.equal(stored["packed"], theirs)
    full = quantization.dequantize_affine(
        theirs, (1, 96), stored["scales"].float(), torch.zeros(32, 1, dtype=torch.int32), torch.int8
    )
    assert torch.equal(unpack(stored, Form("int8"), 96, torch.float32), full)


def test_int4_groups_are_as_good_as_torchao() -> None:
    """torchao's asymmetric int4 in groups, min and max by group: ours must not be worse."""
    from torchao.quantization import quant_primitives as quantization

    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(4))
    scale, zero = quantization.choose_qparams_affine(
        weight, quantization.MappingType.ASYMMETRIC, (1, 64), torch.uint8, 0, 15
    )
    theirs = quantization.dequantize_affine(
        quantization.quantize_affine(weight, (1, 64), scale, zero, torch.uint8, 0, 15),
        (1, 64), scale, zero, torch.uint8, 0, 15,
    )  # fmt: skip
    ours = back(weight, Form("int4", 64))
    assert ((ours - weight) ** 2).mean() < ((theirs - weight) ** 2).mean()
