"""Connected components of everything above a threshold, followed through all thresholds at once.

Pixels join one after the other from the highest score to the lowest (union-find). A component appears where a pixel
has no neighbour yet, and two become one where a pixel joins them; nowhere else does their number change. Everything is
8-connected. Which components hit a defect region: `eval.regions.hits`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage

from eval.compiled import compiled

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
_EAST_TO_SOUTHEAST = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a pixel in a circle, as (row, column) steps: bit 0 to bit 7 of a code of those that are there."""


def _group_neighbours() -> tuple[np.ndarray, np.ndarray]:
    """For each code, how many groups its neighbours form, and one neighbour of each group; (256,), (256, 4)."""
    rows, columns = 1 + np.array(_EAST_TO_SOUTHEAST).T
    num_groups, members = np.zeros(256, dtype=np.int8), np.zeros((256, 4), dtype=np.int8)
    for code in range(256):
        around = np.zeros((3, 3), dtype=bool)
        around[rows, columns] = code >> np.arange(8) & 1
        groups, num_groups[code] = scipy.ndimage.label(around, EIGHT_CONNECTED)
        for group in range(num_groups[code]):
            members[code, group] = np.flatnonzero(groups[rows, columns] == group + 1)[0]
    return num_groups, members


NUM_GROUPS, MEMBERS = _group_neighbours()


@dataclass(frozen=True, eq=False)
class Changes:
    """Where a number changes, going down the scores of one image, and by how much; E changes in any order.

    `pixels` is (E,) int64, the indices, in reading order, of the pixels at whose score it changes; `steps` (E,) int64.
    Changes at one score belong together: only their sum has a meaning.
    """

    pixels: np.ndarray
    steps: np.ndarray


def component_changes(scores: np.ndarray) -> Changes:
    """How the number of components of {scores >= t} changes as t falls; scores (H, W) float, finite.

    Most pixels touch exactly one group of higher ones: they belong to what that belongs to and change nothing. Only
    peaks and pixels between groups are put in order.
    """
    padded = framed(scores, -np.inf)
    pixels, parents = _climb(padded, NUM_GROUPS, MEMBERS)
    order = np.lexsort((pixels, -padded.ravel()[pixels]))
    return unframed(pixels[order], _join(pixels[order], padded, parents), scores.shape[1])


def framed(values: np.ndarray, border: float) -> np.ndarray:
    """The values (H, W) with a border of one pixel; float16, which processors do not compute with, as float32."""
    kind = np.float32 if values.dtype == np.float16 else values.dtype
    padded = np.full((values.shape[0] + 2, values.shape[1] + 2), border, dtype=kind)
    padded[1:-1, 1:-1] = values
    return padded


def unframed(pixels: np.ndarray, steps: np.ndarray, width: int) -> Changes:
    """Changes at indices into a framed picture, as changes of the picture of this width; those by 0 are left out."""
    some = steps != 0
    rows, columns = np.divmod(pixels[some].astype(np.int64), width + 2)
    return Changes((rows - 1) * width + columns - 1, steps[some].astype(np.int64))


@compiled
def _climb(scores: np.ndarray, num_groups: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices of peaks and of pixels between groups, and for every pixel one before it in the order, or itself.

    Pixels are in the order of falling scores, those of one score in reading order.
    """
    height, width = scores.shape
    parents = np.empty(scores.size, dtype=np.int32)
    pixels = np.empty(scores.size, dtype=np.int32)
    codes = np.zeros(width, dtype=np.uint8)
    steps = np.array([1, 1 - width, -width, -1 - width, -1, width - 1, width, width + 1], dtype=np.int32)
    found = 0
    for row in range(1, height - 1):
        above, here, below = scores[row - 1], scores[row], scores[row + 1]
        for column in range(1, width - 1):
            score = here[column]
            codes[column] = (
                np.uint8(here[column + 1] > score)
                | np.uint8(above[column + 1] >= score) << 1
                | np.uint8(above[column] >= score) << 2
                | np.uint8(above[column - 1] >= score) << 3
                | np.uint8(here[column - 1] >= score) << 4
                | np.uint8(below[column - 1] > score) << 5
                | np.uint8(below[column] > score) << 6
                | np.uint8(below[column + 1] > score) << 7
            )
        for column in range(1, width - 1):
            pixel, groups = row * width + column, num_groups[codes[column]]
            parents[pixel] = pixel + (steps[members[codes[column], 0]] if groups else 0)
            if groups != 1:
                pixels[found] = pixel
                found += 1
    return pixels[:found].copy(), parents


@compiled
def _join(pixels: np.ndarray, scores: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """By how much the number of components changes at each of the pixels, which come in order."""
    width = scores.shape[1]
    flat = scores.ravel()
    changes = np.empty(pixels.size, dtype=np.int8)
    for i in range(pixels.size):
        pixel: Any = np.int64(pixels[i])
        if parents[pixel] == pixel:
            changes[i] = 1
            continue
        changes[i] = 0
        root = root_of(parents, pixel)
        for row in (-width, 0, width):
            for column in (-1, 0, 1):
                other = pixel + row + column
                if flat[other] < flat[pixel] or (flat[other] == flat[pixel] and other >= pixel):
                    continue
                other = root_of(parents, other)
                if other != root:
                    parents[other] = root
                    changes[i] -= 1
    return changes


@compiled
def root_of(parents: np.ndarray, pixel: Any) -> Any:
    """The root of the component that a pixel belongs to; the way there is halved for the next time."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The 8-connected regions of a bool mask (H, W): int32 (H, W) with 0 outside and 1..n inside, and n.

    Regions are numbered in reading order of their first pixels. Several times as fast as `scipy.ndimage.label` where
    defects are small, as it looks at their pixels alone.
    """
    height, width = mask.shape
    labels = np.zeros((height + 2, width + 2), dtype=np.int32)
    pixels = np.flatnonzero(mask).astype(np.int32)
    found = _label(pixels, width, labels.ravel(), np.zeros(pixels.size + 1, dtype=np.int32))
    return labels[1:-1, 1:-1], int(found)


@compiled
def _label(pixels: np.ndarray, width: int, labels: np.ndarray, parents: np.ndarray) -> int:
    """Number the components of the pixels, ascending, in zeroed framed labels; parents is (N + 1,) scratch."""
    for i in range(pixels.size):
        pixel = pixels[i] + 2 * (pixels[i] // width) + width + 3
        mine = i + 1
        parents[mine] = mine
        labels[pixel] = mine
        for before in (pixel - 1, pixel - width - 3, pixel - width - 2, pixel - width - 1):
            if labels[before] > 0:
                one, other = root_of(parents, labels[before]), root_of(parents, mine)
                parents[max(one, other)] = min(one, other)
    found = 0
    for i in range(pixels.size):
        pixel = pixels[i] + 2 * (pixels[i] // width) + width + 3
        root = root_of(parents, i + 1)
        if root == i + 1:
            found += 1
            labels[pixel] = found
        else:
            first = pixels[root - 1]
            labels[pixel] = labels[first + 2 * (first // width) + width + 3]
    return found
