"""AUPIMO against its integral worked out step by step, and by hand."""

import numpy as np
import pytest

from eval.regions.pro import FPR_RANGE, fewest_pixels, pixel_weights
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import Category, plain_pimo

SHAPE = (250, 200)


def planted(seed: int, levels: int, normal: int = 4, anomalous: int = 3) -> Category:
    """Whole numbers that float16 holds exactly; the defects reach into the highest normal pixels."""
    rng = np.random.default_rng(seed)
    given = Category([], [], [], [])
    for i in range(normal + anomalous):
        mask = np.zeros(SHAPE, dtype=bool)
        if i >= normal:
            mask[20 : 20 + 10 * i, 30:50] = mask[100, 100] = True
        tail = np.minimum(rng.exponential(size=SHAPE) / 14, 1)
        values = np.floor(levels * np.where(mask, 0.5 + 0.5 * rng.random(SHAPE), tail))
        given.maps.append(values.astype(np.float32))
        given.masks.append(mask)
        given.scores.append(float(i))
        given.labels.append(int(i >= normal))
    return Category(given.maps, given.masks, given.scores, given.labels)


@pytest.mark.parametrize(("seed", "levels"), [(0, 30), (1, 300), (2, 2000)])
def test_against_the_integral(seed: int, levels: int) -> None:
    given = planted(seed, levels)
    expected = plain_pimo(given.maps, given.masks)
    assert 0.05 < expected < 0.95
    assert given.scored().metrics["aupimo_seg"] == pytest.approx(expected, abs=1e-12)
    assert given.scored_unrounded().metrics["aupimo_seg"] == pytest.approx(expected, abs=1e-12)
    assert given.scored_unrounded(threads=2) == given.scored_unrounded()


def by_hand(first: int, second: int) -> Category:
    """100,000 normal pixels, of which `first` lie above a half of the defect and `second` above the other half."""
    normal = np.zeros((100, 1000), np.float32)
    normal.ravel()[:first] = 10
    normal.ravel()[first:second] = 6
    defect = np.array([[7.0, 5.0, 99.0, 0.0]], np.float32)  # the 99 is normal, but of an anomalous image
    return Category([normal, defect], [normal > 99, np.array([[1, 1, 0, 0]], dtype=bool)], [0.1, 0.9], [0, 1])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),  # a rate of 1e-5 is where the axis begins
        (1, 10, 0.5),  # 1e-4 is where it ends
        (10, 10, 0.0),
        (1, 5, 0.5 + 0.5 * np.log10(2)),
        (2, 5, 0.5 * np.log10(5) + 0.5 * np.log10(2)),
        (100_000, 100_000, 0.0),
    ],
)
def test_by_hand(first: int, second: int, expected: float) -> None:
    given = by_hand(first, second)
    for result in (given.scored(), given.scored_unrounded()):
        assert result.metrics["aupimo_seg"] == pytest.approx(expected, abs=1e-12)
    assert plain_pimo(given.maps, given.masks) == pytest.approx(expected, abs=1e-12)


def test_every_image_counts_the_same() -> None:
    """One image with one defect pixel that is found, one with many that are not."""
    given = by_hand(0, 0)
    given.maps += [np.full((30, 30), -1, np.float32)]
    given.masks += [np.ones((30, 30), dtype=bool)]
    result = score_arrays(given.maps, given.masks, [0.1, 0.9, 0.8])
    assert result.metrics["aupimo_seg"] == pytest.approx(0.5, abs=1e-12)


def test_a_tie_with_a_normal_pixel_is_a_false_alarm() -> None:
    given = by_hand(10, 10)
    given.maps[1][0, :2] = 10.0
    assert given.scored().metrics["aupimo_seg"] == 0.0


@pytest.mark.parametrize("way", ["scored", "scored_unrounded"])
def test_blank_with_a_reason_where_normal_pixels_are_too_few(way: str) -> None:
    given = by_hand(0, 0)
    given.maps[0], given.masks[0] = given.maps[0].ravel()[:-1][None], given.masks[0].ravel()[:-1][None]
    result = getattr(given, way)()
    assert result.metrics["aupimo_seg"] is None
    assert result.reasons == {
        "aupimo_seg": "99999 pixels in normal images are too few for a false positive rate of 1e-05"
    }
    assert fewest_pixels() == 100_000


def test_weights_fall_from_one_to_zero_with_the_rate() -> None:
    weights = pixel_weights(np.array([0, 1, 1, 3, 5, 99_990, 0]))
    rates = np.array([0, 1, 2, 5, 10, 100_000, 100_000]) / 100_000
    expected = 1 - (np.log10(np.clip(rates, *FPR_RANGE)) + 5)
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    assert (weights[:2] == 1).all()


def test_parts_merge_to_the_bit() -> None:
    given = planted(7, 200)
    merged = Scorer()
    for part in ([5, 0], [1], [6, 3, 2], [4]):
        merged.merge(given.scorer(part))
    assert merged.compute() == given.scored()
