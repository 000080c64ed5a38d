"""Live bytes counted by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dromaius.nn.live import LiveBytes


def test_a_tensor_counts_from_its_making_to_its_end() -> None:
    outside = torch.zeros(1000, device="meta")
    with LiveBytes() as live:
        a = outside + 1  # 4000
        b = a + 1  # 8000
        del a
        c = b.double()  # 4000 + 8000
        assert (live.live, live.peak) == (12000, 12000)
        del b, c
        outside.add_(1)
        assert (live.live, live.peak) == (0, 12000)


def test_a_view_is_no_new_memory_whatever_it_is_of() -> None:
    weight = torch.zeros(50, 20, device="meta")
    with LiveBytes() as live:
        shown = weight.t()[3:]
        assert live.live == 0
        made = torch.zeros(10, device="meta")
        part = made[2:4].view(1, 2)
        assert live.live == 40
        del made
        assert live.live == 40, "the view keeps the memory"
        del part, shown
        assert live.live == 0


def test_the_place_of_the_peak_is_named() -> None:
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 5000), nn.Linear(5000, 2))
        )
        x = torch.zeros(3, 4)
    with torch.no_grad(), LiveBytes() as live, live.named(model):
        model(x)
    assert live.where == "1.1 (addmm)"  # the wide activation, and what is made of it
    assert live.peak == 4 * 3 * (8 + 5000 + 2)


def test_attention_holds_no_scores() -> None:
    q = torch.zeros(1, 2, 100, 16, device="meta")
    mask = torch.zeros(1, 1, 100, 100, dtype=torch.bool, device="meta")
    with LiveBytes() as live:
        y = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert y.shape == q.shape
    assert live.peak == 4 * 100 * 100 + 4 * 2 * 100 + 4 * 2 * 100 * 16  # mask, sums, result
