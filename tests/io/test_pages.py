"""Large pages change nothing but the pages."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from dromaius.io import pages


def large_kilobytes(tensor: torch.Tensor) -> int:
    """How much of the mappings that hold a tensor is in large pages, as Linux tells."""
    first, inside, found = tensor.data_ptr(), False, 0
    last = first + tensor.numel() * tensor.element_size()
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if borders := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(borders[1], 16) < last and first < int(borders[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1])
    return found


def test_weights_move_to_large_pages_and_stay_what_they_are() -> None:
    layer = nn.Linear(1024, 4096)
    before, address = layer.weight.detach().clone(), layer.weight.data_ptr()
    count = pages.use_large_pages(layer)
    assert layer.weight.equal(before) and layer.weight.data_ptr() == address
    if not count:
        pytest.skip("no large pages here")
    assert 7 <= count <= 9  # 16 MiB, which begin anywhere
    # At either end the mapping itself may end inside a page: Linux then says yes and does nothing.
    assert large_kilobytes(layer.weight) >= 2048 * 7


def test_small_and_foreign_tensors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.use_large_pages(nn.Linear(8, 8)) == 0
    assert pages.use_large_pages(nn.Linear(2048, 2048, device="meta")) == 0
    monkeypatch.setattr(pages.platform, "system", lambda: "Darwin")
    assert pages.use_large_pages(nn.Linear(1024, 4096)) == 0
