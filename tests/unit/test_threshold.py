"""Thresholds from references: the stated false-alarm rates hold on draws whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from models.errors import ModelInputError
from tracks.errors import TrackInputError
from tracks.threshold import LARGEST_SPREAD_FACTOR, fit_threshold, known_threshold, leave_one_out


def false_alarms(draw, count, target, trials=4000):
    """How often one more good score than the `count` references is called a defect."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(trials):
        scores = draw(rng, count + 1)
        alarms += fit_threshold(scores[:-1], target).is_defect(scores[-1])
    return alarms / trials


def gaussian(rng, count):
    return rng.normal(0.3, 0.05, count)


def skewed(rng, count):
    return rng.lognormal(-2, 1, count)


def test_conformal_takes_the_order_statistic():
    scores = np.arange(1, 20) / 20  # 19 references: the 5 % rule is their maximum
    threshold = fit_threshold(scores, 0.05)
    assert threshold.value == np.nextafter(np.float32(0.95), np.float32(1))
    assert threshold.false_alarm_rate == pytest.approx(1 / 20)
    assert fit_threshold(scores, 0.25).value == np.nextafter(np.float32(0.75), np.float32(1))
    assert fit_threshold(scores, 0.25).false_alarm_rate == pytest.approx(0.25)
    assert "conformal, number 19 of 19" in threshold.source


@pytest.mark.parametrize("draw", [gaussian, skewed])
@pytest.mark.parametrize("count", [19, 40])
def test_conformal_keeps_its_rate_whatever_the_distribution(draw, count):
    stated = fit_threshold(draw(np.random.default_rng(1), count)).false_alarm_rate
    assert stated <= 0.05 + 1e-9
    assert false_alarms(draw, count, 0.05) == pytest.approx(stated, abs=0.012)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_few_references_keep_the_rate_on_gaussian_scores(count):
    stated = fit_threshold(gaussian(np.random.default_rng(1), count)).false_alarm_rate
    assert stated == pytest.approx(0.05)
    assert false_alarms(gaussian, count, 0.05) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_few_references_never_exceed_the_distribution_free_bound(count):
    assert false_alarms(skewed, count, 0.2 if count == 2 else 0.08) <= 1 / (count + 1) + 0.02


def test_student_rule_written_out():
    scores = [0.2, 0.3, 0.25, 0.45]
    factor = stats.t.ppf(0.95, 3) * (1 + 1 / 4) ** 0.5
    threshold = fit_threshold(scores, 0.05)
    assert threshold.value == pytest.approx(np.mean(scores) + factor * np.std(scores, ddof=1), rel=1e-6)
    assert threshold.highest_normal == 0.45
    assert f"mean + {factor:.2f} standard deviations of 4" in threshold.source
    assert "at most 20%" in threshold.source


def test_two_references_state_the_rate_of_the_capped_factor():
    threshold = fit_threshold([0.2, 0.3], 0.05)
    assert threshold.value == pytest.approx(0.25 + LARGEST_SPREAD_FACTOR * 0.1 / 2**0.5, rel=1e-6)
    assert threshold.false_alarm_rate == pytest.approx(stats.t.sf(LARGEST_SPREAD_FACTOR / 1.5**0.5, 1))
    assert threshold.false_alarm_rate > 0.05


def test_one_reference_says_that_it_is_a_convention():
    threshold = fit_threshold([0.4])
    assert threshold.value == pytest.approx(0.5)
    assert threshold.false_alarm_rate == 0.5
    assert "only reference" in threshold.source
    assert fit_threshold([-0.4]).value == pytest.approx(-0.3)


@pytest.mark.parametrize("scores", [[0.4], [0.4, 0.4], [0.4] * 30])
def test_a_photo_equal_to_a_reference_is_no_defect(scores):
    assert not fit_threshold(scores).is_defect(max(scores))


def test_unsure_lies_between_threshold_and_highest_reference():
    few = fit_threshold([0.2, 0.3, 0.25, 0.45])  # the threshold is above the references
    assert [few.is_unsure(score) for score in (0.44, 0.46, few.value - 1e-6, few.value + 1e-6)] == [0, 1, 1, 0]
    many = fit_threshold(np.arange(1, 20) / 20, 0.25)  # the threshold cuts into the references
    assert [many.is_unsure(score) for score in (0.7, 0.8, 0.94, 0.96)] == [0, 1, 1, 0]
    assert not known_threshold(0.3, "x").is_unsure(0.3)


@pytest.mark.parametrize("scores", [[], [float("nan")], [0.3, float("inf")]])
def test_scores_without_a_meaning_are_refused(scores):
    with pytest.raises(TrackInputError, match="finite scores of one or more references"):
        fit_threshold(scores)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 5])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(TrackInputError, match="false-alarm rate between 0 and 1"):
        fit_threshold([0.3, 0.4], rate)


