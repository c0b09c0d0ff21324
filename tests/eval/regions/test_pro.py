"""PRO against a slow re-derivation in exact fractions, one threshold and one region at a time."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.ranking.histogram import VALUES, ValueCounts, pattern_ranks
from eval.regions.components import label_regions
from eval.regions.pro import WHOLE, add_covered_shares, pro_curve, pro_from_counts
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import parts


def slow_pro(maps: list[np.ndarray], masks: list[np.ndarray], limit: Fraction, thresholds: list | None = None) -> float:
    """PRO by its definition in rational arithmetic, at every distinct value unless thresholds are given."""
    thresholds = thresholds or sorted({float(v) for m in maps for v in m.ravel()}, reverse=True)
    regions = [(m, region) for m, mask in zip(maps, masks, strict=True) for region in parts(mask)]
    normal = [float(v) for m, mask in zip(maps, masks, strict=True) for v in m[~mask]]
    points = [(Fraction(0), Fraction(0))]
    for threshold in thresholds:
        rate = Fraction(sum(v >= threshold for v in normal), len(normal))
        shares = [Fraction(int((m[region] >= threshold).sum()), int(region.sum())) for m, region in regions]
        points.append((rate, sum(shares, Fraction(0)) / len(regions)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + at_limit) / 2
    return float(area / limit)


def covered_shares(ranks: np.ndarray, regions: np.ndarray, num_ranks: int) -> np.ndarray:
    shares = np.zeros(num_ranks, dtype=np.int64)
    add_covered_shares(ranks, regions, np.argsort(ranks, kind="stable"), shares)
    return shares


def shares_of(anomaly_map: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """What share of the regions of one image is newly covered at each float16 value, and how many regions it has."""
    labels, num_regions = label_regions(mask)
    return covered_shares(pattern_ranks(anomaly_map[mask]), labels[mask], VALUES.size), num_regions


def pro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> float:
    pixels, shares, num_regions = ValueCounts(), np.zeros(VALUES.size, dtype=np.int64), 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add(anomaly_map, mask)
        found, number = shares_of(anomaly_map, mask)
        shares, num_regions = shares + found, num_regions + number
    return pro_from_counts(pixels.by_value()[1], shares, num_regions, limit)


def random_category(seed: int, levels: int, images: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Small maps of a few levels with several irregular regions each, one-pixel ones among them; the last is normal."""
    rng = np.random.default_rng(seed)
    masks = [rng.random((9, 11)) < 0.15 for _ in range(images - 1)] + [np.zeros((9, 11), dtype=bool)]
    maps = [(rng.integers(0, levels, (9, 11)) + 2 * mask).astype(np.float16) for mask in masks]
    return maps, masks


