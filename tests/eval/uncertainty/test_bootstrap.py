"""Draws of images against images really repeated, and intervals against their formulas."""

import numpy as np
import pytest
from scipy.stats import norm, t

from eval.errors import ScoringInputError
from eval.uncertainty import bootstrap
from eval.uncertainty.bootstrap import (
    RESAMPLED,
    auroc_rows,
    average_precision_rows,
    f1_max_rows,
    lower_tail,
    mean_over,
    pro_rows,
    resample,
)  # fmt: skip
from tests.support.resampling import category, counts_of, resampled, scorer_of

PIXEL = ("auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_region")


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


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_draw_is_scored_as_images_really_repeated(limit):
    images = category(5, levels=16)
    counts = counts_of(images)
    labels = np.array([image[3] for image in images])
    weights = bootstrap._draw(labels, 4, np.random.default_rng(1))
    rows = bootstrap._metrics(counts, weights, limit)
    for draw, weight in enumerate(weights.astype(int)):
        repeated = [image for image, times in zip(images, weight, strict=True) for _ in range(times)]
        expected = scorer_of(repeated, limit).compute().metrics
        for metric in RESAMPLED:
            assert rows[metric][draw] == pytest.approx(expected[metric], abs=1e-6), metric


def test_draws_keep_the_number_of_each_kind():
    labels = np.array([0, 1, 1, 0, 0, 1, 1])
    weights = bootstrap._draw(labels, 500, np.random.default_rng(0))
    assert (weights[:, labels == 1].sum(axis=1) == 4).all()
    assert (weights[:, labels == 0].sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.15)
    np.testing.assert_allclose(weights.var(axis=0)[labels == 1], 1 - 1 / 4, atol=0.2)


def test_the_seed_and_the_labels_alone_decide_the_draws():
    images = category(8)
    one, same, other = (resample(counts_of(images), 150, seed).samples for seed in (3, 3, (3, 1)))
    for metric in RESAMPLED:
        np.testing.assert_array_equal(one[metric], same[metric])
        assert one[metric].shape == (150,)
    assert (one["auroc_seg"] != other["auroc_seg"]).any()
    shifted = [(anomaly_map, mask, 2 * score, label) for anomaly_map, mask, score, label in images]
    np.testing.assert_array_equal(resample(counts_of(shifted), 150, 3).samples["auroc_cls"], one["auroc_cls"])


def test_an_interval_of_a_large_set_is_the_percentiles():
    samples = np.random.default_rng(0).normal(size=20_001)
    low, high = resampled(samples, float(np.median(samples))).interval("auroc_cls")
    assert (low, high) == pytest.approx(tuple(np.quantile(samples, [0.025, 0.975])), abs=0.01)
    low, high = resampled(samples, float(np.median(samples))).interval("auroc_cls", 0.8)
    assert (low, high) == pytest.approx((-1.28, 1.28), abs=0.05)


def test_small_sets_move_the_percentiles_outwards():
    assert lower_tail(0.95, [10**9]) == pytest.approx(0.025, abs=1e-6)
    assert lower_tail(0.95, [20]) == pytest.approx(norm.cdf(-np.sqrt(20 / 19) * t.ppf(0.975, 19)))
    assert lower_tail(0.9, [10, 30]) == pytest.approx(norm.cdf(-np.sqrt(15 / 14) * t.ppf(0.95, 38)))
    samples = np.random.default_rng(0).normal(size=5000)
    widths = [np.ptp(resampled(samples, 0.0, [size]).interval("auroc_cls")) for size in (5, 10, 100)]
    assert widths[0] > widths[1] > widths[2]


def test_draws_to_one_side_of_the_estimate_move_the_interval_to_the_other():
    samples = np.random.default_rng(0).normal(0.5, 1, size=20_001)  # 0.5 above the estimate, as an F1-max would be
    low, high = resampled(samples, 0.0).interval("auroc_cls")
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
