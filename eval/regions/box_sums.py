"""Boxes around regions of a binary map, and how many pixels are set in many of them at once."""

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice]
"""The rows and the columns of a region, as `scipy.ndimage.find_objects` gives them."""


def corners(boxes: Sequence[Box]) -> np.ndarray:
    """Boxes as (N, 4) int64: first row, first column, row and column after the last."""
    corners = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in boxes]
    return np.array(corners, dtype=np.int64).reshape(-1, 4)


def joint(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smallest boxes around pairs of boxes; (..., 4) each, as `corners`."""
    return np.concatenate([np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])], axis=-1)


def summed(binary: np.ndarray) -> np.ndarray:
    """For a binary map (H, W), how many pixels are set above and left of each corner; (H + 1, W + 1)."""
    table = np.zeros((binary.shape[0] + 1, binary.shape[1] + 1), dtype=np.int32)
    np.cumsum(binary, axis=0, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table, axis=1, out=table)
    return table


def sums_in(table: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How many pixels are set in each box (..., 4), from `summed`."""
    top, left, bottom, right = np.moveaxis(boxes, -1, 0)
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
