"""The outline of a mask as an SVG path: exact along the pixels' edges, a few hundred bytes."""

from itertools import pairwise

import numpy as np

LARGEST_GRID = 256
"""Masks are outlined on at most this many cells a side."""
LONGEST_PATH = 6000
"""Characters; a mask with a longer outline is taken to a grid half as fine, until it fits."""

Corner = tuple[int, int]


def outline_path(mask: np.ndarray) -> tuple[str, int]:
    """The `d` of a path around the True pixels of a mask (H, W), "" if there are none, and how many pixels its unit is.

    On a coarser grid a cell is True where any of its pixels is, so that no speck is lost.
    """
    factor = max(1, -(-max(mask.shape) // LARGEST_GRID))
    while True:
        grid = coarsen(mask, factor)
        if 2 * count_turns(grid) <= LONGEST_PATH:  # a run between two turns takes two characters or more
            path = _path(grid)
            if len(path) <= LONGEST_PATH:
                return path, factor
        factor *= 2


def coarsen(mask: np.ndarray, factor: int) -> np.ndarray:
    """A bool mask (H, W) in cells of `factor` x `factor` pixels, True where any pixel of the cell is."""
    height, width = (-(-side // factor) * factor for side in mask.shape)
    padded = np.zeros((height, width), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    cells = padded.reshape(height // factor, factor, width // factor, factor)
    return np.any(cells, axis=(1, 3))


def count_turns(mask: np.ndarray) -> int:
    """How many corners the outline of a mask (H, W) has: of 2 x 2 pixels, an odd number True or two in a diagonal."""
    padded = np.pad(mask, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    diagonal = (a == d) & (b == c) & (a != b)
    return int(np.count_nonzero(a ^ b ^ c ^ d) + 2 * np.count_nonzero(diagonal))


def _path(mask: np.ndarray) -> str:
    """Closed loops with the True pixels on their right, each as a start and relative runs."""
    following = _edges(mask)
    loops = []
    while following:
        loop = [next(iter(following))]
        while (ends := following.get(loop[-1])) is not None:
            end = ends.pop()
            if not ends:
                del following[loop[-1]]
            loop.append(end)
        loops.append(_commands(loop))
    return "".join(loops)


def _edges(mask: np.ndarray) -> dict[Corner, list[Corner]]:
    """Where each pixel edge between True and False goes from each corner (x, y), clockwise around the True side."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    following: dict[Corner, list[Corner]] = {}
    for y, x in np.argwhere(down).tolist():  # +1: a True pixel lies below the edge
        start, end = ((x, y), (x + 1, y)) if down[y, x] > 0 else ((x + 1, y), (x, y))
        following.setdefault(start, []).append(end)
    for y, x in np.argwhere(right).tolist():  # +1: a True pixel lies right of the edge
        start, end = ((x, y + 1), (x, y)) if right[y, x] > 0 else ((x, y), (x, y + 1))
        following.setdefault(start, []).append(end)
    return following


def _commands(loop: list[Corner]) -> str:
    """A loop of corners one pixel apart as `M x y` and runs `h`, `v`, equal directions joined."""
    runs: list[tuple[str, int]] = []
    for (x, y), (next_x, next_y) in pairwise(loop):
        axis, step = ("h", next_x - x) if next_y == y else ("v", next_y - y)
        if runs and runs[-1][0] == axis and (runs[-1][1] > 0) == (step > 0):
            runs[-1] = (axis, runs[-1][1] + step)
        else:
            runs.append((axis, step))
    return f"M{loop[0][0]} {loop[0][1]}" + "".join(f"{axis}{length}" for axis, length in runs[:-1]) + "z"
