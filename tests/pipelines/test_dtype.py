"""Which dtype a model is loaded in."""

from pathlib import Path

import pytest
import torch

from dromaius.errors import InputError
from dromaius.nn import kernels
from dromaius.pipelines import load
from dromaius.pipelines.load import number_type

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("able, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_processor(
    able: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "multiplies_bfloat16", lambda: able)
    assert number_type("auto", CPU) == expected
    assert number_type("auto", CUDA) == torch.bfloat16
    assert number_type(None, CPU) == torch.float32
    assert number_type("torch.float16", CPU) == number_type(torch.float16, CUDA) == torch.float16
    with pytest.raises(InputError, match="'automatic'"):
        number_type("automatic", CPU)


@pytest.mark.parametrize(
    "line, able",
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16", False),
    ],
)
def test_what_linux_tells(line: str, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, errors: f"processor\t: 0\n{line}\n")
    assert kernels.multiplies_bfloat16() == able


def test_elsewhere_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, errors: str) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", absent)
    assert not kernels.multiplies_bfloat16()
