"""Groups of values, and the counts of images by group."""

import numpy as np
import pytest

from eval.category import ScoreCurves
from eval.errors import ScoringInputError
from eval.ranking.curves import RankingCurve
from eval.uncertainty.bootstrap import RESAMPLED, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups
from tests.support.resampling import category, counts_of, scorer_of


def test_groups_lie_close_to_the_exact_metrics():
    images = category(3, 20, 20, side=80)
    exact = scorer_of(images).compute().metrics
    counts = counts_of(images)
    assert np.unique(np.concatenate([image[0].ravel() for image in images])).size > 2 * len(counts.groups)
    estimates = resample(counts, 100).estimates
    for metric in RESAMPLED:
        close = 1e-5 if metric in ("auroc_seg", "pro_seg") else 2e-4
        assert estimates[metric] == pytest.approx(exact[metric], abs=close), metric
    coarse = resample(counts_of(images, 64), 100).estimates
    assert abs(coarse["f1_seg"] - exact["f1_seg"]) > abs(estimates["f1_seg"] - exact["f1_seg"])
    assert coarse["ap_seg"] == pytest.approx(exact["ap_seg"], abs=2e-3)


def test_groups_follow_the_order_of_the_values_and_hold_like_shares():
    images = category(4, side=60)
    groups = choose_groups(scorer_of(images).curves(), 100)
    values = np.sort(np.concatenate([image[0].ravel() for image in images]))[::-1]
    places = groups.of(values).astype(int)
    assert (np.diff(places) >= 0).all()
    assert places[0] == 0
    assert places[-1] == len(groups) - 1 <= 99
    defects = np.concatenate([image[0][image[1]] for image in images])
    share = np.bincount(places, minlength=len(groups)) / values.size
    share += np.bincount(groups.of(defects), minlength=len(groups)) / defects.size
    assert share.max() < 4 * share.mean()
    assert (groups.below[0] <= 0.5).all()
    assert ((groups.below >= 0) & (groups.below <= 1)).all()


def test_sums_over_images_are_whole_numbers_and_exact():
    images = category(6, levels=4)
    counts, weights = counts_of(images), np.arange(2 * len(images), dtype=float).reshape(2, -1)
    sums = counts.weighted(weights)
    for row in range(2):
        defects = [0] * len(counts.groups)
        normals = [0] * len(counts.groups)
        for times, (anomaly_map, mask, _, _) in zip(weights[row].astype(int).tolist(), images, strict=True):
            for place, bad in zip(counts.groups.of(anomaly_map).ravel().tolist(), mask.ravel().tolist(), strict=True):
                (defects if bad else normals)[place] += times
        assert sums.defects[row].tolist() == defects
        assert sums.normals[row].tolist() == normals
    assert (sums.shares * 2**20 % 1 == 0).all()
    np.testing.assert_array_equal(sums.shares.sum(axis=1), sums.num_regions)
    backwards = ImageCounts(counts.groups)
    for image in images[::-1]:
        backwards.add(*image)
    again = backwards.weighted(np.ascontiguousarray(weights[:, ::-1]))
    for name in ("defects", "normals", "shares", "components", "hits"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(again, name))


def test_large_counts_fit():
    anomaly_map = np.zeros((300, 300), dtype=np.float16)
    mask = np.zeros((300, 300), dtype=bool)
    mask[:, :250] = True
    counts = ImageCounts(choose_groups(scorer_of([(anomaly_map, mask, 1.0, 1)]).curves()))
    counts.add(anomaly_map, mask, 1.0)
    sums = counts.weighted(np.array([[30_000.0]]))
    assert (sums.defects.item(), sums.normals.item(), sums.shares.item()) == (2.25e9, 0.45e9, 30_000)


def test_an_image_takes_little_memory():
    images = category(7, 2, 2, side=60)
    counts = ImageCounts(choose_groups(scorer_of(images).curves(), 1000))
    for image in images:
        counts.add(*image)
    sizes = [sum(kept[i].nbytes for kept in counts._counts.values() if kept[i] is not None) for i in range(4)]
    assert sizes == [12 * len(counts.groups)] * 2 + [4 * len(counts.groups)] * 2


def test_images_of_which_nothing_is_known_do_not_count():
    images = category(11)
    unknown = [*images, (images[0][0], None, 5.0, None)]
    counts = counts_of(unknown)
    assert len(counts) == len(images)
    np.testing.assert_array_equal(resample(counts, 100).samples["f1_harmonic"],
                                  resample(counts_of(images), 100).samples["f1_harmonic"])  # fmt: skip


def test_wrong_input_is_named():
    counts = ImageCounts(choose_groups(ScoreCurves(None, None, None, None)))
    with pytest.raises(ScoringInputError, match="bolt"):
        counts.add(np.zeros((4, 4), dtype=np.float16), np.zeros((3, 4), dtype=bool), 0.0, None, "bolt")
    with pytest.raises(ScoringInputError, match="NaN"):
        counts.add(np.full((4, 4), np.nan, dtype=np.float16), np.zeros((4, 4), dtype=bool), 0.0)


def test_values_that_do_not_occur_have_the_group_below_them():
    curve = RankingCurve(np.array([2.0, 1.0]), np.array([1, 2]), np.array([0, 5]))
    groups = choose_groups(ScoreCurves(None, curve, (np.array([0, 0, 1]), np.array([0, 0.5, 1])), None))
    assert groups.of(np.array([2.0, 1.0, 1.5, 9.0, -9.0], dtype=np.float16)).tolist() == [0, 1, 1, 0, 1]
