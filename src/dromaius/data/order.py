"""Random order as a pure function of (seed, position), so that any batch can be made alone."""

import hashlib

import numpy as np
import torch


def number_for(seed: int, *positions: int | str) -> int:
    """A 63-bit number that depends on all the arguments."""
    text = ":".join(str(part) for part in (seed, *positions))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *positions: int | str) -> torch.Generator:
    """A generator of its own for these positions."""
    return torch.Generator().manual_seed(number_for(seed, *positions))


def epoch_order(size: int, epoch: int, seed: int) -> np.ndarray:
    """A permutation of 0..size-1."""
    return np.random.default_rng(number_for(seed, "epoch", epoch)).permutation(size)


def shuffled(size: int, start: int, number: int, seed: int) -> np.ndarray:
    """Elements start..start+number of endless epochs, each a new permutation of 0..size-1."""
    places = np.arange(start, start + number)
    out = np.empty(number, np.int64)
    for epoch in np.unique(places // size):
        here = places // size == epoch
        out[here] = epoch_order(size, int(epoch), seed)[places[here] % size]
    return out