def test_without_references_the_weights_decide_and_else_a_stated_convention():
    assert known_threshold(0.37, "F1-max on held-out categories").value == 0.37
    assert "F1-max on held-out categories" in known_threshold(0.37, "F1-max on held-out categories").source
    fallback = known_threshold(None, "")
    assert (fallback.value, fallback.false_alarm_rate) == (0.5, None)
    assert "convention" in fallback.source
    assert fallback.is_defect(0.5)
    assert not fallback.is_defect(0.499)


def mixed(rng, count):
    """Nine good scores of ten around 0.3, the tenth around 1: two kinds of good images."""
    return np.where(rng.random(count) < 0.1, 1.0, 0.3) + rng.normal(0, 0.05, count)


def mean_rate(draw, count, target, trials=600, new=200):
    """The false-alarm rate on many new good images, averaged over many draws of `count` references."""
    rng = np.random.default_rng(5)
    shares = [(draw(rng, new) >= fit_threshold(draw(rng, count), target).value).mean() for _ in range(trials)]
    return float(np.mean(shares))


@pytest.mark.parametrize("draw", [gaussian, skewed, mixed])
@pytest.mark.parametrize(("count", "target"), [(20, 0.05), (39, 0.05), (100, 0.05), (20, 0.2), (150, 0.01)])
def test_from_20_references_on_the_real_rate_is_near_the_target_and_not_above_it(draw, count, target):
    real = mean_rate(draw, count, target)
    assert target - 1 / (count + 1) - 0.006 <= real <= target + 0.006


@pytest.mark.parametrize("draw", [gaussian, skewed, mixed])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 12, 18])
def test_with_few_references_the_real_rate_stays_below_1_in_k_plus_1(draw, count):
    assert mean_rate(draw, count, 0.05) <= 1 / (count + 1) + 0.015


def test_references_that_score_higher_than_new_images_only_lower_the_rate():
    """Leave-one-out scores are of K - 1 references each, so they lie above the scores of new images."""

    def real(shift):
        rng = np.random.default_rng(7)
        return np.mean([gaussian(rng, 1)[0] >= fit_threshold(gaussian(rng, 4) + shift).value for _ in range(1000)])

    assert real(0.02) < real(0.0) < 0.075


def test_a_model_that_cannot_score_its_references_is_named():
    class Blind:
        def reference_prediction(self, category):
            raise ModelInputError("there is no second image")

    with pytest.raises(TrackInputError, match=r"Blind does not \(there is no second image\)"):
        leave_one_out(Blind(), "nut")


def test_scores_that_are_probabilities_never_ask_for_more_than_one():
    threshold = fit_threshold([0.55, 0.8, 0.7, 0.9], 0.05, probabilities=True)
    assert 0.9 < threshold.value < 1
    assert "log odds" in threshold.source
    assert fit_threshold([0.55, 0.8, 0.7, 0.9], 0.05).value > 1
    assert 0.9 < fit_threshold([0.9], probabilities=True).value < 1
    assert fit_threshold([1.0, 0.2], probabilities=True).value == np.nextafter(np.float32(1), np.float32(2))


def test_one_odd_reference_asks_for_no_wider_margin_than_a_single_one():
    scores = [0.287, 0.433, 0.446, 0.891]
    threshold = fit_threshold(scores, 0.05, probabilities=True)
    assert threshold.value == pytest.approx(fit_threshold([0.891], probabilities=True).value, abs=1e-6)
    odds = np.log(np.array(scores) / (1 - np.array(scores)))
    value = np.log(threshold.value / (1 - threshold.value))
    t = (value - odds.mean()) / odds.std(ddof=1) / np.sqrt(1.25)
    assert threshold.false_alarm_rate == pytest.approx(stats.t.sf(t, 3), rel=1e-3)
    assert 0.05 < threshold.false_alarm_rate < 0.2
    assert threshold.highest_normal == 0.891
    alike = fit_threshold([0.40, 0.43, 0.44, 0.45], 0.05, probabilities=True)  # a small spread: Student's interval
    assert 0.45 < alike.value < fit_threshold([0.45], probabilities=True).value
    assert "standard deviations" in alike.source


def test_the_order_statistic_is_the_same_for_probabilities():
    scores = np.random.default_rng(0).uniform(0.1, 0.9, 40)
    plain, odds = fit_threshold(scores, 0.1), fit_threshold(scores, 0.1, probabilities=True)
    assert odds.value == pytest.approx(plain.value, abs=1e-6)
    assert (scores >= odds.value).sum() == (scores >= plain.value).sum()
