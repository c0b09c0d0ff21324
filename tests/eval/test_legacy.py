"""The legacy metrics against plain re-derivations, one threshold and one region at a time; and their flaws."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import legacy
from eval.errors import ScoringInputError
from eval.legacy import legacy_pro, legacy_region_f1
from eval.scorer import score_arrays
from tests.support.plain_scores import parts

Maps = list[np.ndarray]


def with_holes_filled(region: np.ndarray) -> np.ndarray:
    """A region and everything from which no 8-connected way outside it leads beyond the border."""
    outside = parts(~np.pad(region, 1))
    return ~next(one for one in outside if one[0, 0])[1:-1, 1:-1]


def plain_pro(maps: Maps, masks: Maps, variant: str, limit: float = 0.3) -> float:
    """The 200-threshold PRO, by its description."""
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    step = (high - low) / 200
    thresholds = np.arange(low, high, step) if variant == "april_gan" else [high - i * step for i in range(200)]
    regions = [parts(mask) for mask in masks]
    searched = [[with_holes_filled(one) if variant == "saa" else one for one in some] for some in regions]
    points = []
    for threshold in thresholds:
        shares, false, normal = [], 0, 0
        for i, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
            called = anomaly_map > threshold
            for region, area in zip(regions[i], searched[i], strict=True):
                shares.append(np.sum(called & area) / np.sum(region))
            false += np.sum(called & ~mask)
            normal += np.sum(~mask)
        points.append((false / normal, np.mean(shares)))
    kept = [p for p in points if p[0] < limit or (variant == "saa" and p[0] == limit)]
    rates, overlaps = (np.array(column) for column in zip(*sorted(kept), strict=True))
    stretched = (rates - rates[0]) / (rates[-1] - rates[0])
    return float(np.sum(np.diff(stretched) * (overlaps[1:] + overlaps[:-1]) / 2))


def box_around(*regions: np.ndarray) -> tuple[slice, slice]:
    ys, xs = np.nonzero(np.any(regions, axis=0))
    return slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)


def plain_region_f1(maps: Maps, masks: Maps) -> tuple[float, float, float, float]:
    """(F1, threshold, precision, recall) of the joint-box region F1, by its description."""
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    best, regions = (0.0, float(high), 0.0, 0.0), [parts(mask) for mask in masks]
    for i in range(200):
        threshold = high - i * ((high - low) / 200)
        hits, predicted, true = 0, 0, sum(map(len, regions))
        for anomaly_map, mask, of_image in zip(maps, masks, regions, strict=True):
            called = anomaly_map > threshold
            for component in parts(called):
                predicted += 1
                boxes = [box_around(component, region) for region in of_image]
                overlaps = [np.sum((called & mask)[box]) / np.sum((called | mask)[box]) for box in boxes]
                hits += max(overlaps, default=0) >= 0.6
        if hits:
            recall, precision = hits / true, hits / predicted
            f1 = 2 * recall * precision / (recall + precision)
            best = max(best, (f1, float(threshold), precision, recall), key=lambda found: found[0])
    return best


def category(seed: int, levels: int, num_images: int = 3, size: int = 10) -> tuple[Maps, Maps]:
    """Maps of few or many levels, with irregular regions, rings and one-pixel ones; the last image is normal."""
    rng = np.random.default_rng(seed)
    masks = [rng.random((size, size + 2)) < 0.3 for _ in range(num_images - 1)]
    masks.append(np.zeros((size, size + 2), dtype=bool))
    maps = [rng.integers(0, levels, m.shape) / levels + rng.random() * m for m in masks]
    return [m.astype(np.float32) for m in maps], masks


@pytest.mark.parametrize("variant", ["april_gan", "saa"])
@pytest.mark.parametrize("levels", [12, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_pro_equals_its_plain_form(seed: int, levels: int, variant: str) -> None:
    maps, masks = category(seed, levels)
    assert legacy_pro(maps, masks, variant=variant) == pytest.approx(plain_pro(maps, masks, variant), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(2, 12), dtype=st.sampled_from([np.float32, np.float64]))
def test_region_f1_equals_its_plain_form(seed: int, levels: int, dtype: type) -> None:
    maps, masks = category(seed, levels, num_images=2, size=5)
    maps = [m.astype(dtype) for m in maps]
    if not masks[0].any():
        return
    ours = legacy_region_f1(maps, masks)
    np.testing.assert_allclose(
        (ours.value, ours.threshold, ours.precision, ours.recall), plain_region_f1(maps, masks), rtol=1e-12
    )


def test_region_f1_of_many_levels_equals_its_plain_form() -> None:
    maps, masks = category(0, levels=500)
    maps = [m + 2 * mask for m, mask in zip(maps, masks, strict=True)]
    value, threshold, precision, recall = plain_region_f1(maps, masks)
    ours = legacy_region_f1(maps, masks)
    assert value > 0.5
    np.testing.assert_allclose(
        (ours.value, ours.threshold, ours.precision, ours.recall), (value, threshold, precision, recall), rtol=1e-12
    )


@pytest.mark.parametrize("compiled", [True, False])
def test_values_at_a_threshold_are_not_above_it(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    monkeypatch.setattr(legacy, "COMPILED", compiled)
    thresholds = np.array([0.0, 0.5, 0.5, 1.0], dtype=np.float32)
    values = np.array([-3, 0, 0.2, 0.5, 0.7, 1, 1, 9], dtype=np.float32)
    counts = legacy._count_above(values, thresholds)
    np.testing.assert_array_equal(counts, [6, 4, 4, 1])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), offset=st.sampled_from([0.0, -5.0, 1e6]))
def test_counts_above_are_the_same_compiled_and_plain(seed: int, offset: float) -> None:
    """Far from zero float32 cannot tell all 200 thresholds apart."""
    values = (np.random.default_rng(seed).random(300) + offset).astype(np.float32)
    thresholds = np.linspace(values.min(), values.max(), 201, dtype=np.float32)
    expected = [np.sum(values > threshold) for threshold in thresholds]
    np.testing.assert_array_equal(legacy._count_above(values, thresholds), expected)


def smooth_category() -> tuple[Maps, Maps]:
    """Twenty 40 x 40 maps: a bump that partly covers a square defect, over waves."""
    y, x = np.mgrid[:40, :40] / 40
    maps, masks = [], []
    for i in range(20):
        mask = (abs(y - 0.5) < 0.12) & (abs(x - 0.3 - i / 50) < 0.12) & (i % 2 == 0)
        bump = np.exp(-((y - 0.45) ** 2 + (x - 0.35 - i / 50) ** 2) / 0.03)
        maps.append((np.sin(6 * y + i) * np.sin(5 * x - i) / 2 + bump * mask.any()).astype(np.float64))
        masks.append(mask)
    return maps, masks


def exact_pro(maps: Maps, masks: Maps) -> float:
    return score_arrays(maps, masks, [0.0] * len(maps), region_f1=False).metrics["pro_seg"]


def test_sharper_scores_of_the_same_ranking_change_the_legacy_pro_alone() -> None:
    maps, masks = smooth_category()
    sharpened = [np.exp(12 * m) for m in maps]
    exact = [exact_pro(some, masks) for some in (maps, sharpened)]
    assert exact[0] == pytest.approx(exact[1], abs=1e-12)
    for variant in ("april_gan", "saa"):
        before, after = (legacy_pro(some, masks, variant=variant) for some in (maps, sharpened))
        assert abs(before - exact[0]) < 0.05
        assert after < before - 0.2


def test_one_hot_pixel_ruins_the_legacy_pro() -> None:
    maps, masks = smooth_category()
    hot = [m.copy() for m in maps]
    hot[1][0, 0] = 1000.0
    assert exact_pro(hot, masks) == pytest.approx(exact_pro(maps, masks), abs=1e-3)
    with pytest.raises(ScoringInputError, match="no value here"):
        legacy_pro(hot, masks)


def test_holes_let_an_overlap_exceed_one() -> None:
    """A ring of 8 pixels is found together with the normal one inside it: that makes 9/8, less what leads up to it."""
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    anomaly_map = np.linspace(0, 0.3, 36).reshape(6, 6)
    anomaly_map[1:4, 1:4] = 1.0
    assert legacy_pro([anomaly_map], [mask], variant="saa") > 1
    assert legacy_pro([anomaly_map], [mask], variant="april_gan") == pytest.approx(1.0)


def test_fragments_of_one_defect_make_recall_exceed_one() -> None:
    """Two halves of one square, a column apart: both count as finding it."""
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:11, 1:11] = True
    halves = mask.copy()
    halves[:, 5] = False
    found = legacy_region_f1([halves.astype(np.float32)], [mask])
    assert (found.recall, found.precision) == (2.0, 1.0)
    assert found.value == pytest.approx(4 / 3)


def test_other_regions_in_the_joint_box_count_too() -> None:
    """A speck beside a well found defect is a hit, although it touches nothing: their joint box is well covered."""
    mask = np.zeros((12, 14), dtype=bool)
    mask[1:11, 1:11] = True
    with_speck = mask.copy()
    with_speck[5, 12] = True
    found = legacy_region_f1([with_speck.astype(np.float32)], [mask])
    assert (found.recall, found.precision) == (2.0, 1.0)


def test_half_precision_is_taken_as_single() -> None:
    maps, masks = category(0, levels=50)
    halves = [m.astype(np.float16) for m in maps]
    singles = [m.astype(np.float32) for m in halves]
    assert legacy_pro(halves, masks) == legacy_pro(singles, masks)
    assert legacy_region_f1(halves, masks) == legacy_region_f1(singles, masks)


NORMAL, DEFECT = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
CORNER = np.eye(4, dtype=bool) & (np.arange(4) == 0)
RAMP = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)


@pytest.mark.parametrize("metric", [legacy_pro, legacy_region_f1])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "at least one map"),
        ([RAMP], [CORNER, CORNER], "1 maps, got 2 masks"),
        ([RAMP, RAMP[None]], [CORNER, CORNER], "Image number 2: expected a 2-D anomaly map"),
        ([np.where(RAMP < 0.5, RAMP, np.float32(np.inf))], [CORNER], "finite anomaly map"),
        ([RAMP.astype(int)], [CORNER], "int64"),
        ([RAMP], [CORNER * np.uint8(255)], "Image number 1: expected a mask of bool.*such as 255"),
        ([RAMP], [CORNER[:3]], "mask of the map's shape"),
        ([RAMP], [NORMAL], "at least one defect region"),
    ],
)
def test_bad_input_is_refused(metric: Callable, maps: Maps, masks: Maps, message: str) -> None:
    with pytest.raises(ScoringInputError, match=message):
        metric(maps, masks)


def test_pro_without_a_normal_pixel_or_with_constant_scores_is_refused() -> None:
    with pytest.raises(ScoringInputError, match="at least one normal pixel"):
        legacy_pro([RAMP], [DEFECT])
    with pytest.raises(ScoringInputError, match="no value here"):
        legacy_pro([np.full((4, 4), 0.5)], [CORNER])
    with pytest.raises(ScoringInputError, match=r"in \(0, 1\]"):
        legacy_pro([RAMP], [CORNER], fpr_limit=0.0)


def test_region_f1_of_constant_scores_is_zero() -> None:
    """No score lies above the highest threshold, so nothing is ever called anomalous."""
    found = legacy_region_f1([np.full((4, 4), 0.5)], [CORNER])
    assert (found.value, found.precision, found.recall) == (0.0, 0.0, 0.0)
