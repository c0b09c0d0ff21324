"""Counting by float16 value must give the very ranking of the rounded values, in any order and in any parts."""

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.ranking.curves import curve_from_scores
from eval.ranking.histogram import VALUES, ValueCounts, in_value_order, pattern_ranks, to_float16


def counted(values: np.ndarray, positive: np.ndarray) -> ValueCounts:
    counts = ValueCounts()
    counts.add(values, positive)
    return counts


def wide_values(seed: int, size: int = 20_000) -> np.ndarray:
    """float16 of every magnitude and both signs, subnormals and signed zeros among them."""
    patterns = np.random.default_rng(seed).integers(0, 1 << 16, size).astype(np.uint16)
    patterns[:2] = [0x0000, 0x8000]
    values = patterns.view(np.float16)
    return values[np.isfinite(values)]


def test_values_are_all_finite_float16_once() -> None:
    assert VALUES.size == 2 * 31 * 1024 - 1  # two signs, 31 finite exponents, 1024 fractions; one zero
    assert (np.diff(VALUES) < 0).all()
    assert VALUES[0] == -VALUES[-1] == 65504
    assert not np.signbit(VALUES[VALUES == 0])[0]


def test_ranks_point_at_the_value() -> None:
    values = wide_values(0)
    np.testing.assert_array_equal(VALUES[pattern_ranks(values)], values.astype(np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_curve_equals_that_of_the_values(seed: int) -> None:
    values = wide_values(seed)
    positive = np.random.default_rng(seed).random(values.size) < 0.2
    ours, expected = counted(values, positive).curve(), curve_from_scores(values, positive)
    np.testing.assert_array_equal(ours.thresholds, expected.thresholds.astype(np.float32))
    np.testing.assert_array_equal(ours.true_positives, expected.true_positives)
    np.testing.assert_array_equal(ours.false_positives, expected.false_positives)
    assert ours.auroc() == expected.auroc()
    assert ours.average_precision() == expected.average_precision()
    assert ours.f1_max() == expected.f1_max()


def test_counts_by_hand() -> None:
    counts = counted(np.array([[1.0, 0.0], [-0.0, -2.0]], np.float32), np.array([[True, False], [True, False]]))
    curve = counts.curve()
    assert curve.thresholds.tolist() == [1.0, 0.0, -2.0]
    assert curve.true_positives.tolist() == [1, 2, 2]
    assert curve.false_positives.tolist() == [0, 1, 2]


def test_float32_is_rounded_to_the_nearest_float16() -> None:
    near_one = np.array([1.0, 1.0 + 1e-4, 1.0 + 9e-4], np.float32)  # float16 steps are 2**-10 here
    assert counted(near_one, np.zeros(3, dtype=bool)).curve().thresholds.tolist() == [1 + 2**-10, 1.0]


def test_parts_add_up_bit_for_bit_in_any_order() -> None:
    values = wide_values(5)
    positive = np.random.default_rng(5).random(values.size) < 0.2
    whole, merged = counted(values, positive), ValueCounts()
    parts = np.array_split(np.arange(values.size), 7)
    for part in reversed(parts):
        merged.merge(counted(values[part], positive[part]))
    for ours, expected in zip(merged.by_value(), whole.by_value(), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_layout_and_byte_order_do_not_matter() -> None:
    values = wide_values(2)[:6000].reshape(60, 100)
    positive = values > 1
    expected = counted(values, positive).by_value()
    for v, p in [
        (values.astype(">f2"), positive),
        (np.asfortranarray(values), positive),
        (values[::-1].T, positive[::-1].T),
        (values.astype(np.float64), positive),
    ]:
        for ours, same in zip(counted(v, p).by_value(), expected, strict=True):
            np.testing.assert_array_equal(ours, same)


def test_value_order_keeps_every_count() -> None:
    counts = np.arange(1 << 16)
    finite = np.isfinite(np.arange(1 << 16, dtype=np.uint16).view(np.float16))
    assert in_value_order(counts).sum() == counts[finite].sum()
    assert in_value_order(counts)[0] == 0x7BFF  # 65504


def test_empty_counts_have_an_empty_curve() -> None:
    curve = ValueCounts().curve()
    assert (curve.num_positive, curve.num_negative, curve.thresholds.size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, np.nan, 1], np.float16), "1 of 3 NaN or infinite"),
        (np.array([np.inf, -np.inf, 1], np.float32), "2 of 3 NaN or infinite"),
        (np.array([0, 1, -7e4], np.float32), "up to 65504.*got 70000"),
        (np.array([0, 1, 2]), "floating-point values, got int64"),
    ],
)
def test_values_without_a_float16_are_refused_and_not_counted(values: np.ndarray, message: str) -> None:
    counts = counted(np.ones(4, np.float16), np.array([True, False, False, False]))
    with pytest.raises(ScoringInputError, match=message):
        counts.add(values, np.zeros(3, dtype=bool))
    assert (counts.curve().num_positive, counts.curve().num_negative) == (1, 3)


def test_largest_float16_is_kept() -> None:
    np.testing.assert_array_equal(to_float16(np.array([65504.0, -65504.0])), np.array([65504, -65504], np.float16))


@pytest.mark.parametrize("positive", [np.zeros(2, dtype=bool), np.zeros((3, 1), dtype=bool), np.zeros(3, np.uint8)])
def test_labels_of_another_shape_or_type_are_refused(positive: np.ndarray) -> None:
    with pytest.raises(ScoringInputError, match=r"bool labels of shape \(3,\)"):
        ValueCounts().add(np.zeros(3, np.float32), positive)
