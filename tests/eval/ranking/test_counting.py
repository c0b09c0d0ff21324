"""The passes over pixels against counting each bin on its own."""

import numpy as np
import pytest

from eval.compiled import COMPILED
from eval.ranking.counting import NUM_PATTERNS, DefectValues, count_patterns


def plain_counts(values: np.ndarray, images: list[np.ndarray]) -> np.ndarray:
    """Bin by bin: below the first value, at it, between it and the next, and so on."""
    pixels = np.sort(np.concatenate([np.zeros(0, values.dtype), *images]).astype(np.float64))
    borders = values.astype(np.float64)
    below, up_to = np.searchsorted(pixels, borders), np.searchsorted(pixels, borders, side="right")
    bins = np.empty(2 * values.size + 1, dtype=np.int64)
    bins[1::2] = up_to - below
    bins[0::2] = np.append(below, pixels.size) - np.append(0, up_to)
    return bins


def borders_of(*values: np.ndarray) -> np.ndarray:
    """Distinct values, ascending, without -0.0."""
    joined = np.concatenate(values)
    return np.unique(joined + joined.dtype.type(0))


def any_float32(seed: int, size: int) -> np.ndarray:
    """Random bit patterns: all magnitudes, both signs, subnormal ones."""
    values = np.random.default_rng(seed).integers(0, 1 << 32, size).astype(np.uint32).view(np.float32)
    return values[np.isfinite(values)]


FLOAT32 = np.finfo(np.float32)
ODD = np.array([0.0, -0.0, 1e-45, -1e-45, FLOAT32.tiny, -FLOAT32.tiny, FLOAT32.max, FLOAT32.min, 1, -1], np.float32)


def near_one(seed: int, size: int, spread: float = 2e-3) -> np.ndarray:
    """Values of which tens of thousands share their upper 16 bits."""
    return (1 + spread * np.random.default_rng(seed).random(size)).astype(np.float32)


CASES: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {
    "all magnitudes": (borders_of(any_float32(0, 3000), ODD), [any_float32(1, 40_000), any_float32(0, 3000), ODD]),
    "zeros at a border": (np.zeros(1, np.float32), [ODD, ODD[::2].copy()]),
    "zeros between borders": (np.array([-1, 1], np.float32), [ODD]),
    "extremes at a border": (borders_of(ODD), [ODD, any_float32(2, 500)]),
    "extremes outside": (np.array([0.5], np.float32), [ODD, any_float32(2, 500)]),
    "negative alone": (borders_of(-near_one(3, 300)), [-near_one(4, 5000), -near_one(3, 300)]),
    "one value, not met": (np.array([2.0], np.float32), [near_one(3, 50)]),
    "crowded, few borders": (borders_of(near_one(5, 6)), [near_one(6, 90_000), near_one(5, 6)]),
    "crowded, many borders": (
        borders_of(near_one(5, 3000)), [near_one(5, 3000), near_one(6, 30_000), near_one(7, 30_000)],
    ),
    "crowded, both signs": (
        borders_of(near_one(5, 400), -near_one(5, 400)), [near_one(8, 40_000), -near_one(8, 40_000), near_one(5, 400)],
    ),
    "crowded, at the ends of a group": (
        np.array([1.0, np.nextafter(np.float32(1.0078125), np.float32(0))], np.float32),  # 0x3F800000 and 0x3F80FFFF
        [near_one(9, 50_000, 9e-3), np.full(9000, 1.0, np.float32)],
    ),
    "loose, many borders": (borders_of(near_one(5, 3000)), [near_one(5, 3000), near_one(6, 4000)]),
    "few values": (np.array([0.25, 0.5], np.float32), [np.arange(20_000, dtype=np.float32) % 5 / 4]),
    "no border": (np.zeros(0, np.float32), [ODD]),
    "no pixel": (np.array([1.0], np.float32), []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_hold_what_lies_in_them(case: str, dtype: type) -> None:
    values, images = CASES[case]
    borders = DefectValues(values.astype(dtype))
    images = [image.astype(dtype) for image in images]
    counted = borders.count(images)
    np.testing.assert_array_equal(counted, plain_counts(values, images))
    assert counted.dtype == np.uint32
    assert counted.sum() == sum(image.size for image in images)


@pytest.mark.parametrize("size", [8191, 8192, 8193])
def test_both_ways_of_counting_a_group_agree(size: int) -> None:
    """At 8,192 pixels that share their upper 16 bits the way of counting changes."""
    pixels = near_one(10, size)
    assert np.unique(pixels.view(np.uint32) >> 16).size == 1
    for values in (borders_of(pixels[::7]), borders_of(pixels[:1]), borders_of(near_one(11, 20))):
        np.testing.assert_array_equal(DefectValues(values).count([pixels]), plain_counts(values, [pixels]))


def test_float64_borders_are_not_rounded() -> None:
    values = np.array([1.0, np.nextafter(1.0, 2)])
    assert DefectValues(values).count([np.append(values, values), np.array([1.0])]).tolist() == [0, 3, 0, 2, 0]


def test_parts_add_up() -> None:
    values, images = CASES["crowded, many borders"]
    borders = DefectValues(values)
    np.testing.assert_array_equal(sum(borders.count([image]) for image in images), borders.count(images))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_of_the_bins(dtype: type) -> None:
    """What is at or above the threshold of a bin is that bin and those after it."""
    values = np.unique(np.array([-3.0, 0.0, 1e-45, 0.1, np.finfo(dtype).max], dtype))
    edges = DefectValues(values).thresholds()
    assert edges.dtype == dtype
    assert (np.diff(edges) >= 0).all()
    pixels = np.concatenate([values, np.nextafter(values, dtype(-np.inf))[1:], np.array([-1e4, 7.0], dtype)])
    counted = DefectValues(values).count([pixels])
    for i, edge in enumerate(edges):
        assert np.sum(pixels >= edge) == counted[i:].sum()


@pytest.mark.parametrize("size", [0, 1, 50_000])
def test_patterns_are_counted(size: int) -> None:
    patterns = np.random.default_rng(0).integers(0, NUM_PATTERNS, size).astype(np.uint16)
    patterns = patterns[np.isfinite(patterns.view(np.float16))]
    counts = np.arange(NUM_PATTERNS)
    assert count_patterns(patterns, counts)
    np.testing.assert_array_equal(counts - np.arange(NUM_PATTERNS), np.bincount(patterns, minlength=NUM_PATTERNS))


@pytest.mark.parametrize("bad", [0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFFFF])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_nothing_is_counted_of_a_map_with_nan_or_inf(bad: int, place: int) -> None:
    patterns = np.random.default_rng(0).random(1000).astype(np.float16).view(np.uint16)
    patterns[place] = bad
    assert not np.isfinite(patterns.view(np.float16)[place])
    counts = np.arange(NUM_PATTERNS)
    assert not count_patterns(patterns, counts)
    np.testing.assert_array_equal(counts, np.arange(NUM_PATTERNS))


@pytest.mark.skipif(not COMPILED, reason="the loops are not compiled here")
def test_the_plain_way_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = {case: DefectValues(values).count(images) for case, (values, images) in CASES.items()}
    monkeypatch.setattr("eval.ranking.counting.COMPILED", False)
    for case, (values, images) in CASES.items():
        np.testing.assert_array_equal(DefectValues(values).count(images), compiled[case], err_msg=case)
