"""AUROC, AP and F1-max against worked examples and against re-derivations that look at every pair and threshold."""

from fractions import Fraction

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.ranking.curves import auroc, average_precision, curve_from_counts, curve_from_scores, f1_floor, f1_max


def every_pair(scores: np.ndarray, labels: np.ndarray) -> Fraction:
    """AUROC by its meaning: the share of (anomalous, normal) pairs in the right order, ties counting half."""
    anomalous, normal = scores[labels], scores[~labels]
    half_wins = sum(2 * int(a > n) + int(a == n) for a in anomalous for n in normal)
    return Fraction(half_wins, 2 * len(anomalous) * len(normal))


def at_every_threshold(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, Fraction, Fraction, Fraction]]:
    """(threshold, precision, recall, F1), from the highest threshold down."""
    rows = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        hits = int((called & labels).sum())
        precision, recall = Fraction(hits, int(called.sum())), Fraction(hits, int(labels.sum()))
        f1 = 2 * precision * recall / (precision + recall) if hits else Fraction(0)
        rows.append((threshold, precision, recall, f1))
    return rows


def random_case(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    labels[:2] = [True, False]
    return (rng.integers(0, levels, 60) + labels).astype(np.float64), labels


def test_worked_example() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.4, 0.1])
    labels = np.array([1, 1, 0, 0, 1])
    assert auroc(scores, labels) == pytest.approx((2 + 1.5 + 0) / 6)
    assert average_precision(scores, labels) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3 + 1 / 3 * 3 / 5)
    best = f1_max(scores, labels)  # 0.5, 2/3, 4/7, 3/4 going down
    assert (best.value, best.threshold, best.precision, best.recall) == pytest.approx((0.75, 0.1, 0.6, 1.0))


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_against_every_pair_and_every_threshold(seed: int, levels: int) -> None:
    scores, labels = random_case(seed, levels)
    rows = at_every_threshold(scores, labels)
    recalls = [Fraction(0), *(recall for _, _, recall, _ in rows)]
    precision_x_gain = sum(rows[i][1] * (recalls[i + 1] - recalls[i]) for i in range(len(rows)))
    threshold, precision, recall, f1 = max(rows, key=lambda row: row[3])  # the first of equals: the highest threshold
    assert auroc(scores, labels) == pytest.approx(float(every_pair(scores, labels)), abs=1e-14)
    assert average_precision(scores, labels) == pytest.approx(float(precision_x_gain), abs=1e-14)
    best = f1_max(scores, labels)
    assert best.threshold == threshold
    assert (best.value, best.precision, best.recall) == pytest.approx((float(f1), float(precision), float(recall)))


def test_highest_threshold_of_equal_f1() -> None:
    assert f1_max(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 0, 1])).threshold == 4.0  # 2/3 at 4 and at 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_every_float_type(dtype: type) -> None:
    scores, labels = random_case(3, 40)
    assert auroc(scores.astype(dtype), labels) == auroc(scores, labels)
    assert f1_max(scores.astype(dtype), labels) == f1_max(scores, labels)


def test_close_float64_scores_are_not_tied() -> None:
    scores = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert auroc(scores, np.array([0, 1])) == 1.0
    assert auroc(scores.astype(np.float32), np.array([0, 1])) == 0.5


@pytest.mark.parametrize(("scores", "expected"), [([3.0, 2.0, 1.0], 1.0), ([1.0, 2.0, 3.0], 0.0), ([7.0] * 3, 0.5)])
def test_auroc_of_perfect_reversed_and_constant(scores: list[float], expected: float) -> None:
    assert auroc(np.array(scores), np.array([1, 0, 0])) == expected


def test_constant_scores_give_the_floor() -> None:
    labels = np.array([1, 0, 0, 1, 0])
    best = f1_max(np.zeros(5), labels)
    assert best.value == f1_floor(2, 5) == pytest.approx(4 / 7)
    assert average_precision(np.zeros(5), labels) == pytest.approx(2 / 5)


@pytest.mark.parametrize("seed", range(20))
def test_f1_max_never_falls_below_the_floor(seed: int) -> None:
    scores, labels = random_case(seed, 7)
    assert f1_max(-scores, labels).value >= f1_floor(int(labels.sum()), labels.size)


def test_only_the_order_of_scores_matters() -> None:
    scores, labels = random_case(0, 9)
    before, after = curve_from_scores(scores, labels), curve_from_scores(np.exp(scores) * 3 - 100, labels)
    assert (before.auroc(), before.average_precision()) == (after.auroc(), after.average_precision())
    assert before.f1_max().value == after.f1_max().value


def test_signed_zeros_are_one_threshold() -> None:
    curve = curve_from_scores(np.array([0.0, -0.0, 1.0]), np.array([0, 1, 1]))
    assert curve.thresholds.tolist() == [1.0, 0.0]
    assert curve.auroc() == 0.75


def test_counts_of_large_sets_do_not_overflow() -> None:
    half = 3_000_000_000
    curve = curve_from_counts(np.array([2.0, 1.0]), np.array([half, half]), np.array([0, 2 * half]))
    assert curve.auroc() == pytest.approx(0.75)
    assert curve.average_precision() == pytest.approx(0.5 + 0.5 * 0.5)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), dtype=bool), "1-D"),
        (np.zeros(3), np.zeros(2, dtype=bool), r"\(3,\) and \(2,\)"),
        (np.array([0.0, np.nan]), np.array([0, 1]), "1 NaN or infinite"),
        (np.array([np.inf, -np.inf]), np.array([0, 1]), "2 NaN or infinite"),
        (np.array(["a", "b"]), np.array([0, 1]), "finite numbers"),
        (np.zeros(3), np.array([0, 1, 255]), "255"),
        (np.zeros(2), np.array([0.0, 0.5]), "0.5"),
    ],
)
def test_bad_input_is_refused(scores: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ScoringInputError, match=message):
        curve_from_scores(scores, labels)


def test_one_kind_alone_is_refused() -> None:
    with pytest.raises(ScoringInputError, match="3 anomalous and 0 normal"):
        auroc(np.arange(3.0), np.ones(3))
    for metric in (auroc, average_precision, f1_max):
        with pytest.raises(ScoringInputError, match=r"3 normal|none among 3"):
            metric(np.arange(3.0), np.zeros(3))
        with pytest.raises(ScoringInputError):
            metric(np.zeros(0), np.zeros(0))
    assert average_precision(np.arange(3.0), np.ones(3)) == f1_max(np.arange(3.0), np.ones(3)).value == 1.0


@pytest.mark.parametrize(("positive", "total"), [(0, 4), (5, 4), (-1, 4), (0, 0)])
def test_floor_needs_positives(positive: int, total: int) -> None:
    with pytest.raises(ScoringInputError, match=f"{positive} of {total}"):
        f1_floor(positive, total)
