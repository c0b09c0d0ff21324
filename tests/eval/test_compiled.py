"""The radix order against numpy's stable sort of the negated values."""

import numpy as np
import pytest

from eval.compiled import falling_order


def every_float16() -> np.ndarray:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return np.random.default_rng(0).permutation(values[np.isfinite(values)])


def any_float32(size: int = 60_000) -> np.ndarray:
    """Random bit patterns: all magnitudes, both signs, subnormal ones."""
    values = np.random.default_rng(1).integers(0, 1 << 32, size).astype(np.uint32).view(np.float32)
    odd = np.array([0.0, -0.0, 1e-45, -1e-45, np.finfo(np.float32).max, np.finfo(np.float32).min], np.float32)
    return np.concatenate([odd, values[np.isfinite(values)], odd])


def any_float64() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=9000) * 10.0 ** rng.integers(-300, 300, 9000)


def few_values(dtype: type) -> np.ndarray:
    return np.random.default_rng(2).integers(-3, 4, 5000).astype(dtype) * dtype(0.1)


CASES = {
    "every float16": every_float16(),
    "any float32": any_float32(),
    "any float64": any_float64(),
    "few float16": few_values(np.float16),
    "few float32": few_values(np.float32),
    "few float64": few_values(np.float64),
    "both zeros": np.array([0.0, -0.0, 0.0, -0.0, 1.0], np.float32),
    "one value": np.full(300, -7.0, np.float32),
    "one": np.array([3.0], np.float16),
    "none": np.zeros(0, np.float32),
    "negative": -np.abs(any_float32(999)),
    "every second": any_float32(2000)[::2],
    "backwards": every_float16()[::-1],
    "big-endian": few_values(np.float32).astype(">f4"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_that_of_a_stable_sort(case: str) -> None:
    values = CASES[case]
    before = values.copy()
    order = falling_order(values)
    np.testing.assert_array_equal(order, np.argsort(-values.astype(np.float64), kind="stable"))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(values, before)


def test_equal_values_keep_their_own_order() -> None:
    assert falling_order(np.array([1.0, 2.0, 1.0, -0.0, 0.0, 2.0], np.float32)).tolist() == [1, 5, 0, 2, 3, 4]
