"""The score that parts good images from defects: of the card, and of judged photos."""

import numpy as np
import pytest

from tracks.decide.threshold import best_cut


def test_the_threshold_is_best_on_average_over_categories_whatever_their_sizes():
    apart = (np.array([0.1, 0.2]), np.array([0.7, 0.9]))
    mixed = (np.array([0.3] * 50 + [0.6] * 50), np.array([0.5] * 20 + [0.8] * 80))
    best = best_cut([apart, mixed])
    value, recall, false_alarms = best.value, best.recall, best.false_alarms
    assert (value, recall, false_alarms) == pytest.approx((0.7, 0.9, 0.0))
    gains = [((apart[1] >= t).mean() + (mixed[1] >= t).mean() - (mixed[0] >= t).mean() - (apart[0] >= t).mean())
             for t in np.linspace(0, 1, 101)]  # fmt: skip
    assert max(gains) == pytest.approx(2 * (recall - false_alarms))


def test_of_cuts_with_too_many_false_alarms_none_is_taken_unless_all_are():
    good, bad = np.array([0.1] * 7 + [0.4, 0.6, 0.7]), np.array([0.3] * 2 + [0.5] * 6 + [0.8] * 2)
    assert best_cut([(good, bad)]).value == 0.3  # 100 % less 30 %
    capped = best_cut([(good, bad)], 0.2)
    assert (capped.value, capped.recall, capped.false_alarms) == (0.5, 0.8, 0.2)
    assert best_cut([(good, bad)], 0.1).value == 0.8
    assert best_cut([([0.9], [0.1])], 0.1).value == 0.1
