"""The nearest picture of a gallery, by the squared difference of pixels.

Legend: Q queries, G pictures of a gallery, P numbers of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dromaius.evaluation.cases import Colour, EvaluationSet, View

CHUNK = 512  # pictures of a gallery at once: 25 MB at 64x64
EXACT = 4  # candidates whose distance is computed again without rounding


def nearest(
    queries: np.ndarray, cases: EvaluationSet, gallery: Sequence[int], background: Colour
) -> tuple[np.ndarray, np.ndarray]:
    """For each query uint8 [Q,S,S,3] the nearest picture of the gallery, shown on the colour.

    Returns places in `gallery` int64 [Q], the first of equals, and squared distances int64 [Q].
    """
    flat = queries.reshape(len(queries), -1)  # [Q,P]
    asked = flat.astype(np.float32)
    best = np.full((len(flat), 0), 0, np.int64)
    near = np.full((len(flat), 0), 0, np.float32)
    for start, shown in _chunks(cases, gallery, background):
        known = shown.astype(np.float32)
        rough = np.square(known).sum(axis=1) - 2.0 * asked @ known.T  # [Q,g], plus |query|^2
        places = np.broadcast_to(np.arange(start, start + len(known)), rough.shape)
        rough, places = np.hstack([near, rough]), np.hstack([best, places])
        keep = np.sort(np.argsort(rough, axis=1, kind="stable")[:, :EXACT], axis=1)
        near = np.take_along_axis(rough, keep, axis=1)
        best = np.take_along_axis(places, keep, axis=1)
    # float32 is too coarse to tell near copies apart: the last few are compared in whole numbers
    distance = np.empty(best.shape, np.int64)
    for row, places in enumerate(best):
        for column, place in enumerate(places):
            shown = cases.show(View(gallery[place], background)).ravel()
            distance[row, column] = np.square(flat[row].astype(np.int64) - shown).sum()
    winner = distance.argmin(axis=1)[:, None]
    return (
        np.take_along_axis(best, winner, axis=1)[:, 0],
        np.take_along_axis(distance, winner, axis=1)[:, 0],
    )


def _chunks(
    cases: EvaluationSet, gallery: Sequence[int], background: Colour
) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(gallery), CHUNK):
        part = gallery[start : start + CHUNK]
        shown = [cases.show(View(index, background)).ravel() for index in part]
        yield start, np.stack(shown)
