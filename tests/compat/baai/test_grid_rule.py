"""The rule of a picture's grid: spec section 4.5, and what upstream gets wrong."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dromaius import errors
from dromaius.compat.baai import Emu3PrefixConstrainedLogitsHelper

PAD, EOL, EOF, EOS, IMG, EOI = 151643, 151846, 151847, 151850, 151851, 151853
VISUAL = range(151854, 184622)
SIGNS = {"L": EOL, "F": EOF, "I": EOI, "S": EOS, "P": PAD}


@pytest.fixture(scope="module")
def build(parts: SimpleNamespace) -> Any:
    return parts.processor.build_prefix_constrained_fn


def schedule(rule: Any, steps: int, row: int = 0, prompt: int = 3) -> str:
    """V, L, F, I, S, P: what a rule allows at each step after a prompt."""
    signs, ids = "", [7] * prompt + [IMG]
    for _ in range(steps):
        allowed = rule(row, torch.tensor(ids)).tolist()
        if len(allowed) > 1:
            assert allowed == list(VISUAL)
            signs += "V"
        else:
            signs += next(sign for sign, token_id in SIGNS.items() if token_id == allowed[0])
        ids.append(allowed[0])
    return signs


def upstream(offset: int, height: int, width: int) -> str:
    """The published rule, with its order of tests; right for three columns and more."""
    if offset % (width + 1) == 0:
        return "L"
    closing = {1: "F", 2: "I", 3: "S"}
    past = offset - (width + 1) * height
    return "V" if past < 1 else closing.get(past, "P")


def test_example_of_the_specification(build: Any) -> None:
    rule = build(torch.tensor([2]), torch.tensor([3]))
    assert schedule(rule, 14) == "VVVLVVVLFISPPP"
    assert isinstance(rule, Emu3PrefixConstrainedLogitsHelper)


def test_equals_upstream_up_to_the_end(build: Any, rng_seed: int) -> None:
    rng = random.Random(rng_seed)
    for _ in range(5):
        height, width = rng.randint(1, 9), rng.randint(3, 9)
        steps = height * (width + 1) + 3
        expected = "".join(upstream(offset, height, width) for offset in range(1, steps + 1))
        assert schedule(build([height], [width]), steps) == expected, (height, width)


@pytest.mark.parametrize("width, expected", [(1, "VLVLFISP"), (2, "VVLVVLFISP")])
def test_narrow_grids_end(build: Any, width: int, expected: str) -> None:
    errors.warn_once.cache_clear()
    with pytest.warns(UserWarning, match="end properly here"):
        rule = build(torch.tensor([2]), torch.tensor([width]))
    assert schedule(rule, len(expected)) == expected
    wrong = "".join(upstream(offset, 2, width) for offset in range(1, len(expected)))
    assert wrong != expected[:-1]


def test_no_state_across_prompts(build: Any) -> None:
    """Upstream remembers where the first prompt's picture began."""
    rule = build(2, 3)
    assert schedule(rule, 11, prompt=3) == schedule(rule, 11, prompt=9) == "VVVLVVVLFIS"


@pytest.mark.parametrize(
    "height, width",
    [
        (2, 3),
        (torch.tensor(2), torch.tensor(3)),
        (torch.tensor([2]), torch.tensor([3])),
        (np.array([2]), np.array([3])),
        (np.int64(2), np.int64(3)),
        ([2], (3,)),
    ],
)
def test_one_size_for_all_rows(build: Any, height: Any, width: Any) -> None:
    rule = build(height, width)
    assert schedule(rule, 11, row=0) == schedule(rule, 11, row=5) == "VVVLVVVLFIS"


def test_a_size_per_row(build: Any) -> None:
    rule = build(torch.tensor([2, 1]), torch.tensor([3, 4]))
    assert schedule(rule, 11, row=0) == "VVVLVVVLFIS"
    assert schedule(rule, 11, row=1) == "VVVVLFISPPP"
    with pytest.raises(ValueError, match="row 2"):
        rule(2, torch.tensor([IMG]))


def test_errors(build: Any) -> None:
    with pytest.raises(ValueError, match="do not pair up"):
        build([1, 2], [3])
    with pytest.raises(ValueError, match="positive"):
        build([0], [3])
    with pytest.raises(ValueError, match="no image token"):
        build(2, 3)(0, torch.tensor([1, 2]))
