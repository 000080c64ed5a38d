"""Noise is the documented function of (seed, position, id), and of nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine.sampling import gumbel, uniform
from tests.conftest import REPOSITORY

Noise = Callable[[int, int, int], float]
EDGES = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """The names that the code block of docs/noise.md defines; its own assertions run here."""
    text = (REPOSITORY / "docs" / "noise.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 1
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    table = re.findall(r"^\| (-?\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", text, re.M)
    assert [(int(s), int(p), int(i), float(u)) for s, p, i, u in table] == names["VECTORS"]
    return names


def tensors(*values: list[int]) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


def test_documented_vectors(documented: dict[str, Any]) -> None:
    assert len(documented["VECTORS"]) == 3
    for seed, position, token_id, u in documented["VECTORS"]:
        assert uniform(*tensors([seed], [position], [token_id])).item() == u


def test_equals_plain_python_bit_for_bit(documented: dict[str, Any], rng_seed: int) -> None:
    generator = torch.Generator().manual_seed(rng_seed)
    seeds = torch.cat((torch.tensor(EDGES), torch.randint(0, 2**62, (9,), generator=generator)))
    positions = torch.randint(0, 10_000, seeds.shape, generator=generator)
    ids = torch.cat((torch.tensor([0, 2**31]), torch.randint(184622, (40,), generator=generator)))
    ours = uniform(seeds, positions, ids)
    assert ours.dtype == torch.float64 and ours.shape == (len(seeds), len(ids))
    noise: Noise = documented["noise"]
    for row, seed, position in zip(ours, seeds.tolist(), positions.tolist(), strict=True):
        assert row.tolist() == [noise(seed, position, i) for i in ids.tolist()]


def undo_mix(x: int) -> int:
    """The inverse of SplitMix64's finaliser: it leads from a hash back to what was hashed."""
    mask = 2**64 - 1

    def undo_shift(x: int, bits: int) -> int:
        y = x
        for _ in range(64 // bits):
            y = x ^ (y >> bits)
        return y

    x = undo_shift(x, 31) * pow(0x94D049BB133111EB, -1, 2**64) & mask
    x = undo_shift(x, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & mask
    return undo_shift(x, 30)


@pytest.mark.parametrize("h", [0, 2**64 - 1])
def test_strictly_between_0_and_1_at_both_ends(h: int) -> None:
    """Seeds whose hash is the smallest and the largest there is: the noise stays finite."""
    seed = undo_mix(undo_mix(undo_mix(h))) - 0x9E3779B97F4A7C15
    seed = (seed + 2**63) % 2**64 - 2**63  # as a signed number
    arguments = tensors([seed], [0], [0])
    u = uniform(*arguments).item()
    assert u == ((h >> 12) + 0.5) / 2**52 and 0 < u < 1
    assert gumbel(*arguments).isfinite().all()


def test_gumbel_is_the_double_logarithm(documented: dict[str, Any]) -> None:
    ids = list(range(50))
    ours = gumbel(*tensors([3], [4], ids))[0]
    theirs = [-math.log(-math.log(documented["noise"](3, 4, i))) for i in ids]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-6, atol=1e-7)


def test_depends_on_nothing_else() -> None:
    """Not on the batch, its order, nor on which other ids are asked for."""
    seeds, positions, ids = tensors([5, 6, 7, 5], [0, 3, 3, 9], [100, 200, 300, 400])
    whole = uniform(seeds, positions, ids)
    order = torch.tensor([2, 0, 3, 1])
    assert uniform(seeds[order], positions[order], ids[order]).equal(whole[order][:, order])
    for row in range(4):
        for column in range(4):
            one = uniform(seeds[row : row + 1], positions[row : row + 1], ids[column : column + 1])
            assert one.item() == whole[row, column].item()


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    arguments = tensors([5, -6], [0, 8192], list(range(151854, 152854)))
    on_gpu = uniform(*(a.cuda() for a in arguments))
    assert on_gpu.cpu().equal(uniform(*arguments))


def test_uniform_in_every_direction() -> None:
    """Chi-square over 64 bins along ids, positions and seeds: 99.999 % of true noise passes."""
    many, one = torch.arange(64_000), torch.zeros(1, dtype=torch.long)
    directions = {
        "ids": uniform(one, one, many),
        "positions": uniform(one.expand(64_000), many, one),
        "seeds": uniform(many, one.expand(64_000), one),
    }
    for name, u in directions.items():
        counts = torch.histc(u.flatten(), 64, 0.0, 1.0)
        chi2 = ((counts - 1000) ** 2 / 1000).sum().item()
        assert chi2 < 63 + 4.5 * math.sqrt(2 * 63), (name, chi2)


def test_neighbours_do_not_follow_each_other() -> None:
    """Noise one seed, position or id apart: no correlation beyond 4.5 standard deviations."""
    count = 40_000
    base = torch.arange(count)
    here = uniform(base, base % 97, torch.tensor([11, 12]))
    there = {
        "seed": uniform(base + 1, base % 97, torch.tensor([11])),
        "position": uniform(base, base % 97 + 1, torch.tensor([11])),
        "id": here[:, 1:],
    }
    for name, other in there.items():
        pair = torch.stack((here[:, 0], other[:, 0]))
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 4.5 / math.sqrt(count), name
