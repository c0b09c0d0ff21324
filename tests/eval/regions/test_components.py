"""Components followed through all thresholds, against labelling the map anew at every one of them."""

import time

import numpy as np
import pytest
import scipy.ndimage

from eval.compiled import COMPILED
from eval.regions.components import component_changes, label_regions
from eval.regions.hits import hit_changes
from tests.support.plain_scores import hits_at, parts, thresholds

FLOATS = (np.float16, np.float32, np.float64)


def followed(scores: np.ndarray, mask: np.ndarray, least_iou: float = 0.6) -> list[tuple[float, int, int]]:
    """(threshold, components, hits) at every distinct score, descending, from the changes."""
    labels, _ = label_regions(mask)
    flat, components, hits = scores.ravel(), component_changes(scores), hit_changes(scores, labels, least_iou)
    return [
        (t, int(components.steps[flat[components.pixels] >= t].sum()), int(hits.steps[flat[hits.pixels] >= t].sum()))
        for t in thresholds([scores])
    ]


def anew(scores: np.ndarray, mask: np.ndarray) -> list[tuple[float, int, int]]:
    """The same with every threshold on its own."""
    found = [(t, *hits_at(scores, parts(mask), t)) for t in thresholds([scores])]
    return [(t, number, sum(hit)) for t, number, hit in found]


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A small map of any shape, from one value to all distinct ones, and a mask from nearly empty to nearly full."""
    rng = np.random.default_rng(seed)
    shape = [(1, 25), (25, 1), (2, 9), (7, 8), (9, 9)][seed % 5]
    mask = rng.random(shape) < (0.1, 0.3, 0.6, 0.9)[seed // 5 % 4]
    levels = (1, 2, 3, 6, 1000)[seed // 20 % 5]
    scores = rng.integers(-levels, levels, shape) / 4 + (levels / 4) * mask * (seed % 3 > 0)
    return scores.astype(FLOATS[seed % 3]), mask


@pytest.mark.parametrize("block", range(5))
def test_every_threshold_of_many_small_maps(block: int) -> None:
    hits = 0
    for seed in range(40 * block, 40 * block + 40):
        scores, mask = random_case(seed)
        assert followed(scores, mask) == anew(scores, mask), seed
        hits += sum(number for _, _, number in anew(scores, mask))
    assert hits > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [4, 40])
def test_every_threshold_of_larger_smooth_maps(seed: int, levels: int) -> None:
    """Plateaus and saddles; the regions are the peaks, moved a little."""
    smooth = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 70)), 3)
    scores = np.round(smooth / smooth.max() * levels).astype(np.float32)
    mask = np.roll(scores > 0.45 * levels, 1, axis=1)
    expected = anew(scores, mask)
    assert followed(scores, mask) == expected
    assert max(number for _, _, number in expected) > 1


def test_hits_by_hand() -> None:
    """A region of three pixels: two of them are a hit (2/3), one is not, and four around it are (3/4)."""
    mask = np.array([[0, 1, 1, 1, 0, 0]], dtype=bool)
    scores = np.array([[0, 5, 4, 3, 3, 1]], np.float32)
    assert followed(scores, mask) == [(5, 1, 0), (4, 1, 1), (3, 1, 1), (1, 1, 1), (0, 1, 0)]
    assert followed(scores, mask, 0.7) == [(5, 1, 0), (4, 1, 0), (3, 1, 1), (1, 1, 0), (0, 1, 0)]
    assert followed(scores, mask, 0.75) == [(5, 1, 0), (4, 1, 0), (3, 1, 1), (1, 1, 0), (0, 1, 0)]
    assert followed(scores, mask, 1.0) == [(t, 1, 0) for t in (5, 4, 3, 1, 0)]


def test_the_region_that_comes_later_may_be_the_one_hit() -> None:
    """A region of 5 pixels joins first, then the gap and a region of 9 beside it: 9 of 15 pixels are a hit."""
    row = np.arange(20)[None]
    mask = (row < 5) | ((row > 5) & (row < 15))
    scores = np.where(row < 5, 3, np.where(row < 15, 2, 0)).astype(np.float32)
    assert followed(scores, mask) == [(3, 1, 1), (2, 1, 1), (0, 1, 0)]
    one_by_one = np.where(row < 15, 20 - row, 0).astype(np.float32)
    assert followed(one_by_one, mask) == anew(one_by_one, mask)
    assert followed(one_by_one, mask)[14] == (6, 1, 1)


def test_nested_rings() -> None:
    """A region within the hole of another: the inner one is hit, then the outer one, then all is one component."""
    mask = np.ones((7, 7), dtype=bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    scores = np.where(mask, 2.0, 0.0)
    scores[3, 3] = 3
    assert followed(scores, mask) == [(3, 1, 1), (2, 2, 2), (0, 1, 0)]
    scores[2, 2] = 1.0  # joins the inner one alone, which is missed from here on
    assert followed(scores, mask) == anew(scores, mask) == [(3, 1, 1), (2, 2, 2), (1, 2, 1), (0, 1, 0)]


def test_diagonal_neighbours_are_connected_and_edges_do_not_wrap() -> None:
    mask = np.eye(4, dtype=bool)
    assert followed(mask.astype(np.float32), mask) == [(1, 1, 1), (0, 1, 0)]
    ends = np.zeros((3, 4), np.float32)
    ends[0, 3] = ends[1, 0] = 1  # neighbours in memory alone
    assert followed(ends, ends > 0) == [(1, 2, 2), (0, 1, 0)]


def test_signed_zeros_are_one_threshold() -> None:
    scores = np.array([[0.0, -0.0, -1.0, -0.0]], np.float32)
    assert followed(scores, scores == 0) == [(0, 2, 2), (-1, 1, 0)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_values(dtype: type) -> None:
    limits = np.finfo(dtype)
    tiny, huge = limits.smallest_subnormal, limits.max
    scores = np.array([[huge, -huge, tiny, -tiny, 0, -huge, huge]], dtype)
    mask = np.array([[1, 0, 1, 0, 0, 0, 1]], dtype=bool)
    assert followed(scores, mask) == anew(scores, mask)
    assert [row[1:] for row in followed(scores, mask)] == [(2, 2), (3, 3), (4, 3), (3, 2), (1, 0)]


def test_steps_are_where_they_are_said_to_be() -> None:
    """Peaks add one and the saddle takes one away; other pixels are not listed."""
    scores = np.array([[9, 5, 3, 5, 8], [1, 1, 1, 1, 1]], np.float64)
    changes = component_changes(scores)
    assert dict(zip(changes.pixels.tolist(), changes.steps.tolist(), strict=True)) == {0: 1, 4: 1, 2: -1}
    assert changes.pixels.dtype == changes.steps.dtype == np.int64


def test_layout_does_not_matter() -> None:
    scores, mask = random_case(93)
    labels, _ = label_regions(mask)
    for given in (np.asfortranarray(scores), scores[::-1][::-1], np.tile(scores, (1, 2))[:, : scores.shape[1]]):
        assert followed(given, mask) == followed(scores, mask)
        hits, same = hit_changes(given, np.asfortranarray(labels), 0.6), hit_changes(scores, labels, 0.6)
        np.testing.assert_array_equal(hits.pixels, same.pixels)


def test_no_region_no_hit() -> None:
    scores, _ = random_case(61)
    hits = hit_changes(scores, np.zeros(scores.shape, np.int32), 0.6)
    assert hits.pixels.size == hits.steps.size == 0


def halves(size: int) -> tuple[np.ndarray, np.ndarray]:
    """One region as large as half the picture, and beside it every second pixel of every second row a region."""
    mask = np.zeros((size, size), dtype=bool)
    mask[:, : size // 2] = True
    mask[::2, size // 2 + 3 :: 2] = True
    return mask, np.arange(size * size, dtype=np.float32).reshape(size, size)


@pytest.mark.parametrize("way", ["flat", "falling", "rising", "specks first", "noise"])
def test_one_huge_region_and_many_small_ones(way: str) -> None:
    mask, places = halves(14)
    noise = np.random.default_rng(5).permutation(places.ravel()).reshape(places.shape)
    scores = {
        "flat": np.zeros_like(places), "falling": -places, "rising": places,
        "specks first": np.where(mask[:, ::-1], 1, 0) * places, "noise": noise,
    }[way].astype(np.float32)  # fmt: skip
    assert followed(scores, mask) == anew(scores, mask)


@pytest.mark.parametrize("way", ["flat", "specks first", "noise"])
def test_tens_of_thousands_of_regions_take_no_longer(way: str) -> None:
    """A component that covers 30,000 regions must not look at each of them whenever it grows: seconds, not 0.03 s."""
    mask, places = halves(518)
    noise = np.random.default_rng(5).permutation(places.ravel()).reshape(places.shape).astype(np.float32)
    scores = {"flat": places * 0, "specks first": noise + mask[:, ::-1] * places.size, "noise": noise}[way]
    labels, num_regions = label_regions(mask)
    assert num_regions > 30_000
    hit_changes(scores[:9, :9].astype(np.float32), labels[:9, :9], 0.6)  # compiles
    start = time.process_time()
    hits = hit_changes(scores.astype(np.float32), labels, 0.6)
    assert time.process_time() - start < 1.5 or not COMPILED
    flat, total, best = scores.ravel(), 0, 0
    for place in np.lexsort((hits.pixels, -flat[hits.pixels])):
        total += int(hits.steps[place])
        best = max(best, total)
    assert (best > 100) == (way != "flat")
    assert total == 0  # everything is one component in the end, twice as large as the largest region


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 53), (200, 150)])
def test_regions_are_numbered_as_by_scipy(shape: tuple[int, int], density: float) -> None:
    mask = np.random.default_rng(7).random(shape) < density
    labels, num_regions = label_regions(mask)
    expected, number = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
    assert num_regions == number
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(label_regions(mask[::-1, ::-1])[0], label_regions(mask[::-1, ::-1].copy())[0])


def test_regions_that_meet_late_are_one() -> None:
    """Combs and spirals, where the numbers given on the way have to be joined again and again."""
    comb = np.zeros((40, 41), dtype=bool)
    comb[:-1, ::2] = comb[-1] = True
    spiral = np.zeros((11, 11), dtype=bool)
    for ring in range(0, 5, 2):
        spiral[ring, max(0, ring - 1) : 11 - ring] = spiral[ring : 11 - ring, 10 - ring] = True
        spiral[10 - ring, ring : 11 - ring] = spiral[ring + 2 : 11 - ring, ring] = True
    for mask in (comb, comb[::-1], comb.T, spiral, spiral[::-1], spiral.T):
        expected, number = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
        labels, num_regions = label_regions(mask)
        assert num_regions == number
        np.testing.assert_array_equal(labels, expected)
