"""The passes over all pixels of an image: how many have each value, or lie between any two defect values.

Both count integers, so several threads or machines may each count a part and add up, in any order.
"""

import mmap
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from eval.compiled import COMPILED, compiled

NUM_PATTERNS = 1 << 16
"""float16 has this many bit patterns."""
CHUNK_PIXELS = 14_000_000
"""About so many pixels of float32 maps are grouped at a time; 2 bytes each."""


def count_patterns(patterns: np.ndarray, counts: np.ndarray) -> bool:
    """Add float16 bit patterns (N,) uint16 to counts (65536,) int64; False, and nothing added, if one is NaN or inf."""
    if COMPILED:
        if _add_patterns(patterns, counts, 1):
            return True
        _add_patterns(patterns, counts, -1)
        return False
    if ((patterns & 0x7C00) == 0x7C00).any():
        return False
    counts += np.bincount(patterns, minlength=NUM_PATTERNS)
    return True


@compiled
def _add_patterns(patterns: np.ndarray, counts: np.ndarray, step: int) -> bool:
    all_finite = True
    for i in range(patterns.size):
        pattern = patterns[i]
        counts[pattern] += step
        all_finite &= (pattern & 0x7C00) != 0x7C00
    return all_finite


class DefectValues:
    """The n distinct values of all defect pixels, as the borders between which pixels are counted.

    AUROC, AP, F1-max and PRO change nowhere else: it is enough to know how many normal pixels equal each defect
    value and how many lie between two neighbours. Bin 2 i + 1 is the i-th value, ascending; bin 2 i lies below it.

    Args:
        values: the distinct values of all defect pixels, (n,) float32 or float64, finite, ascending, without -0.0.
    """

    def __init__(self, values: np.ndarray):
        self.values = values
        self.num_bins = 2 * values.size + 1

    @cached_property
    def _keys(self) -> np.ndarray:
        return _ordered_keys(self.values.view(np.uint32))

    @cached_property
    def _starts(self) -> np.ndarray:
        """How many keys lie before each value of their high half; (65537,)."""
        return np.searchsorted(self._keys, np.arange(NUM_PATTERNS + 1, dtype=np.uint64) << 16)

    def count(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """How many values of the images lie in each bin; (num_bins,) uint32.

        Each image is (N,), finite, of the type of the defect values; at most 4e9 values in all.
        """
        bins = np.zeros(self.num_bins, dtype=np.uint32)
        if COMPILED and self.values.dtype == np.float32:
            self._count_by_radix(images, bins)
            return bins
        for image in images:
            left = np.searchsorted(self.values, image)
            is_one = np.append(self.values, np.inf)[left] == image
            bins += np.bincount(2 * left + is_one, minlength=self.num_bins).astype(np.uint32)
        return bins

    def _count_by_radix(self, images: Sequence[np.ndarray], bins: np.ndarray) -> None:
        """Put the low halves of the keys together by their high halves, then count each such group on its own."""
        sizes = np.zeros(NUM_PATTERNS, dtype=np.int64)
        for image in images:
            _count_high_halves(image.view(np.uint32), sizes)
        ends = np.cumsum(sizes) - sizes
        # mapped, not allocated: given back to the system at once, which memory allocated in a thread is not
        low_halves = np.frombuffer(mmap.mmap(-1, 2 * max(1, int(sizes.sum()))), dtype=np.uint16)
        for image in images:
            _group_low_halves(image.view(np.uint32), ends, low_halves)
        _count_groups(low_halves, sizes, self._keys, self._starts, bins)

    def thresholds(self) -> np.ndarray:
        """For each bin, ascending, the value at or above which lie that bin and those after it; (num_bins,)."""
        edges = np.empty(self.num_bins, dtype=self.values.dtype)
        edges[1::2] = self.values
        edges[0] = np.finfo(self.values.dtype).min
        with np.errstate(over="ignore"):  # no value lies above the largest float: infinity marks the empty bin
            edges[2::2] = np.nextafter(self.values, self.values.dtype.type(np.inf))
        return edges


def _ordered_keys(patterns: np.ndarray) -> np.ndarray:
    """float32 bit patterns (N,) uint32, -0.0 not among them, as uint32 that are in the order of the values."""
    return np.where(patterns >> 31, ~patterns, patterns | np.uint32(1 << 31))


@compiled
def _ordered_key(pattern: np.uint32) -> np.uint32:
    if pattern == np.uint32(0x80000000):  # -0.0 ranks as 0.0
        return np.uint32(0x80000000)
    sign = np.uint32(-np.int32(pattern >> np.uint32(31)))  # all ones if negative
    return np.uint32(pattern ^ (sign | np.uint32(0x80000000)))


@compiled
def _count_high_halves(patterns: np.ndarray, sizes: np.ndarray) -> None:
    for i in range(patterns.size):
        sizes[_ordered_key(patterns[i]) >> np.uint32(16)] += 1


@compiled
def _group_low_halves(patterns: np.ndarray, ends: np.ndarray, low_halves: np.ndarray) -> None:
    for i in range(patterns.size):
        key = _ordered_key(patterns[i])
        group = key >> np.uint32(16)
        low_halves[np.uint64(ends[group])] = np.uint16(key)
        ends[group] += 1


@compiled
def _count_groups(
    low_halves: np.ndarray, sizes: np.ndarray, keys: np.ndarray, starts: np.ndarray, bins: np.ndarray
) -> None:
    bin_of = np.empty(65536, dtype=np.int32)
    begin = 0
    for group in range(65536):
        end = begin + sizes[group]
        first, last = starts[group], starts[group + 1]
        if end == begin:
            continue
        if first == last:
            bins[2 * first] += end - begin
        elif end - begin < 8192:  # few pixels: look each up
            for i in range(begin, end):
                low, high = first, last
                while low < high:
                    middle = (low + high) >> 1
                    if np.uint16(keys[middle]) < low_halves[i]:
                        low = middle + 1
                    else:
                        high = middle
                bins[2 * low + (low < last and np.uint16(keys[low]) == low_halves[i])] += 1
        else:  # many pixels: note the bin of each of the 65,536 values they can have
            value: Any = 0
            for index in range(first, last):
                key = np.int64(np.uint16(keys[index]))
                bin_of[value:key] = 2 * index
                bin_of[key] = 2 * index + 1
                value = key + 1
            bin_of[value:] = 2 * last
            for i in range(begin, end):
                bins[np.uint32(bin_of[low_halves[i]])] += 1
        begin = end
