"""Two runs over the same images: which is better, and is it more than noise."""

import numpy as np
import pytest
from scipy.stats import norm, t

from eval.category import ScoreCurves
from eval.errors import ScoringInputError
from eval.uncertainty.bootstrap import RESAMPLED, lower_tail, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups
from eval.uncertainty.paired import A_BETTER, B_BETTER, NO_DIFFERENCE, TOO_FEW, Difference, adjust, compare, two_sided_p
from tests.support.resampling import category, counts_of, resampled, scorer_of


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
        drawn = resampled(samples, sizes=[25]), resampled(np.zeros(1000), sizes=[25])
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
