"""Pictures of one style that look the same: such a picture has more than one right name."""

from __future__ import annotations

import numpy as np

TOLERANCE = 6  # of 255, in every channel of every pixel: nobody sees that


def first_copies(pictures: np.ndarray) -> list[int]:
    """For each picture of uint8 [N, S, S, 3] the index of the first that equals it: its own index
    when none before it does. S is a multiple of 4."""
    count, size = len(pictures), pictures.shape[1]
    # Coarse 4x4 means rule out nearly every pair before pixels are compared: pictures that differ
    # by no more than the tolerance anywhere have means that do not either.
    blocks = pictures.reshape(count, 4, size // 4, 4, size // 4, 3)
    means = blocks.mean((2, 4)).reshape(count, 48)
    first = []
    for index in range(count):
        near = np.abs(means[:index] - means[index]).max(1) <= TOLERANCE
        picture = pictures[index].astype(int)
        copies = (
            earlier
            for earlier in np.flatnonzero(near).tolist()
            if np.abs(pictures[earlier] - picture).max() <= TOLERANCE
        )
        first.append(next(copies, index))
    return first
