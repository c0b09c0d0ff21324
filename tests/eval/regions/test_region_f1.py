"""Region F1 by planted truth and against every threshold on its own."""

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.regions.region_f1 import LEAST_IOU, RegionCurve, region_curve
from eval.scorer import Scorer
from tests.support.plain_scores import Category, plain_region_counts, plain_region_f1

NAMES = ("f1_region", "f1_region_threshold", "precision_region", "recall_region")


def region_metrics(given: Category) -> tuple[float | None, ...]:
    """F1, threshold, precision and recall, which must be the same both ways; the maps hold float16 values."""
    rounded, exact = given.scored().metrics, given.scored_unrounded().metrics
    assert [rounded[name] for name in NAMES] == [exact[name] for name in NAMES]
    return tuple(rounded[name] for name in NAMES)


def category(*images: tuple[list, list]) -> Category:
    maps = [np.array(values, np.float32) for values, _ in images]
    masks = [np.array(mask, dtype=bool) for _, mask in images]
    return Category(maps, masks, [float(mask.any()) for mask in masks], [None] * len(masks))


def test_planted_truth() -> None:
    """Three regions in two images; a third image is normal and has one false alarm.

    At 3 both regions of the first image are found and nothing else is called: F1 = 2 * 2 / (2 + 3). At 2 the false
    alarm of the normal image and too small a part of the third region come: 2 * 2 / (4 + 3). At 1 the third is found
    as well: 2 * 3 / (4 + 3), the best.
    """
    given = category(
        ([[9, 9, 0, 3, 3, 3, 0]], [[1, 1, 0, 1, 1, 1, 0]]),
        ([[0, 2, 1, 1, 0, 0, 0]], [[0, 1, 1, 1, 0, 0, 0]]),
        ([[2, 0, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0, 0]]),
    )
    assert region_metrics(given) == pytest.approx((6 / 7, 1, 3 / 4, 1))
    given.maps[2][0, 2:] = [2, 0, 2, 0, 2]  # three more false alarms: now nothing beats threshold 3
    assert region_metrics(given) == pytest.approx((4 / 5, 3, 1, 2 / 3))


def test_many_false_alarms_cost_precision() -> None:
    """One region found beside nine specks: 2 / (10 + 1)."""
    values = np.ones((5, 9))
    values[::4, ::2] = 2
    values[2, 4] = 2
    given = category((values.tolist(), (np.arange(45).reshape(5, 9) == 22).tolist()))
    f1, threshold, precision, recall = region_metrics(given)
    assert (f1, threshold) == (pytest.approx(2 / 12), 2)
    assert (precision, recall) == pytest.approx((1 / 11, 1))


@pytest.mark.parametrize(("called", "expected"), [(2, 0.0), (3, 1.0), (4, 1.0), (5, 1.0), (8, 1.0), (9, 0.0)])
def test_least_overlap(called: int, expected: float) -> None:
    """A region of five pixels is hit by 3 of them (0.6), and by 8 pixels around it (0.625), not by 9 (0.556)."""
    assert LEAST_IOU == 0.6
    values = np.where(np.arange(20) < called, 1.0, 0.0)
    given = category(([values.tolist()], [(np.arange(20) < 5).tolist()]))
    assert region_metrics(given)[0] == expected


SPECKS = (np.arange(81).reshape(9, 9) % 2 == 0) & (np.arange(9)[:, None] % 2 == 0)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        pytest.param([([[4, 4, 4, 0, 0]], [[1, 0, 1, 0, 0]])], (0, 4, 0, 0), id="one component over two regions"),
        pytest.param([([[4, 0, 4, 0, 0, 0]], [[1, 1, 1, 0, 0, 0]])], (0, 4, 0, 0), id="a region in two pieces"),
        pytest.param([([[5, 0, 4, 0, 3, 0]], [[1, 0, 1, 0, 1, 0]])], (1, 3, 1, 1), id="regions of one pixel"),
        pytest.param([([[5, 0, 4, 0, 3, 0]], [[1, 0, 0, 0, 0, 0]])], (1, 5, 1, 1), id="one of one pixel"),
        pytest.param([([[0, 7]], [[0, 1]]), ([[7, 0]], [[1, 0]])], (1, 7, 1, 1), id="images do not touch"),
        pytest.param([(SPECKS.tolist(), SPECKS.tolist())], (1, 1, 1, 1), id="everything a defect of its own"),
    ],
)
def test_by_hand(images: list[tuple[list, list]], expected: tuple[float, ...]) -> None:
    assert region_metrics(category(*images)) == expected


@pytest.mark.parametrize("seed", range(12))
def test_every_threshold_of_a_category(seed: int) -> None:
    """The curve itself: how many components and hits there are at each distinct score."""
    rng = np.random.default_rng(seed)
    masks = [rng.random((8, 9)) < (0.0, 0.1, 0.3)[i % 3] for i in range(5)]
    given = category(*((rng.integers(0, 6, (8, 9)) + 4 * mask, mask) for mask in masks))
    curve = given.scorer().curves().region
    assert curve is not None
    for threshold, components, hits in plain_region_counts(given.maps, given.masks):
        place = np.flatnonzero(curve.thresholds >= threshold)[-1]
        assert (curve.components[place], curve.hits[place]) == (components, hits)
    assert region_metrics(given) == pytest.approx(plain_region_f1(given.maps, given.masks))


def test_not_followed_if_not_wanted() -> None:
    given = category(([[5, 0, 4]], [[1, 0, 0]]), ([[1, 1]], [[0, 0]]))
    for result in (given.scored(region_f1=False), given.scored_unrounded(region_f1=False)):
        assert {name: result.metrics[name] for name in NAMES} == dict.fromkeys(NAMES)
        assert {result.reasons[name] for name in NAMES} == {"components were not followed"}
        rest = {name: value for name, value in result.metrics.items() if name not in NAMES}
        assert rest == {name: value for name, value in given.scored().metrics.items() if name not in NAMES}
    with pytest.raises(ScoringInputError, match=r"\(0\.3, True\), got \(0\.3, False\)"):
        Scorer().merge(Scorer(region_f1=False))


def test_curve_from_changes_in_any_order() -> None:
    curve = region_curve(np.array([1.0, 3, 1, 2]), np.array([1, 1, -1, 1]), np.array([2.0, 1]), np.array([1, -1]), 4)
    assert curve.thresholds.tolist() == [3, 2, 1]
    assert curve.components.tolist() == [1, 2, 2]
    assert curve.hits.tolist() == [0, 1, 0]
    best = curve.f1_max()
    assert (best.value, best.threshold, best.precision, best.recall) == (2 / 6, 2, 1 / 2, 1 / 4)


def test_without_regions_it_is_refused() -> None:
    with pytest.raises(ScoringInputError, match="at least one was expected; got none"):
        RegionCurve(np.array([1.0]), np.array([1]), np.array([0]), 0).f1_max()
