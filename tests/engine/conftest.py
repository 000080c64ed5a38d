"""A tiny language model of a made-up vocabulary, and transformers' twin of it."""

from __future__ import annotations

import random

import pytest

from tests.engine.small import Pair, make_pair


@pytest.fixture(scope="session")
def pair(rng_seed: int) -> Pair:
    """A random configuration (heads, biases, activation), the same for the whole run."""
    return make_pair(random.Random(rng_seed), rng_seed)
