"""Tables of relative positions: where in them the distance of two places of a grid lies."""

from __future__ import annotations

import numpy as np

from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace


def within(window: int, table_window: int) -> np.ndarray:
    """Rows of Swin's table for places in a square window [w * w, w * w].

    The table is that of windows of `table_window`; a smaller window uses its middle.
    Source: arXiv 2103.14030, section 3.2, "Relative position bias".
    """
    return _distances(window, window, (table_window, table_window))


def with_class_token(height: int, width: int) -> np.ndarray:
    """Rows of BEiT's table [1 + N, 1 + N] for a class token and a grid of N = height * width.

    Its last three rows are for class token to patch, patch to class token, and class token to
    itself.
    """
    table = (2 * height - 1) * (2 * width - 1)
    rows = np.empty((height * width + 1,) * 2, dtype=np.int32)
    rows[1:, 1:] = _distances(height, width, (height, width))
    rows[0, :], rows[:, 0], rows[0, 0] = table, table + 1, table + 2
    return rows


def bias(xp: Namespace, table: Array, rows: np.ndarray) -> Array:
    """table [R, H], rows [S, S] -> [1, H, S, S] to be added to the scores."""
    return xp.transpose(xp.take(table, xp.asarray(rows, "int32")), (2, 0, 1))[None]


def _distances(height: int, width: int, table: tuple[int, int]) -> np.ndarray:
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    places = places.reshape(2, -1)  # [2, N]
    down, across = places[:, :, None] - places[:, None, :]  # each [N, N]
    return ((down + table[0] - 1) * (2 * table[1] - 1) + across + table[1] - 1).astype(np.int32)
