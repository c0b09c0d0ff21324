"""Draws of images against images really repeated, intervals against their formulas, and paired comparisons."""

import numpy as np
import pytest
from scipy.stats import norm, t

from eval.category import ScoreCurves
from eval.errors import ScoringInputError
from eval.ranking.curves import RankingCurve, curve_from_counts
from eval.regions.pro import WHOLE, pro_from_counts
from eval.regions.region_f1 import RegionCurve
from eval.scorer import Scorer
from eval.uncertainty import bootstrap
from eval.uncertainty.bootstrap import (
    RESAMPLED,
    Resampled,
    auroc_rows,
    average_precision_rows,
    f1_max_rows,
    lower_tail,
    mean_over,
    pro_rows,
    region_f1_rows,
    resample,
)
from eval.uncertainty.image_counts import ImageCounts, choose_groups
from eval.uncertainty.paired import A_BETTER, B_BETTER, NO_DIFFERENCE, TOO_FEW, Difference, adjust, compare, two_sided_p

PIXEL = ("auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_region")


def category(seed=0, normal=6, anomalous=7, side=20, lift=1.0, levels=None):
    """Images (map, mask, score, label): noise with each image's own offset, and lifted rectangles; `levels` rounds."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(normal + anomalous):
        label, mask = int(i < anomalous), np.zeros((side, side), dtype=bool)
        for _ in range(int(rng.integers(1, 3)) * label):
            (top, left), (height, width) = rng.integers(0, side - side // 3, 2), rng.integers(2, side // 3, 2)
            mask[top : top + height, left : left + width] = True
        smooth = rng.normal(size=(side // 2, side // 2)).repeat(2, axis=0).repeat(2, axis=1)
        anomaly_map = smooth / 2 + rng.normal() / 2 + lift * mask
        if levels:
            anomaly_map = np.round(anomaly_map * levels) / levels
        images.append((anomaly_map.astype(np.float16), mask, float(rng.normal() + label), label))
    return images


def scorer_of(images):
    scorer = Scorer()
    for image in images:
        scorer.update(*image)
    return scorer


def counts_of(images, num_groups=2048, region_f1=True):
    counts = ImageCounts(choose_groups(scorer_of(images).curves(), num_groups), region_f1)
    for image in images:
        counts.add(*image)
    return counts


def random_rows(seed, size=30):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, (4, size)).astype(float), rng.integers(0, 9, (4, size)).astype(float)


def test_many_rankings_at_once_are_each_as_one():
    positives, negatives = random_rows(0)
    curves = [
        curve_from_counts(-np.arange(30.0), *counts)
        for counts in zip(positives.astype(int), negatives.astype(int), strict=True)
    ]
    np.testing.assert_allclose(auroc_rows(positives, negatives), [curve.auroc() for curve in curves], rtol=1e-13)
    precision = average_precision_rows(positives, negatives)
    np.testing.assert_allclose(precision, [curve.average_precision() for curve in curves], rtol=1e-13)
    np.testing.assert_allclose(
        f1_max_rows(positives, negatives), [curve.f1_max().value for curve in curves], rtol=1e-13
    )


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pro_of_many_is_that_of_each(limit):
    shares, negatives = random_rows(1)
    shares /= 4
    regions = shares.sum(axis=1)
    got = pro_rows(shares, regions, negatives, limit)
    for row in range(4):
        whole = np.rint(shares[row] / regions[row] * 7 * WHOLE).astype(np.int64)
        assert got[row] == pytest.approx(pro_from_counts(negatives[row].astype(int), whole, 7, limit), abs=1e-10)


def test_region_f1_of_many_is_that_of_each():
    components, hits = np.array([[3.0, -1, 2], [1, 0, 0]]), np.array([[1.0, 1, -2], [0, 0, 0]])
    regions = np.array([4.0, 2.0])
    for row, got in enumerate(region_f1_rows(components, hits, regions)):
        totals = np.cumsum(components[row]).astype(int), np.cumsum(hits[row]).astype(int)
        assert got == RegionCurve(np.array([3.0, 2.0, 1.0]), *totals, int(regions[row])).f1_max().value


def test_a_ranking_without_what_it_needs_is_nan():
    some, none = np.ones((1, 3)), np.zeros((1, 3))
    assert np.isnan(auroc_rows(none, some)[0])
    assert np.isnan(auroc_rows(some, none)[0])
    assert np.isnan(f1_max_rows(none, some)[0])
    assert np.isnan(average_precision_rows(none, some)[0])
    assert np.isnan(pro_rows(none, np.zeros(1), some, 0.3)[0])


def test_with_few_values_nothing_is_lost():
    images = category(levels=8)
    exact = scorer_of(images).compute().metrics
    drawn = resample(counts_of(images), 100)
    assert set(drawn.estimates) == set(RESAMPLED)
    for metric in RESAMPLED:
        assert drawn.estimates[metric] == pytest.approx(exact[metric], abs=1e-6 if metric == "pro_seg" else 1e-12)


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


def test_a_draw_is_scored_as_images_really_repeated():
    images = category(5, levels=16)
    counts = counts_of(images)
    labels = np.array([image[3] for image in images])
    weights = bootstrap._draw(labels, 4, np.random.default_rng(1))
    rows = bootstrap._metrics(counts, weights, 0.3)
    for draw, weight in enumerate(weights.astype(int)):
        repeated = [image for image, times in zip(images, weight, strict=True) for _ in range(times)]
        expected = scorer_of(repeated).compute().metrics
        for metric in RESAMPLED:
            assert rows[metric][draw] == pytest.approx(expected[metric], abs=1e-6), metric


def test_draws_keep_the_number_of_each_kind():
    labels = np.array([0, 1, 1, 0, 0, 1, 1])
    weights = bootstrap._draw(labels, 500, np.random.default_rng(0))
    assert (weights[:, labels == 1].sum(axis=1) == 4).all()
    assert (weights[:, labels == 0].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.15)
    np.testing.assert_allclose(weights.var(axis=0)[labels == 1], 1 - 1 / 4, atol=0.2)


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


def test_the_seed_and_the_labels_alone_decide_the_draws():
    images = category(8)
    one, same, other = (resample(counts_of(images), 150, seed).samples for seed in (3, 3, (3, 1)))
    for metric in RESAMPLED:
        np.testing.assert_array_equal(one[metric], same[metric])
        assert one[metric].shape == (150,)
    assert (one["auroc_seg"] != other["auroc_seg"]).any()
    shifted = [(anomaly_map, mask, 2 * score, label) for anomaly_map, mask, score, label in images]
    np.testing.assert_array_equal(resample(counts_of(shifted), 150, 3).samples["auroc_cls"], one["auroc_cls"])


def of(samples, estimate=0.0, sizes=(1_000_000,)):
    return Resampled({"auroc_cls": samples}, {"auroc_cls": estimate}, {"auroc_cls": tuple(sizes)})


def test_an_interval_of_a_large_set_is_the_percentiles():
    samples = np.random.default_rng(0).normal(size=20_001)
    low, high = of(samples, float(np.median(samples))).interval("auroc_cls")
    assert (low, high) == pytest.approx(tuple(np.quantile(samples, [0.025, 0.975])), abs=0.01)
    low, high = of(samples, float(np.median(samples))).interval("auroc_cls", 0.8)
    assert (low, high) == pytest.approx((-1.28, 1.28), abs=0.05)


def test_small_sets_move_the_percentiles_outwards():
    assert lower_tail(0.95, [10**9]) == pytest.approx(0.025, abs=1e-6)
    assert lower_tail(0.95, [20]) == pytest.approx(norm.cdf(-np.sqrt(20 / 19) * t.ppf(0.975, 19)))
    assert lower_tail(0.9, [10, 30]) == pytest.approx(norm.cdf(-np.sqrt(15 / 14) * t.ppf(0.95, 38)))
    samples = np.random.default_rng(0).normal(size=5000)
    widths = [np.ptp(of(samples, 0.0, [size]).interval("auroc_cls")) for size in (5, 10, 100)]
    assert widths[0] > widths[1] > widths[2]


def test_draws_to_one_side_of_the_estimate_move_the_interval_to_the_other():
    samples = np.random.default_rng(0).normal(0.5, 1, size=20_001)  # 0.5 above the estimate, as an F1-max would be
    low, high = of(samples, 0.0).interval("auroc_cls")
    assert (low, high) == pytest.approx((-1.96 - 0.5, 1.96 - 0.5), abs=0.1)


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_levels_outside_0_and_1_are_refused(level):
    with pytest.raises(ScoringInputError, match=f"got {level}"):
        lower_tail(level, [10])


def test_too_few_resamples_are_refused():
    with pytest.raises(ScoringInputError, match="at least 100 resamples, got 10"):
        resample(counts_of(category()), 10)


def test_without_normal_images_there_are_pixel_metrics_only():
    drawn = resample(counts_of(category(9, normal=0, anomalous=9)), 100)
    assert set(drawn.samples) == set(PIXEL)
    assert drawn.intervals()["auroc_cls"] is None
    assert drawn.intervals()["pro_seg"][0] < drawn.estimates["pro_seg"] < drawn.intervals()["pro_seg"][1]


def test_an_anomalous_image_without_mask_leaves_image_metrics_only():
    images = category(10)
    images[0] = (images[0][0], None, images[0][2], 1)
    drawn = resample(counts_of(images), 100)
    assert set(drawn.samples) == {"auroc_cls", "f1_cls", "ap_cls"}
    exact = scorer_of(images).compute().metrics
    assert {metric for metric in RESAMPLED if exact[metric] is not None} == set(drawn.samples)


def test_images_of_which_nothing_is_known_do_not_count():
    images = category(11)
    unknown = [*images, (images[0][0], None, 5.0, None)]
    counts = counts_of(unknown)
    assert len(counts) == len(images)
    np.testing.assert_array_equal(resample(counts, 100).samples["f1_harmonic"],
                                  resample(counts_of(images), 100).samples["f1_harmonic"])  # fmt: skip


def test_too_few_images_of_a_kind_have_no_interval_and_a_reason():
    drawn = resample(counts_of(category(12, normal=4, anomalous=30)), 100)
    assert drawn.samples == {}
    assert set(drawn.intervals().values()) == {None}
    assert drawn.reasons["pro_seg"] == "30 anomalous and 4 normal images, an interval needs 5 of each"
    assert set(drawn.estimates) == set(RESAMPLED)


def test_region_f1_may_be_left_out():
    drawn = resample(counts_of(category(13), region_f1=False), 100)
    assert set(drawn.samples) == set(RESAMPLED) - {"f1_region"}


def test_normal_pixels_that_some_draws_lack_are_left_out():
    whole = np.ones((6, 6), dtype=bool)
    rng = np.random.default_rng(0)
    images = [(rng.random((6, 6)).astype(np.float16), whole, 1.0, 1) for _ in range(5)]
    part = whole.copy()
    part[:3] = False
    images.append((rng.random((6, 6)).astype(np.float16), part, 1.0, 1))
    drawn = resample(counts_of(images), 200)
    assert np.isnan(drawn.samples["auroc_seg"]).mean() == pytest.approx((5 / 6) ** 6, abs=0.12)
    low, high = drawn.intervals()["auroc_seg"]
    assert 0 <= low <= high <= 1


def test_wrong_input_is_named():
    counts = ImageCounts(choose_groups(ScoreCurves(None, None, None, None)))
    with pytest.raises(ScoringInputError, match="bolt"):
        counts.add(np.zeros((4, 4), dtype=np.float16), np.zeros((3, 4), dtype=bool), 0.0, None, "bolt")
    with pytest.raises(ScoringInputError, match="NaN"):
        counts.add(np.full((4, 4), np.nan, dtype=np.float16), np.zeros((4, 4), dtype=bool), 0.0)


def test_means_average_draw_by_draw_over_the_categories_that_have_the_metric():
    drawn = {str(seed): resample(counts_of(category(seed)), 100, seed) for seed in (1, 2)}
    drawn["no normal"] = resample(counts_of(category(3, normal=0, anomalous=9)), 100)
    mean = mean_over(drawn)
    expected = (drawn["1"].samples["f1_cls"] + drawn["2"].samples["f1_cls"]) / 2
    np.testing.assert_allclose(mean.samples["f1_cls"], expected, rtol=1e-14)
    assert mean.sizes["f1_cls"] == (6, 6)
    assert mean.sizes["pro_seg"] == (6, 6, 9)
    width, widths = np.std(mean.samples["f1_cls"]), [np.std(each.samples["f1_cls"]) for each in drawn.values() if each.samples.get("f1_cls") is not None]  # fmt: skip  # noqa: E501
    assert width == pytest.approx(np.hypot(*widths) / 2, rel=0.3)


def test_a_mean_over_a_category_with_too_few_images_has_no_interval():
    drawn = {"ok": resample(counts_of(category(1)), 100), "few": resample(counts_of(category(2, normal=3)), 100)}
    mean = mean_over(drawn)
    assert mean.samples == {}
    assert mean.reasons["pro_seg"] == "too few images in few"
    assert mean.estimates["pro_seg"] == pytest.approx(np.mean([each.estimates["pro_seg"] for each in drawn.values()]))
    assert mean_over({}).estimates == {}


def two_runs(seed=0, lifts=(1.5, 0.5), number=15):
    runs = [category(seed, number, number, lift=lift) for lift in lifts]
    exact = [scorer_of(images).compute().metrics for images in runs]
    return exact, tuple(resample(counts_of(images), 300, 7) for images in runs)


def test_a_run_against_itself_shows_no_difference():
    exact, drawn = two_runs(lifts=(1.0, 1.0))
    for metric in RESAMPLED:
        found = compare(metric, (exact[0][metric], exact[1][metric]), drawn)
        assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
        assert found.verdict == NO_DIFFERENCE


def test_a_clearly_better_run_is_called_better_either_way_round():
    exact, drawn = two_runs()
    ahead = compare("ap_seg", (exact[0]["ap_seg"], exact[1]["ap_seg"]), drawn)
    behind = compare("ap_seg", (exact[1]["ap_seg"], exact[0]["ap_seg"]), drawn[::-1])
    assert ahead.verdict == A_BETTER
    assert behind.verdict == B_BETTER
    assert ahead.difference == exact[0]["ap_seg"] - exact[1]["ap_seg"] == -behind.difference
    assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low))
    assert 0 < ahead.low < ahead.difference < ahead.high
    assert ahead.p_value == pytest.approx(behind.p_value)


def test_pairing_makes_a_difference_more_certain_than_two_sets_would():
    _, drawn = two_runs(lifts=(1.2, 1.0))
    paired = np.std(drawn[0].samples["auroc_seg"] - drawn[1].samples["auroc_seg"])
    assert paired < np.hypot(*(np.std(each.samples["auroc_seg"]) for each in drawn)) / 2


def test_runs_drawn_differently_are_refused():
    exact, (a, _) = two_runs()
    b = resample(counts_of(category(0, 9, 15)), 300, 7)
    with pytest.raises(ScoringInputError, match="drawn alike"):
        compare("auroc_cls", (0.5, 0.5), (a, b))
    fewer = resample(counts_of(category(0, 15, 15)), 200, 7)
    with pytest.raises(ScoringInputError, match="drawn alike"):
        compare("auroc_cls", (exact[0]["auroc_cls"], 0.5), (a, fewer))


def test_without_draws_there_is_a_difference_and_no_verdict():
    few = resample(counts_of(category(2, normal=3)), 100)
    assert compare("auroc_cls", (0.75, 0.5), (few, few)) == Difference(0.75, 0.5, 0.25)
    assert Difference(0.75, 0.5, 0.25).verdict == TOO_FEW


def test_the_p_value_is_below_5_percent_where_the_interval_leaves_zero_out():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        samples = rng.normal(rng.uniform(0, 4), 1, size=1000)
        drawn = of(samples, sizes=[25]), of(np.zeros(1000), sizes=[25])
        found = compare("auroc_cls", (float(samples.mean()), 0.0), drawn)
        beyond = np.count_nonzero(samples <= 0)
        if abs(beyond - 1000 * lower_tail(0.95, [25])) > 2:  # not within a rank of the border
            seen.add(found.p_value < 0.05)
            assert (found.p_value < 0.05) == (found.low > 0)
    assert seen == {True, False}


def test_p_values_follow_student_where_the_draws_cannot_tell():
    samples = np.random.default_rng(0).normal(6, 1, size=1000)
    expected = 2 * t.sf(6 / samples.std() / np.sqrt(20 / 19), 19)
    assert two_sided_p(6.0, samples, [20]) == pytest.approx(expected)
    assert two_sided_p(-6.0, -samples, [20]) == pytest.approx(expected)
    skewed = np.random.default_rng(0).uniform(0.1, 5, size=1000)  # Student's t would be 1.8
    one_beyond = norm.isf(1 / 1001) * np.sqrt(19 / 20)
    assert two_sided_p(2.5, skewed, [20]) == pytest.approx(2 * t.sf(one_beyond, 19))
    near = np.random.default_rng(0).normal(1, 1, size=100_000)
    assert two_sided_p(1.0, near, [10**6]) == pytest.approx(2 * norm.sf(1), abs=0.01)
    assert two_sided_p(0.5, np.full(1000, 0.5), [20]) == 1e-6
    assert two_sided_p(0.0, np.zeros(1000), [20]) == 1


def test_holms_rule_by_hand():
    by_name = {name: Difference(0.6, 0.5, 0.1, 0.0, 0.2, p, p) for name, p in zip("abcd", (0.01, 0.04, 0.03, 0.02), strict=True)}  # fmt: skip  # noqa: E501
    by_name["few"] = Difference(0.6, 0.5, 0.1)
    adjusted = adjust(by_name)
    got = [adjusted[name].p_adjusted for name in "adcb"]
    assert got == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert [adjusted[name].verdict for name in "abcd"] == [A_BETTER, *[NO_DIFFERENCE] * 3]
    assert adjusted["few"] == by_name["few"]
    assert list(adjusted) == list(by_name)
    assert adjust(by_name, level=0.9)["b"].verdict == A_BETTER


@pytest.mark.slow
def test_equally_good_runs_are_rarely_told_apart_and_intervals_mostly_hold_the_truth():
    """A quick form of benchmarks/bootstrap_coverage.py, on image scores alone."""
    rng = np.random.default_rng(0)
    blank, labels, told_apart, held = np.zeros((1, 1), dtype=np.float16), np.arange(60) < 30, 0, 0
    truth, rounds = norm.cdf(1 / np.sqrt(2)), 300
    for seed in range(rounds):
        shared = rng.normal(size=60)
        drawn = []
        for _ in range(2):
            counts = ImageCounts(choose_groups(ScoreCurves(None, None, None, None)), region_f1=False)
            for score, label in zip(labels + np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=60), labels, strict=True):  # fmt: skip  # noqa: E501
                counts.add(blank, None, score, int(label))
            drawn.append(resample(counts, 400, seed))
        estimates = drawn[0].estimates["auroc_cls"], drawn[1].estimates["auroc_cls"]
        told_apart += compare("auroc_cls", estimates, tuple(drawn)).verdict != NO_DIFFERENCE
        low, high = drawn[0].interval("auroc_cls")
        held += low <= truth <= high
    assert 0.02 <= told_apart / rounds <= 0.08
    assert 0.92 <= held / rounds <= 0.98


def test_values_that_do_not_occur_have_the_group_below_them():
    curve = RankingCurve(np.array([2.0, 1.0]), np.array([1, 2]), np.array([0, 5]))
    groups = choose_groups(ScoreCurves(None, curve, (np.array([0, 0, 1]), np.array([0, 0.5, 1])), None))
    assert groups.of(np.array([2.0, 1.0, 1.5, 9.0, -9.0], dtype=np.float16)).tolist() == [0, 1, 1, 0, 1]