def test_every_region_weighs_the_same() -> None:
    anomaly_map = np.array([[5, 1, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0]], np.float16)
    mask = np.array([[1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=bool)
    assert pro([anomaly_map], [mask]) == 1.0
    missed = np.where(mask & (anomaly_map == 5), np.float16(-1), anomaly_map)  # the one-pixel region is lost
    assert pro([missed], [mask]) == 0.5
    missed = np.where(mask & (anomaly_map == 4), np.float16(-1), anomaly_map)  # the four-pixel region is lost
    assert pro([missed], [mask]) == 0.5


@pytest.mark.parametrize("limit", [Fraction(3, 10), Fraction(1, 20), Fraction(1, 1)])
@pytest.mark.parametrize("levels", [1, 2, 5, 60])
@pytest.mark.parametrize("seed", range(3))
def test_against_exact_fractions(seed: int, levels: int, limit: Fraction) -> None:
    maps, masks = random_category(seed, levels)
    expected = pytest.approx(slow_pro(maps, masks, limit), abs=1e-11)
    assert pro(maps, masks, float(limit)) == expected
    scorer = Scorer(pro_fpr_limit=float(limit))
    scorer.update(maps, masks, [0.0] * len(maps))
    assert scorer.compute().metrics["pro_seg"] == expected
    unrounded = [m.astype(np.float64) for m in maps]
    assert score_arrays(unrounded, masks, [0.0] * len(maps), pro_fpr_limit=float(limit)).metrics["pro_seg"] == expected


def test_interpolated_at_the_limit() -> None:
    """Ten normal pixels: rate and overlap go (0, 0), (0, 1/2), (1/5, 1/2), (3/5, 1): at 0.3 the overlap is 5/8."""
    anomaly_map = np.array([[9, 7, 8, 8, 7, 7, 7, 7, 0, 0, 0, 0]], np.float16)
    mask = np.array([[1, 1] + [0] * 10], dtype=bool)
    expected = (0.2 * 0.5 + 0.1 * (0.5 + 0.625) / 2) / 0.3
    assert pro([anomaly_map], [mask]) == pytest.approx(expected, abs=1e-12)
    assert slow_pro([anomaly_map], [mask], Fraction(3, 10)) == pytest.approx(expected, abs=1e-12)


def test_limit_reached_exactly_takes_no_more() -> None:
    """Rate 3/10 is a point of the curve, and what is found beyond it does not count."""
    anomaly_map = np.array([[9, 1, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0]], np.float16)
    mask = np.array([[1, 1] + [0] * 10], dtype=bool)
    assert pro([anomaly_map], [mask], 0.3) == pytest.approx(0.5, abs=1e-12)


def test_constant_maps_are_chance() -> None:
    maps, masks = random_category(0, 1)
    flat = [np.full(m.shape, 3, np.float16) for m in maps]
    assert pro(flat, masks) == pytest.approx(0.15, abs=1e-12)  # the diagonal up to 0.3
    assert pro(flat, masks, 1.0) == pytest.approx(0.5, abs=1e-12)


def test_pixels_of_normal_images_count_in_the_false_positive_rate() -> None:
    """Three normal pixels outscore half of the region: of 4 normal pixels that is past the limit, of 16 it is not."""
    anomaly_map = np.array([[9, 1, 8, 8, 8, 0]], np.float16)
    mask = np.array([[1, 1, 0, 0, 0, 0]], dtype=bool)
    quiet, nothing = np.zeros((1, 12), np.float16), np.zeros((1, 12), dtype=bool)
    assert pro([anomaly_map], [mask]) == pytest.approx(0.5, abs=1e-12)
    expected = (0.5 * 3 / 16 + 1.0 * (0.3 - 3 / 16)) / 0.3
    assert pro([anomaly_map, quiet], [mask, nothing]) == pytest.approx(expected, abs=1e-12)


def test_two_hundred_thresholds_are_not_enough() -> None:
    """One hot pixel moves evenly spaced thresholds away from all the others; the exact curve hardly notices."""
    maps, masks = random_category(2, 400)
    maps = [m + np.float16(300) * mask for m, mask in zip(maps, masks, strict=True)]
    hot = [m.copy() for m in maps]
    hot[-1][0, 0] = 60_000
    spaced = np.linspace(60_000, 0, 200).tolist()
    exact = slow_pro(hot, masks, Fraction(3, 10))
    assert abs(slow_pro(hot, masks, Fraction(3, 10), spaced) - exact) > 0.05
    assert pro(hot, masks) == pytest.approx(exact, abs=1e-11)
    assert pro(hot, masks) == pytest.approx(pro(maps, masks), abs=0.05)


def test_shares_of_each_region_add_up_to_one_whole() -> None:
    rng = np.random.default_rng(0)
    regions = rng.permutation(np.concatenate([np.arange(1, 8), rng.integers(1, 8, 500)]))
    ranks = rng.integers(0, 50, regions.size)
    shares = covered_shares(ranks, regions, 50)
    expected = [sum(np.mean(ranks[regions == r] == rank) for r in range(1, 8)) for rank in range(50)]
    assert shares.sum() == 7 * WHOLE
    np.testing.assert_allclose(shares / WHOLE, expected, atol=1e-11)


def test_shares_of_one_region_may_come_in_any_order_of_equal_values() -> None:
    ranks, regions = np.array([2, 0, 2, 1, 2]), np.array([1, 1, 2, 2, 1])
    for order in ([1, 3, 0, 2, 4], [1, 3, 4, 2, 0], [1, 3, 2, 4, 0]):
        shares = np.zeros(3, dtype=np.int64)
        add_covered_shares(ranks, regions, np.array(order), shares)
        np.testing.assert_array_equal(shares, covered_shares(ranks, regions, 3))
    np.testing.assert_allclose(shares / WHOLE, [1 / 3, 1 / 2, 2 / 3 + 1 / 2], atol=1e-11)


def test_parts_add_up_bit_for_bit_in_any_order() -> None:
    """All images at once, their regions numbered on, against the sum over single images."""
    maps, masks = random_category(4, 30, images=8)
    single = [shares_of(maps[i], masks[i]) for i in [3, 0, 7, 5, 1, 6, 2, 4]]
    merged, num_regions = sum(shares for shares, _ in single), sum(number for _, number in single)
    assert num_regions == sum(len(parts(mask)) for mask in masks)
    labels = [label_regions(mask)[0][mask] for mask in masks]
    first = np.cumsum([0, *(int(one.max(initial=0)) for one in labels)])
    regions = np.concatenate([one + offset for one, offset in zip(labels, first, strict=False)])
    ranks = np.concatenate([pattern_ranks(m[mask]) for m, mask in zip(maps, masks, strict=True)])
    np.testing.assert_array_equal(merged, covered_shares(ranks, regions, VALUES.size))
    assert int(np.sum(merged)) == num_regions * WHOLE


def test_curve_runs_from_zero_to_one() -> None:
    rate, overlap = pro_curve(np.array([0, 1, 0, 3]), np.array([WHOLE, WHOLE // 2, WHOLE // 2, 0]), 2)
    np.testing.assert_allclose(rate, [0, 0, 0.25, 0.25, 1])
    np.testing.assert_allclose(overlap, [0, 0.5, 0.75, 1, 1])


def test_no_region_or_no_normal_pixel_is_refused() -> None:
    with pytest.raises(ScoringInputError, match="0 regions and 4 normal pixels"):
        pro([np.zeros((2, 2), np.float16)], [np.zeros((2, 2), dtype=bool)])
    with pytest.raises(ScoringInputError, match="1 regions and 0 normal pixels"):
        pro_from_counts(np.zeros(3, np.int64), np.array([WHOLE, 0, 0]), 1, 0.3)
