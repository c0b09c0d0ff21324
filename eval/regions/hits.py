"""Which components of everything above a threshold hit a defect region, followed through all thresholds at once.

As in `eval.regions.components`, pixels join from the highest score to the lowest. To see when a component hits a
region, each keeps its size and its fragments: how many pixels of each region it covers.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from eval.compiled import compiled, falling_order
from eval.regions.components import MEMBERS, NUM_GROUPS, Changes, framed, root_of, unframed


class _Regions(NamedTuple):
    """The region of each pixel (0: none); by region its pixels in all, joined, in too large components."""

    of_pixel: np.ndarray
    areas: np.ndarray
    joined: np.ndarray
    out_of_reach: np.ndarray


class _Components(NamedTuple):
    """The parent of each pixel; of roots the size, the first fragment (-1: none), the largest one, and whether it hits.

    No fragment but the largest can be a hit.
    """

    parents: np.ndarray
    sizes: np.ndarray
    firsts: np.ndarray
    largest: np.ndarray
    hitting: np.ndarray


class _Fragments(NamedTuple):
    """Which region each fragment is part of, its size, and the next one of the same component (-1: none)."""

    regions: np.ndarray
    sizes: np.ndarray
    following: np.ndarray


def hit_changes(scores: np.ndarray, regions: np.ndarray, least_iou: float) -> Changes:
    """How the number of components of {scores >= t} that hit a defect region changes as t falls.

    `scores` is (H, W) float, finite; `regions` is (H, W) int32, 0 outside defects and 1..n inside. A component hits a
    region where their intersection over union is at least `least_iou`, above 0.5: then no component hits two regions,
    and no region is hit by two. The way down ends where no region can be hit any more.
    """
    padded = framed(regions, 0)
    areas, num_pixels = np.bincount(padded.ravel()), padded.size
    of_regions = _Regions(padded.ravel(), areas, np.zeros_like(areas), np.zeros_like(areas))
    parents, sizes, firsts, largest = (np.empty(num_pixels, dtype=np.int32) for _ in range(4))
    components = _Components(parents, sizes, firsts, largest, np.zeros(num_pixels, dtype=np.int8))
    fragments = _Fragments(*(np.empty(int(areas[1:].sum()) + 1, dtype=np.int32) for _ in range(3)))
    order = _framed_pixels(*scores.shape)[falling_order(scores.ravel())]
    found = _follow(order, padded.shape[1], of_regions, components, fragments, NUM_GROUPS, MEMBERS, least_iou)
    return unframed(*found, scores.shape[1])


@lru_cache(maxsize=4)
def _framed_pixels(height: int, width: int) -> np.ndarray:
    """Where in a framed picture each pixel (height * width,) lies; int32."""
    rows = np.arange(1, height + 1, dtype=np.int32)[:, None] * (width + 2)
    return (rows + np.arange(1, width + 1, dtype=np.int32)).ravel()


@compiled
def _follow(
    order: np.ndarray, stride: int, regions: _Regions, components: _Components, fragments: _Fragments,
    num_groups: np.ndarray, members: np.ndarray, least_iou: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Let the pixels join in order; the pixels where the number of hits changes, and by how much."""
    alive, largest_area = regions.areas.size - 1, 0
    for region in range(1, regions.areas.size):
        largest_area = max(largest_area, regions.areas[region])
    steps = np.array([1, 1 - stride, -stride, -1 - stride, -1, stride - 1, stride, stride + 1], dtype=np.int64)
    called = np.zeros(regions.of_pixel.size, dtype=np.uint8)
    pixels, changes = np.empty(order.size, dtype=np.int32), np.empty(order.size, dtype=np.int8)
    num_fragments, num_changes, i = 0, 0, 0
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
        if code == 0:
            root = pixel
            components.parents[pixel], components.sizes[pixel] = pixel, 1
            components.firsts[pixel], components.largest[pixel] = -1, -1
        else:
            root = root_of(components.parents, pixel + steps[members[code, 0]])
            components.parents[pixel] = root
            components.sizes[root] += 1
        region, change = regions.of_pixel[pixel], 0
        if region > 0:
            is_new = regions.joined[region] == 0
            num_fragments += _add_pixels(root, region, 1, num_fragments, is_new, components, fragments)
            regions.joined[region] += 1
        for group in range(1, num_groups[code]):
            other = root_of(components.parents, pixel + steps[members[code, group]])
            if other != root:
                root, lost_hit = _merge(root, other, regions, components, fragments)
                change -= lost_hit
        if components.firsts[root] >= 0:
            hit, lost_regions = _judge(root, largest_area, regions, components, fragments, least_iou)
            alive -= lost_regions
            change += hit - components.hitting[root]
            components.hitting[root] = hit
        if change != 0:
            pixels[num_changes], changes[num_changes] = pixel, change
            num_changes += 1
    return pixels[:num_changes].copy(), changes[:num_changes].copy()


@compiled
def _add_pixels(
    root: int, region: int, count: int, spare: int, is_new: bool, components: _Components, fragments: _Fragments
) -> bool:
    """Add pixels of a region to a component's fragments; True if it had none of the region: `spare` is that one then.

    `is_new` says that it has none without a search.
    """
    largest = components.largest[root]
    fragment = -1 if is_new else components.firsts[root]
    if fragment >= 0 and fragments.regions[largest] == region:
        fragment = largest
    while fragment >= 0 and fragments.regions[fragment] != region:
        fragment = fragments.following[fragment]
    added = fragment < 0
    if added:
        fragment = spare
        fragments.regions[spare], fragments.sizes[spare] = region, count
        fragments.following[spare] = components.firsts[root]
        components.firsts[root] = spare
    else:
        fragments.sizes[fragment] += count
    if largest < 0 or fragments.sizes[fragment] > fragments.sizes[largest]:
        components.largest[root] = fragment
    return added


@compiled
def _merge(root: Any, other: Any, regions: _Regions, components: _Components, fragments: _Fragments) -> tuple[Any, Any]:
    """Make one component of two by their roots; the root of both, and 1 if the smaller one was a hit, else 0."""
    if components.sizes[other] > components.sizes[root]:
        root, other = other, root
    components.parents[other] = root
    components.sizes[root] += components.sizes[other]
    lost_hit = components.hitting[other]
    components.hitting[other] = 0
    fragment = components.firsts[other]
    while fragment >= 0:
        following = fragments.following[fragment]
        region, count = fragments.regions[fragment], fragments.sizes[fragment]
        _add_pixels(root, region, count, fragment, count == regions.joined[region], components, fragments)
        fragment = following
    return root, lost_hit


@compiled
def _judge(
    root: Any, largest_area: int, regions: _Regions, components: _Components, fragments: _Fragments, least_iou: float
) -> tuple[int, int]:
    """1 if a component is a hit, else 0; and how many regions can be hit no more because it is too large for any."""
    size = components.sizes[root]
    if largest_area / size >= least_iou:
        best = components.largest[root]
        overlap = fragments.sizes[best]
        return int(overlap / (size + regions.areas[fragments.regions[best]] - overlap) >= least_iou), 0
    lost = 0
    fragment = components.firsts[root]
    while fragment >= 0:
        region = fragments.regions[fragment]
        area = regions.areas[region]
        could = (area - regions.out_of_reach[region]) / area >= least_iou
        regions.out_of_reach[region] += fragments.sizes[fragment]
        lost += could and (area - regions.out_of_reach[region]) / area < least_iou
        fragment = fragments.following[fragment]
    components.firsts[root] = components.largest[root] = -1
    return 0, lost
