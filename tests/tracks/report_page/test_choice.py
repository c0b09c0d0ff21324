"""Which images are shown: the worst of each kind and the best finds, each once, and what their captions say."""

from dataclasses import replace

import pytest

from tests.support.rows import row
from tracks.decide.threshold import DEFECT, GOOD, UNDECIDED
from tracks.errors import TrackInputError
from tracks.report_page.choice import Choice, Pick, choose


def rows():
    scores = {"a": (1, 0.9), "b": (1, 0.2), "c": (1, 0.4), "d": (1, 0.3), "e": (0, 0.8), "f": (0, 0.1), "g": (0, 0.5)}
    return [replace(row(name), label=label, image_score=score) for name, (label, score) in scores.items()]


def names(picks):
    return [pick.row.name for pick in picks]


def test_misses_come_from_both_rankings_in_turn_and_once():
    recall = {"a": 0.0, "b": 0.1, "c": 0.9, "d": 0.5}
    verdicts = {"b": "OK", "d": "DEFECT"}
    picks = choose(rows(), recall, 0.35, Choice(4, 0), verdicts).misses
    assert names(picks) == ["b", "a", "d", "c"]
    assert [pick.why for pick in picks] == [
        "lowest image score", "lowest pixel recall", "2nd lowest image score", "3rd lowest image score",
    ]  # fmt: skip
    assert [pick.above_f1_max for pick in picks] == [False, True, False, True]
    assert [pick.verdict for pick in picks] == ["OK", None, "DEFECT", None]
    assert [pick.pixel_recall for pick in picks] == [0.1, 0.0, 0.5, 0.9]


def test_false_alarms_are_the_highest_normal_scores():
    picks = choose(rows(), {}, 0.5, Choice(0, 2)).false_alarms
    assert names(picks) == ["e", "g"]
    assert [pick.above_f1_max for pick in picks] == [True, True]
    assert names(choose(rows(), {}, None, Choice(2, 9)).misses) == ["b", "d"]


def test_hits_are_the_highest_anomalous_scores_that_are_no_misses():
    picks = choose(rows(), {"a": 0.0}, 0.35, Choice(2, 0, 9), {"c": "DEFECT"})
    assert names(picks.misses) == ["b", "a"]
    assert names(picks.hits) == ["c", "d"]
    assert [pick.why for pick in picks.hits] == ["2nd " * n + "highest score of an anomalous image" for n in (0, 1)]
    assert picks.hits[0].tag == ("found", "good")


def test_ties_go_by_name_whatever_the_order():
    tied = [replace(item, image_score=0.5) for item in rows()]
    for order in (tied, tied[::-1]):
        picks = choose(order, {}, 0.5, Choice(2, 2))
        assert names(picks.misses) == ["a", "b"]
        assert names(picks.false_alarms) == ["e", "f"]


def test_where_nothing_is_labelled_the_highest_scores_are_shown():
    unknown = [replace(item, label=None) for item in rows()]
    picks = choose(unknown, {}, None, Choice(1, 1))
    assert names(picks.unlabelled) == ["a", "e"]
    assert picks.misses == picks.false_alarms == []
    assert not choose(rows(), {}, None, Choice(1, 1)).unlabelled


@pytest.mark.parametrize("key", ["misses", "false_alarms", "hits"])
@pytest.mark.parametrize("value", [-1, "many", 1.5])
def test_a_number_that_is_none_is_refused(key, value):
    with pytest.raises(TrackInputError, match=f"{key}.*got {value}"):
        Choice(**{key: value})


@pytest.mark.parametrize(
    ("label", "verdict", "above", "tag", "beside"),
    [
        (1, GOOD, True, "missed", "by the F1-max threshold found"),
        (1, DEFECT, False, "found", "by the F1-max threshold missed"),
        (1, UNDECIDED, False, "undecided", "by the F1-max threshold missed"),
        (0, DEFECT, False, "false alarm", "by the F1-max threshold no alarm"),
        (0, GOOD, True, "no alarm", "by the F1-max threshold false alarm"),
        (0, UNDECIDED, True, "undecided", "by the F1-max threshold false alarm"),
        (1, None, False, None, "by the F1-max threshold missed"),
        (None, None, True, None, "why · image score 0.5 · 25.0"),
    ],
)
def test_the_tag_is_by_the_runs_own_threshold_and_the_label_chosen_one_stands_beside(
    label, verdict, above, tag, beside
):
    pick = Pick(replace(row("a.png"), label=label), "why", verdict, above, 0.25)
    assert (pick.tag or (None,))[0] == tag
    assert beside in pick.facts
    assert "25.0\u00a0% of its defect pixels found" in pick.facts
