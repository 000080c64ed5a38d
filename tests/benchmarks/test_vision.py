"""The vision benchmark at a tiny size: equal results, and what it says."""

import pytest
import torch

from benchmarks import vision


@pytest.mark.parity
def test_a_tiny_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Codes and pixels of both sides are compared inside; memory is counted without computing."""
    with torch.no_grad():
        results = vision.measure(32, 32, 1)
    assert [r["work"] for r in results] == list(vision.GOALS)
    assert all(r["ours"] > 0 and r["theirs"] > 0 for r in results)
    assert results[0]["codes"] == 16 and results[1]["values"] == 3 * 32 * 32
    table = vision.table(results, [])
    assert all(f"| {name} | 32 | 32x32 |" in table for name in vision.GOALS)


@pytest.mark.parity
def test_memory_of_a_large_decode_at_the_published_width() -> None:
    """Issue 4: at most half of transformers'."""
    found = vision.counted(vision.PUBLISHED, vision.LARGE)
    assert found["ours"] <= found["theirs"] / 2
    pixels = vision.LARGE**2 * 4  # one channel in float32
    weights = 270_740_287 * 4
    # at the widest place 512 channels come in and 256 go out twice
    assert weights + 1024 * pixels < found["ours"] < weights + 1.1 * 1024 * pixels


def test_differences_stop_the_benchmark() -> None:
    codes = torch.tensor([[[1, 2]]])
    with pytest.raises(SystemExit, match="1 of 2 codes differ"):
        vision.difference(codes, torch.tensor([[[1, 3]]]))
    with pytest.raises(SystemExit, match="pixels differ by 1.0e\\+00 levels"):
        vision.difference(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 3, 1, 1), 2 / 255))
    same = vision.difference(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 3, 1, 1), 1e-5))
    assert same["other_levels"] == 0 or same["furthest_levels"] < vision.TOLERANCE
