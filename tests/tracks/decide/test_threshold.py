"""Thresholds from references: the stated false-alarm rates hold on draws whose truth is known."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from models.base import Prediction
from models.errors import ModelInputError
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED, NoLeaveOneOut, known_threshold, leave_one_out
from tracks.decide.threshold_fit import fit_threshold, reference_threshold
from tracks.decide.threshold_folder import folder_threshold
from tracks.errors import TrackInputError


def gaussian(rng, count):
    return rng.normal(0.3, 0.05, count)


def skewed(rng, count):
    return rng.lognormal(-2, 1, count)


def mixed(rng, count):
    """Nine good scores of ten around 0.3, the tenth around 1: two kinds of good images."""
    return np.where(rng.random(count) < 0.1, 1.0, 0.3) + rng.normal(0, 0.05, count)


def mean_rate(draw, count, target, trials=300, new=200):
    """The false-alarm rate on many new good images, averaged over many draws of `count` references; and by how much it
    may be higher, as good references were taken for odd.
    """
    rng = np.random.default_rng(5)
    fits = [fit_threshold(draw(rng, count), target) for _ in range(trials)]
    shares = [(draw(rng, new) >= found.value).mean() for found in fits]
    return float(np.mean(shares)), float(np.mean([len(found.odd_references) for found in fits])) / (count + 1)


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
    real, more = mean_rate(draw, count, 0.05)
    assert real == pytest.approx(stated, abs=0.017)
    assert more < 0.1 / (count + 1), "few good references are taken for odd"


def usual(rng, count):
    """Probabilities that scatter as is usual on photographs."""
    return special.expit(rng.normal(-0.5, 0.6, count))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_few_references_keep_the_rate_on_scores_that_scatter_as_usual(count):
    rng = np.random.default_rng(0)
    alarms = [np.mean(usual(rng, 50) >= fit_threshold(usual(rng, count), 0.05, True).value) for _ in range(600)]
    assert 0.01 < np.mean(alarms) < 0.06


def predictive(scores, spread, freedom, rate=0.05):
    """The rule written out for scores on their scale."""
    factor = stats.t.ppf(1 - rate, freedom) * np.sqrt(1 + 1 / len(scores))
    return np.mean(scores) + factor * spread


def test_the_prediction_interval_written_out():
    scores = [0.2, 0.3, 0.25, 0.45]
    odds = special.logit(scores)
    spread = np.sqrt((4 * 0.6**2 + 3 * np.var(odds, ddof=1)) / 7)
    threshold = fit_threshold(scores, 0.05, probabilities=True)
    assert special.logit(threshold.value) == pytest.approx(predictive(odds, spread, 7), rel=1e-6)
    assert threshold.highest_normal == 0.45
    assert threshold.false_alarm_rate == 0.05
    assert threshold.reference_scores == (0.2, 0.3, 0.25, 0.45)
    assert "4 references as log odds" in threshold.source
    assert "at most 20% if not" in threshold.source


def test_scores_that_are_no_probabilities_are_fitted_by_their_logarithms_whatever_their_unit():
    scores = np.array([2.0, 3.0, 2.5, 4.5])
    logs = np.log(scores)
    spread = np.sqrt((4 * 0.15**2 + 3 * np.var(logs, ddof=1)) / 7)
    threshold = fit_threshold(scores)
    assert np.log(threshold.value) == pytest.approx(predictive(logs, spread, 7), rel=1e-6)
    assert fit_threshold(1e-4 * scores).value == pytest.approx(1e-4 * threshold.value, rel=1e-6)


def test_scores_of_either_sign_have_no_usual_spread_and_take_students_interval():
    scores = np.array([-1.0, 0.0, -0.5, 1.5])
    threshold = fit_threshold(scores)
    assert threshold.value == pytest.approx(predictive(scores, scores.std(ddof=1), 3), rel=1e-6)
    assert "usual on photographs" not in threshold.source
    assert fit_threshold([-0.4]).value == pytest.approx(predictive([-0.4], 0.15 * 0.4, 4), rel=1e-6)
    assert fit_threshold([0.0, 0.0, 0.0, 0.0, 1.0]).odd_references == (), "nothing to tell by how far it is out"
    assert fit_threshold([0.0]).undecided


def test_one_reference_leans_on_the_spread_that_is_usual_alone():
    threshold = fit_threshold([0.4], probabilities=True)
    assert special.logit(threshold.value) == pytest.approx(predictive([special.logit(0.4)], 0.6, 4), rel=1e-6)
    assert "at most 50% if not" in threshold.source
    assert [threshold.verdict(score) for score in (0.4, 0.41, threshold.value)] == [GOOD, UNDECIDED, DEFECT]


def test_a_common_spread_makes_thresholds_of_four_references_steadier_than_their_own_four_numbers():
    rng = np.random.default_rng(3)
    draws = special.expit(rng.normal(-0.5, 0.6, (500, 4)))
    odds = special.logit(draws)
    student = odds.mean(axis=1) + stats.t.ppf(0.95, 3) * np.sqrt(1.25) * odds.std(axis=1, ddof=1)
    ours = special.logit([fit_threshold(draw, 0.05, True).value for draw in draws])
    assert ours.std() < 0.7 * student.std()
    assert ours.mean() < student.mean() - 0.1


def test_several_scores_of_a_reference_narrow_the_threshold_where_they_show_the_spread():
    """Sixteen views of each of two references that differ little: as good as many references that do."""
    rng = np.random.default_rng(0)
    views = special.expit(rng.normal(-0.5, 0.2, (2, 16)))
    alone = fit_threshold(views[:, 0], 0.05, True)
    owners = np.repeat([0, 1], 16)
    together = fit_threshold(views.ravel(), 0.05, True, references=owners)
    assert together.value < alone.value
    assert special.logit(together.value) == pytest.approx(-0.5 + 1.7 * np.sqrt(1.5) * 0.25, abs=0.25)
    assert together.highest_normal == views[:, 0].max()
    assert "2 references (32 scores)" in together.source
    shuffled = rng.permutation(32)[np.argsort(rng.permutation(32))]
    first = [np.flatnonzero(owners[shuffled] == owner)[0] for owner in (0, 1)]
    again = fit_threshold(views.ravel()[shuffled], 0.05, True, references=owners[shuffled])
    assert again.highest_normal == float(views.ravel()[shuffled][first].max()), (
        "the first score of each is the image itself"
    )


def test_views_that_say_nothing_new_change_nothing_much():
    """Copies of a score have no spread within: what is left is that between the references."""
    scores = [0.2, 0.3, 0.25, 0.45]
    copies = np.repeat(scores, 5)
    owners = np.repeat(np.arange(4), 5)
    again = fit_threshold(copies, 0.05, True, references=owners)
    assert again.value == pytest.approx(fit_threshold(scores, 0.05, True).value, rel=1e-6)


def test_views_of_a_single_reference_do_not_stand_for_other_parts():
    views = special.logit([0.3, 0.31, 0.29])
    threshold = fit_threshold(special.expit(views), 0.05, True, references=[0, 0, 0])
    assert special.logit(threshold.value) == pytest.approx(predictive([views.mean()], 0.6, 4), rel=1e-6)


def test_the_rate_holds_with_views_of_few_references():
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(600):
        of_references = rng.normal(-0.5, 0.5, (4, 1))
        views = special.expit(of_references + rng.normal(0, 0.3, (4, 6)))
        threshold = fit_threshold(views.ravel(), 0.05, True, references=np.repeat(np.arange(4), 6))
        new = special.expit(rng.normal(-0.5, np.hypot(0.5, 0.3), 100))
        alarms.append(np.mean(new >= threshold.value))
    assert 0.02 < np.mean(alarms) < 0.065


@pytest.mark.parametrize("scores", [[0.4, 0.4], [0.4] * 30, [0.0, 0.0, 0.0], [0.4, 0.4 + 1e-7, 0.4], [-1.0, -1.0]])
@pytest.mark.parametrize("probabilities", [False, True])
def test_references_that_score_the_same_but_for_rounding_give_no_verdict(scores, probabilities):
    threshold = fit_threshold(scores, probabilities=probabilities and min(scores) >= 0)
    assert "copies of one another" in threshold.undecided
    assert {threshold.verdict(score) for score in (-5.0, min(scores), max(scores), max(scores) + 1e-7, 5.0)} == {
        UNDECIDED
    }


def test_a_score_above_every_reference_and_below_the_threshold_is_undecided():
    assert fit_threshold([0.40, 0.41, 0.42]).undecided == ""
    assert fit_threshold([0.4]).verdict(0.4) == GOOD, "a photo equal to a reference is no defect"
    few = fit_threshold([0.2, 0.3, 0.25, 0.45])  # the threshold is above the references
    verdicts = [few.verdict(score) for score in (0.44, 0.45, 0.46, few.value - 1e-6, few.value + 1e-6)]
    assert verdicts == [GOOD, GOOD, UNDECIDED, UNDECIDED, DEFECT]
    assert [few.is_unsure(score) for score in (0.44, 0.46, few.value - 1e-6, few.value + 1e-6)] == [0, 1, 1, 0]
    many = fit_threshold(np.arange(1, 20) / 20, 0.25)  # the threshold cuts into the references
    assert [many.verdict(score) for score in (0.7, 0.8, 0.94, 0.96)] == [GOOD, DEFECT, DEFECT, DEFECT]
    assert [many.is_unsure(score) for score in (0.7, 0.8, 0.94, 0.96)] == [0, 1, 1, 0]
    known = known_threshold(0.3, "x")
    assert [known.verdict(score) for score in (0.29, 0.3)] == [GOOD, DEFECT]
    assert not known.is_unsure(0.3)


def test_a_threshold_next_to_the_highest_possible_score_finds_nothing_and_says_so():
    threshold = fit_threshold([0.97, 0.98, 0.985], 0.05, probabilities=True)
    assert "finds no defect" in threshold.undecided
    assert [threshold.verdict(score) for score in (0.5, 0.98, 0.986, 0.9999)] == [GOOD, GOOD, UNDECIDED, UNDECIDED]
    assert fit_threshold([0.97, 0.98, 0.985], 0.05).undecided == "", "scores without a ceiling have room above"
    assert fit_threshold([1.0, 1.0 - 2e-3], probabilities=True).undecided


@pytest.mark.parametrize(
    ("scores", "rate", "said"),
    [
        *(([*scores], 0.05, "finite scores of one or more references") for scores in ((), (np.nan,), (0.3, np.inf))),
        *(([0.3, 0.4], rate, "false-alarm rate between 0 and 1") for rate in (0, 1, -0.1, 5)),
    ],
)
def test_scores_and_rates_without_a_meaning_are_refused(scores, rate, said):
    with pytest.raises(TrackInputError, match=said):
        fit_threshold(scores, rate)


def test_without_references_the_weights_decide_and_else_a_stated_convention():
    assert known_threshold(0.37, "F1-max on held-out categories").value == 0.37
    assert "F1-max on held-out categories" in known_threshold(0.37, "F1-max on held-out categories").source
    fallback = known_threshold(None, "")
    assert (fallback.value, fallback.false_alarm_rate) == (0.5, None)
    assert "convention" in fallback.source
    assert fallback.is_defect(0.5)
    assert not fallback.is_defect(0.499)


@pytest.mark.parametrize("draw", [gaussian, skewed, mixed])
@pytest.mark.parametrize(("count", "target"), [(20, 0.05), (39, 0.05), (100, 0.05), (20, 0.2), (150, 0.01)])
def test_from_20_references_on_the_real_rate_is_near_the_target_and_not_above_it(draw, count, target):
    real, more = mean_rate(draw, count, target)
    assert target - 1 / (count + 1) - 0.008 <= real <= target + more + 0.012


@pytest.mark.parametrize("draw", [gaussian, skewed, mixed])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 18])
def test_with_few_references_the_real_rate_stays_below_1_in_k_plus_1(draw, count):
    for target in (0.05, 0.08):
        real, more = mean_rate(draw, count, target)
        assert real <= max(target, 1 / (count + 1)) + more + 0.02
        assert draw is mixed or more <= 0.2 / (count + 1)


def test_references_that_score_higher_than_new_images_only_lower_the_rate():
    """Leave-one-out scores are of K - 1 references each, so they lie above the scores of new images."""

    def real(shift):
        rng = np.random.default_rng(7)
        return np.mean([gaussian(rng, 1)[0] >= fit_threshold(gaussian(rng, 4) + shift).value for _ in range(400)])

    assert real(0.02) < real(0.0) < 0.075


def test_a_model_that_cannot_score_its_references_is_named():
    class Blind:
        def reference_prediction(self, category):
            raise ModelInputError("there is no second image")

    with pytest.raises(NoLeaveOneOut, match=r"Blind does not \(there is no second image\)"):
        leave_one_out(Blind(), "nut")


def test_a_reference_that_does_not_read_is_no_fault_of_the_model():
    class Reading:
        def reference_prediction(self, category):
            raise TrackInputError("expected a picture in good-40.png")

    with pytest.raises(TrackInputError, match="good-40") as caught:
        leave_one_out(Reading(), "nut")
    assert not isinstance(caught.value, NoLeaveOneOut)


def test_scores_that_are_probabilities_never_ask_for_more_than_one():
    threshold = fit_threshold([0.55, 0.8, 0.7, 0.9], 0.05, probabilities=True)
    assert 0.9 < threshold.value < 1
    assert "log odds" in threshold.source
    assert fit_threshold([0.55, 0.8, 0.7, 0.9], 0.05).value > 1
    assert 0.9 < fit_threshold([0.9], probabilities=True).value < 1


SHADOWED = [
    0.89, 0.57, 0.52, 0.47, 0.44, 0.41, 0.38, 0.36, 0.35, 0.33, 0.33, 0.31, 0.30, 0.28, 0.27, 0.26, 0.25, 0.22, 0.2,
]  # fmt: skip


@pytest.mark.parametrize("extra", [[], [0.3, 0.34]])
def test_one_odd_reference_is_named_and_does_not_disable_the_verdict(extra):
    scores = [*SHADOWED, *extra]
    names = [f"normal-{number}.jpg" for number in range(len(scores))]
    threshold = fit_threshold(scores, 0.05, probabilities=True, names=names)
    without = fit_threshold(scores[1:], 0.05, probabilities=True, names=names[1:])
    assert threshold.odd_references == ("normal-0.jpg",)
    assert threshold.remarks == ["normal-0.jpg scores like a defect: look at it or leave it out"]
    assert (threshold.value, threshold.highest_normal) == (without.value, 0.57)
    assert threshold.value < 0.8
    assert threshold.verdict(0.89) == DEFECT
    assert "if normal-0.jpg is good after all" in threshold.source


def test_of_four_references_an_odd_one_is_named_too():
    threshold = fit_threshold([0.287, 0.433, 0.446, 0.96], 0.05, probabilities=True)
    assert threshold.odd_references == ("reference 4",)
    assert threshold.value == fit_threshold([0.287, 0.433, 0.446], 0.05, probabilities=True).value
    assert fit_threshold([0.287, 0.433, 0.446, 0.7], 0.05, probabilities=True).odd_references == ()
    assert fit_threshold([0.3, 0.3, 0.96], 0.05, probabilities=True).odd_references == (), "two do not outvote a third"


def test_more_than_a_few_that_score_high_are_another_kind_of_good():
    scores = [0.3, 0.31, 0.28, 0.35, 0.33, 0.29, 0.32, 0.94, 0.95]
    assert fit_threshold(scores, 0.05, probabilities=True).odd_references == ()
    assert fit_threshold(scores[:-1], 0.05, probabilities=True).odd_references == ("reference 8",)


@pytest.mark.parametrize("count", [4, 8, 20])
def test_a_good_reference_is_seldom_taken_for_odd(count):
    rng = np.random.default_rng(2)
    fits = [fit_threshold(special.expit(rng.normal(-0.5, 0.6, count)), 0.05, True) for _ in range(400)]
    assert np.mean([bool(found.odd_references) for found in fits]) < 0.03


def test_a_threshold_above_every_photo_and_references_above_nearly_all_is_withdrawn():
    """Left out of four, the references score 0.59 to 0.75; the photos, defects among them, reach 0.60."""
    threshold = fit_threshold([0.59, 0.66, 0.7, 0.75], 0.05, probabilities=True)
    photos = np.linspace(0.3, 0.6, 40)
    assert {threshold.verdict(score) for score in photos} <= {GOOD, UNDECIDED}
    seen = threshold.after(photos)
    assert {seen.verdict(score) for score in photos} == {UNDECIDED}
    assert "this threshold finds nothing" in seen.undecided
    assert "0.59 to 0.75" in seen.undecided
    assert threshold.after(photos[:9]) == threshold, "nine photos show nothing"
    assert threshold.after([*photos, 0.95]) == threshold, "it found one"
    assert seen.remarks == [f"no verdict: {threshold.contradiction(photos)}"]
    lower = fit_threshold([0.3, 0.36, 0.4, 0.42], 0.05, probabilities=True)
    assert lower.after(photos) == lower, "good photos score as the references do"
    known = known_threshold(0.9, "x")
    assert known.after(photos) == known


def test_references_that_differ_by_rounding_alone_beside_the_photos_give_no_verdict():
    threshold = fit_threshold([4e-6, 1e-6, 3e-6])
    assert threshold.undecided == ""
    seen = threshold.after(np.linspace(100, 200, 20))
    assert seen.undecided
    assert seen.verdict(150.0) == UNDECIDED


def photos_of(rng, good, bad):
    odds = [rng.normal(-0.5, 0.6, good), rng.normal(3.0, 0.6, bad)]
    return special.expit(np.concatenate(odds))


@pytest.mark.parametrize(
    ("bad", "rate", "recall"), [(0, (0.03, 0.055), 1), (4, (0.0, 0.04), 0.9), (12, (0.0, 0.05), 0.9)]
)
def test_a_threshold_from_the_folder_keeps_its_rate_and_finds_a_minority_of_defects(bad, rate, recall):
    rng = np.random.default_rng(4)
    alarms, found = [], []
    for _ in range(200):
        scores = photos_of(rng, 40 - bad, bad)
        threshold = folder_threshold(scores, 0.05, probabilities=True)
        called = scores >= threshold.value
        alarms.append(called[: 40 - bad].mean())
        found += called[40 - bad :].tolist()
    assert rate[0] <= np.mean(alarms) <= rate[1]
    assert not found or np.mean(found) >= recall
    assert "transductive" in threshold.source
    assert ("if most photos are good" in threshold.source) == (bad < 12)


@pytest.mark.parametrize("bad", [10, 20, 30])
@pytest.mark.parametrize("probabilities", [True, False])
def test_two_groups_of_photos_are_told_apart_however_many_are_defects(bad, probabilities):
    rng = np.random.default_rng(4)
    alarms, found = [], []
    for _ in range(100):
        scores = photos_of(rng, 40 - bad, bad)
        scores = scores if probabilities else scores / (1 - scores)
        threshold = folder_threshold(scores, 0.05, probabilities)
        called = scores >= threshold.value
        alarms.append(called[: 40 - bad].mean())
        found.append(called[40 - bad :].mean())
    assert np.mean(alarms) <= 0.055
    assert np.mean(found) >= 0.97
    assert f"the lower {40 - bad} of two groups" in threshold.source


@pytest.mark.parametrize("draw", [gaussian, skewed, usual])
def test_photos_of_one_kind_are_seldom_taken_for_two_groups(draw):
    rng = np.random.default_rng(3)
    sources = [folder_threshold(draw(rng, 50)).source for _ in range(200)]
    assert sum("two groups" in source for source in sources) <= 4


@pytest.mark.parametrize("ranks", [slice(0, 8), slice(30, 38)])
def test_photos_taken_as_references_give_the_threshold_where_no_two_groups_do(ranks):
    rng = np.random.default_rng(5)
    scores = 1 / (1 + np.exp(-rng.normal(0, 1, 60)))
    taken = {number: f"{number}.png" for number in np.argsort(scores)[ranks].tolist()}
    found = folder_threshold(scores, 0.05, True, taken)
    expected = fit_threshold(scores[list(taken)].tolist(), 0.05, True, names=list(taken.values()))
    assert found.highest_normal == expected.highest_normal
    ordered = np.sort(np.log(scores / (1 - scores)))
    cuts = [(np.var(ordered[:n]) * n + np.var(ordered[n:]) * (60 - n), n) for n in range(1, 60)]  # within, not between
    best = min(cuts)[1]
    parting = 1 / (1 + np.exp(-ordered[best - 1 : best + 1].mean()))
    assert found.value == pytest.approx(max(expected.value, parting))
    assert ("raised from" in found.source) == (parting > expected.value)
    assert found.source.startswith("transductive, from the 8 photos taken as references")
    assert expected.source in found.source
    assert found.false_alarm_rate is None, "it is not known how many good ones exceed the least anomalous"
    apart = np.concatenate([scores[:20] / 100, 1 - scores[20:] / 100])
    assert folder_threshold(apart, 0.05, True, taken) == folder_threshold(apart, 0.05, True)


@pytest.mark.parametrize(("alike", "judged"), [(3, False), (8, True)])
def test_where_hardly_another_photo_is_like_those_taken_nothing_above_them_is_judged(alike, judged):
    levels = np.concatenate([np.linspace(-1.6, -0.7, 8 + alike), np.linspace(-0.2, 3.5, 50)])
    scores = 1 / (1 + np.exp(-levels))
    found = folder_threshold(scores, 0.05, True, {number: f"{number}.png" for number in range(8)})
    assert "taken as references" in found.source
    assert bool(found.undecided) != judged
    assert found.verdict(0.9) == (DEFECT if judged else UNDECIDED)
    assert found.verdict(float(scores[:8].min())) == GOOD
    assert judged or "score as low as those taken as references" in found.undecided


def test_a_threshold_from_a_handful_of_photos_is_refused():
    with pytest.raises(TrackInputError, match="10 or more readable photos for threshold=folder, got 9"):
        folder_threshold([0.1] * 9)


def test_a_threshold_from_photos_that_all_score_the_same_gives_no_verdict():
    threshold = folder_threshold([0.4] * 15 + [0.9], 0.05, probabilities=True)
    assert threshold.undecided
    assert threshold.verdict(0.9) == UNDECIDED


def test_a_threshold_learnt_on_renderings_says_so():
    source = known_threshold(
        0.4, "at most 10% of the good images of the synthetic validation categories exceed it"
    ).source
    assert "learnt on renderings" in source
    assert "never checked on photographs of yours; give references" in source
    assert "renderings" not in known_threshold(0.4, "F1-max on mvtec").source


class Viewing:
    """A model that scores two views of each of its three references."""

    def reference_prediction(self, category):
        scores = torch.tensor([0.2, 0.3, 0.4, 0.25, 0.35, 0.45])
        owners = torch.tensor([0, 1, 2, 0, 1, 2])
        return Prediction(torch.zeros(6, 2, 2), scores, {"reference": owners})


def test_a_model_may_score_several_views_of_each_reference():
    prediction = leave_one_out(Viewing(), "nut")
    threshold = reference_threshold(prediction, ["a", "b", "c"], 0.05, True)
    scores = prediction.image_scores.tolist()
    assert threshold == fit_threshold(scores, 0.05, True, references=[0, 1, 2, 0, 1, 2])
    assert threshold.highest_normal == pytest.approx(0.4)


def test_the_order_statistic_is_the_same_for_probabilities():
    scores = np.random.default_rng(0).uniform(0.1, 0.9, 40)
    plain, odds = fit_threshold(scores, 0.1), fit_threshold(scores, 0.1, probabilities=True)
    assert odds.value == pytest.approx(plain.value, abs=1e-6)
    assert (scores >= odds.value).sum() == (scores >= plain.value).sum()
