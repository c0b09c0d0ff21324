"""Connected components of everything above a threshold, followed through all thresholds at once.

Pixels join one after the other from the highest score to the lowest (union-find). A component appears where a pixel
has no neighbour yet, and two become one where a pixel joins them; nowhere else does their number change. To see when a
component hits a defect region, each keeps its size and how much of each region it covers. Everything is 8-connected.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eval.compiled import compiled
from eval.ranking.sorting import falling_order

_EAST_TO_SOUTHEAST = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a pixel in a circle, as (row, column) steps: bit 0 to bit 7 of a code of those that are there."""


def _group_neighbours() -> tuple[np.ndarray, np.ndarray]:
    """For each code, how many groups its neighbours form, and one neighbour of each group; (256,), (256, 4)."""
    num_groups, members = np.zeros(256, dtype=np.int8), np.zeros((256, 4), dtype=np.int8)
    for code in range(256):
        groups: list[set[int]] = []
        for bit in (bit for bit in range(8) if code >> bit & 1):
            touched = [group for group in groups if any(_touch(bit, other) for other in group)]
            groups = [group for group in groups if group not in touched] + [set().union({bit}, *touched)]
        num_groups[code] = len(groups)
        members[code, : len(groups)] = [min(group) for group in groups]
    return num_groups, members


def _touch(one: int, other: int) -> bool:
    (row, column), (other_row, other_column) = _EAST_TO_SOUTHEAST[one], _EAST_TO_SOUTHEAST[other]
    return max(abs(row - other_row), abs(column - other_column)) <= 1


_NUM_GROUPS, _MEMBERS = _group_neighbours()


@dataclass(frozen=True, eq=False)
class Changes:
    """Where a number changes, going down the scores of one image, and by how much; E changes in any order.

    `pixels` is (E,) int64, the places, in reading order, of the pixels at whose score it changes; `steps` (E,) int64.
    Changes at one score belong together: only their sum has a meaning.
    """

    pixels: np.ndarray
    steps: np.ndarray


def component_changes(scores: np.ndarray) -> Changes:
    """How the number of components of {scores >= t} changes as t falls; scores (H, W) float, finite.

    Most pixels touch exactly one group of higher ones: they belong to what that belongs to and change nothing. Only
    peaks and pixels between groups are put in order.
    """
    padded = _framed(scores, -np.inf)
    places, parents = _climb(padded, _NUM_GROUPS, _MEMBERS)
    order = np.lexsort((places, -padded.ravel()[places]))
    steps = _join(places[order], padded, parents)
    return _changes(places[order], steps, scores.shape[1])


def hit_changes(scores: np.ndarray, regions: np.ndarray, least_iou: float) -> Changes:
    """How the number of components of {scores >= t} that hit a defect region changes as t falls.

    `scores` is (H, W) float, finite; `regions` is (H, W) int32, 0 outside defects and 1..n inside. A component hits a
    region where their intersection over union is at least `least_iou`, above 0.5: then no component hits two regions,
    and no region is hit by two. The way down ends where no region can be hit any more.
    """
    framed = _framed(regions, 0)
    areas = np.bincount(framed.ravel())
    order = _framed_places(*scores.shape)[falling_order(scores.ravel())]
    places, steps = _follow(order, framed.shape[1], framed.ravel(), areas, _NUM_GROUPS, _MEMBERS, least_iou)
    return _changes(places, steps, scores.shape[1])


def _framed(values: np.ndarray, border: float) -> np.ndarray:
    """The values (H, W) with a border of one pixel; float16, which processors do not compute with, as float32."""
    kind = np.float32 if values.dtype == np.float16 else values.dtype
    framed = np.full((values.shape[0] + 2, values.shape[1] + 2), border, dtype=kind)
    framed[1:-1, 1:-1] = values
    return framed


def _changes(places: np.ndarray, steps: np.ndarray, width: int) -> Changes:
    some = steps != 0
    rows, columns = np.divmod(places[some].astype(np.int64), width + 2)
    return Changes((rows - 1) * width + columns - 1, steps[some].astype(np.int64))


@compiled
def _climb(scores: np.ndarray, num_groups: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of peaks and of pixels between groups, and for every pixel one before it in the order, or itself.

    Pixels are in the order of falling scores, those of one score in reading order.
    """
    height, width = scores.shape
    parents = np.empty(scores.size, dtype=np.int32)
    places = np.empty(scores.size, dtype=np.int32)
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
            place, groups = row * width + column, num_groups[codes[column]]
            parents[place] = place + (steps[members[codes[column], 0]] if groups else 0)
            if groups != 1:
                places[found] = place
                found += 1
    return places[:found].copy(), parents


@compiled
def _join(places: np.ndarray, scores: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """By how much the number of components changes at each of the places, which come in order."""
    width = scores.shape[1]
    flat = scores.ravel()
    changes = np.empty(places.size, dtype=np.int8)
    for i in range(places.size):
        place: Any = np.int64(places[i])
        if parents[place] == place:
            changes[i] = 1
            continue
        changes[i] = 0
        root = _root(parents, place)
        for row in (-width, 0, width):
            for column in (-1, 0, 1):
                other = place + row + column
                if flat[other] < flat[place] or (flat[other] == flat[place] and other >= place):
                    continue
                other = _root(parents, other)
                if other != root:
                    parents[other] = root
                    changes[i] -= 1
    return changes


@lru_cache(maxsize=4)
def _framed_places(height: int, width: int) -> np.ndarray:
    """Where in a framed picture each pixel (height * width,) lies; int32."""
    rows = np.arange(1, height + 1, dtype=np.int32)[:, None] * (width + 2)
    return (rows + np.arange(1, width + 1, dtype=np.int32)).ravel()


@compiled
def _root(parents: np.ndarray, pixel: Any) -> Any:
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@compiled
def _add_to_fragments(
    root: int, region: int, count: int, spare: int, is_new: bool, firsts: np.ndarray, bests: np.ndarray,
    fragment_region: np.ndarray, fragment_size: np.ndarray, fragment_next: np.ndarray,
) -> bool:  # fmt: skip
    """Add pixels of a region to a component's fragments; True if it had none of the region: `spare` is that one then.

    `is_new` says that it has none without a search.
    """
    fragment = -1 if is_new else firsts[root]
    if fragment >= 0 and fragment_region[bests[root]] == region:
        fragment = bests[root]
    while fragment >= 0 and fragment_region[fragment] != region:
        fragment = fragment_next[fragment]
    added = fragment < 0
    if added:
        fragment = spare
        fragment_region[spare], fragment_size[spare], fragment_next[spare] = region, count, firsts[root]
        firsts[root] = spare
    else:
        fragment_size[fragment] += count
    if bests[root] < 0 or fragment_size[fragment] > fragment_size[bests[root]]:
        bests[root] = fragment
    return added


@compiled
def _join_fragments(
    root: Any, fragment: Any, num_called: np.ndarray, firsts: np.ndarray, bests: np.ndarray,
    fragment_region: np.ndarray, fragment_size: np.ndarray, fragment_next: np.ndarray,
) -> None:  # fmt: skip
    """Add the fragments from one on, of a component that ends, to those of the component it becomes part of."""
    while fragment >= 0:
        following = fragment_next[fragment]
        region, count = fragment_region[fragment], fragment_size[fragment]
        _add_to_fragments(
            root, region, count, fragment, count == num_called[region], firsts, bests,
            fragment_region, fragment_size, fragment_next,
        )  # fmt: skip
        fragment = following


@compiled
def _give_up(
    first: Any, fragment_region: np.ndarray, fragment_size: np.ndarray, fragment_next: np.ndarray, areas: np.ndarray,
    out_of_reach: np.ndarray, least_iou: float,
) -> int:  # fmt: skip
    """Count fragments of too large a component as out of reach; how many regions can be hit no more because of it."""
    lost = 0
    while first >= 0:
        region = fragment_region[first]
        could = (areas[region] - out_of_reach[region]) / areas[region] >= least_iou
        out_of_reach[region] += fragment_size[first]
        lost += could and (areas[region] - out_of_reach[region]) / areas[region] < least_iou
        first = fragment_next[first]
    return lost


@compiled
def _follow(
    order: np.ndarray, stride: int, regions: np.ndarray, areas: np.ndarray, num_groups: np.ndarray, members: np.ndarray,
    least_iou: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Let the pixels join in order; the places where the number of hits changes, and by how much."""
    num_defect, alive, largest = 0, areas.size - 1, 0
    for region in range(1, areas.size):
        num_defect += areas[region]
        largest = max(largest, areas[region])
    out_of_reach = np.zeros(areas.size, dtype=np.int64)  # how many pixels of a region lie in such components
    steps = np.array([1, 1 - stride, -stride, -1 - stride, -1, stride - 1, stride, stride + 1], dtype=np.int64)
    num_called = np.zeros(areas.size, dtype=np.int64)  # how many pixels of a region have joined
    called = np.zeros(regions.size, dtype=np.uint8)
    parents = np.empty(regions.size, dtype=np.int32)
    sizes = np.empty(regions.size, dtype=np.int32)  # of roots
    firsts = np.empty(regions.size, dtype=np.int32)  # of roots: the first fragment, -1 without
    bests = np.empty(regions.size, dtype=np.int32)  # of roots: the largest fragment, the only one that can be a hit
    hitting = np.zeros(regions.size, dtype=np.int8)  # of roots
    fragment_region = np.empty(num_defect + 1, dtype=np.int32)
    fragment_size = np.empty(num_defect + 1, dtype=np.int32)
    fragment_next = np.empty(num_defect + 1, dtype=np.int32)
    num_fragments, num_changes, i = 0, 0, 0
    places = np.empty(order.size, dtype=np.int32)
    changes = np.empty(order.size, dtype=np.int8)
    while alive > 0 and i < order.size:
        pixel: Any = np.int64(order[i])
        i += 1
        code = (
            called[pixel + 1]
            | called[pixel + 1 - stride] << 1
            | called[pixel - stride] << 2
            | called[pixel - 1 - stride] << 3
            | called[pixel - 1] << 4
            | called[pixel - 1 + stride] << 5
            | called[pixel + stride] << 6
            | called[pixel + 1 + stride] << 7
        )
        called[pixel] = 1
        change = 0
        if code == 0:
            root = pixel
            parents[pixel], sizes[pixel], firsts[pixel], bests[pixel] = pixel, 1, -1, -1
        else:
            root = _root(parents, pixel + steps[members[code, 0]])
            parents[pixel] = root
            sizes[root] += 1
        region = regions[pixel]
        if region > 0:
            num_fragments += _add_to_fragments(
                root, region, 1, num_fragments, num_called[region] == 0, firsts, bests,
                fragment_region, fragment_size, fragment_next,
            )  # fmt: skip
            num_called[region] += 1
        for group in range(1, num_groups[code]):
            other = _root(parents, pixel + steps[members[code, group]])
            if other == root:
                continue
            if sizes[other] > sizes[root]:
                root, other = other, root
            parents[other] = root
            sizes[root] += sizes[other]
            change -= hitting[other]
            hitting[other] = 0
            _join_fragments(
                root, firsts[other], num_called, firsts, bests, fragment_region, fragment_size, fragment_next
            )
        if firsts[root] >= 0:
            now = 0
            if largest / sizes[root] < least_iou:  # too large to hit anything, now or later
                alive -= _give_up(
                    firsts[root], fragment_region, fragment_size, fragment_next, areas, out_of_reach, least_iou
                )
                firsts[root] = bests[root] = -1
            else:
                overlap = fragment_size[bests[root]]
                now = int(overlap / (sizes[root] + areas[fragment_region[bests[root]]] - overlap) >= least_iou)
            change += now - hitting[root]
            hitting[root] = now
        if change != 0:
            places[num_changes], changes[num_changes] = pixel, change
            num_changes += 1
    return places[:num_changes].copy(), changes[:num_changes].copy()


@compiled
def _label(pixels: np.ndarray, width: int, labels: np.ndarray, parents: np.ndarray) -> int:
    """Number the components of the pixels, ascending, in zeroed padded labels; parents is (N + 1,) scratch."""
    for i in range(pixels.size):
        pixel = pixels[i] + 2 * (pixels[i] // width) + width + 3
        mine = i + 1
        parents[mine] = mine
        labels[pixel] = mine
        for before in (pixel - 1, pixel - width - 3, pixel - width - 2, pixel - width - 1):
            if labels[before] > 0:
                one, other = _root(parents, labels[before]), _root(parents, mine)
                parents[max(one, other)] = min(one, other)
    found = 0
    for i in range(pixels.size):
        pixel = pixels[i] + 2 * (pixels[i] // width) + width + 3
        root = _root(parents, i + 1)
        if root == i + 1:
            found += 1
            labels[pixel] = found
        else:
            first = pixels[root - 1]
            labels[pixel] = labels[first + 2 * (first // width) + width + 3]
    return found


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The 8-connected regions of a bool mask (H, W): int32 (H, W) with 0 outside and 1..n inside, and n.

    Regions are numbered in reading order of their first pixels.
    """
    height, width = mask.shape
    labels = np.zeros((height + 2, width + 2), dtype=np.int32)
    pixels = np.flatnonzero(mask).astype(np.int32)
    found = _label(pixels, width, labels.ravel(), np.zeros(pixels.size + 1, dtype=np.int32))
    return labels[1:-1, 1:-1], int(found)
