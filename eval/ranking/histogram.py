"""Pixels counted by their float16 value: an exact ranking without a sort, in constant memory; and what rounding costs.

float16 has 65,536 bit patterns. Pixels are counted by pattern as they come and the patterns are put in the
order of their values only when a curve is read off. The counts are integers, so those of several parts of
a data set add up to those of the whole, bit for bit, in whatever order.
"""

import numpy as np

from eval.errors import ScoringInputError
from eval.ranking.curves import RankingCurve, curve_from_counts

NUM_PATTERNS = 1 << 16
LARGEST = float(np.finfo(np.float16).max)
PIXELS_OF_A_KIND = 500
"""So many defect and so many normal pixels of an image are looked at, spread over all of them."""
MOST_PIXELS = 1_000_000
"""Of all images together: what is sorted in the end stays small however many images there are."""
LARGEST_CHANGE = 0.001
"""A change of AUROC or AP beyond this is said: it shows in a table."""

Pixels = tuple[np.ndarray, np.ndarray]


def _order_patterns() -> tuple[np.ndarray, np.ndarray]:
    """The distinct finite float16 values, descending, and the rank of each bit pattern among them (-1: not finite).

    -0.0 and +0.0 are two patterns of one value and share a rank.
    """
    values_of_patterns = np.arange(NUM_PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.isfinite(values_of_patterns)
    ascending = np.unique(values_of_patterns[finite])
    ranks = np.full(NUM_PATTERNS, -1, dtype=np.int64)
    ranks[finite] = ascending.size - 1 - np.searchsorted(ascending, values_of_patterns[finite])
    return ascending[::-1] + np.float32(0), ranks  # adding zero turns a -0.0 into 0.0


VALUES, _RANKS = _order_patterns()


def to_float16(values: np.ndarray) -> np.ndarray:
    """Floats of any type and shape rounded to the nearest float16; steps of 1/2048 of the value or finer.

    Values below 6e-8 in size become 0 and so tie: scale a map that lives down there before scoring it.

    Raises:
        ScoringInputError: for NaN or inf, and for values beyond float16's +-65504.
    """
    values = np.asarray(values)
    if values.dtype.kind != "f":
        raise ScoringInputError(f"Expected floating-point values, got {values.dtype}. Convert them with astype.")
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ScoringInputError(
            f"Expected finite values, got {bad} of {values.size} NaN or infinite. Mend what produced them: "
            "they have no place in a ranking, and a score computed around them would mislead."
        )
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16, copy=False)
    if not np.isfinite(rounded).all():
        raise ScoringInputError(
            f"Expected values that float16 can hold (up to {LARGEST:.0f} in size), got "
            f"{float(np.abs(values).max()):g}. Scale the maps of the whole category by one factor."
        )
    return rounded


def pattern_ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each finite float16 value among `VALUES`, 0 the highest; int64 of the same shape."""
    return _RANKS[values.view(np.uint16)]


class ValueCounts:
    """How many anomalous and how many normal pixels have each float16 value. 1 MB, however many are added."""

    def __init__(self) -> None:
        self._all = np.zeros(NUM_PATTERNS, dtype=np.int64)
        self._positive = np.zeros(NUM_PATTERNS, dtype=np.int64)

    def add(self, values: np.ndarray, positive: np.ndarray) -> None:
        """Count float values of any shape, rounded to float16, with `positive` bool of that shape, True anomalous.

        Raises:
            ScoringInputError: for unlike shapes, `positive` not bool, and as `to_float16`; nothing is counted then.
        """
        values, positive = to_float16(values), np.asarray(positive)
        if positive.dtype != np.bool_ or positive.shape != values.shape:
            raise ScoringInputError(
                f"Expected bool labels of shape {values.shape}, one for each value, got {positive.dtype} of shape "
                f"{positive.shape}. Compare them with the threshold your data set states, for example labels > 0."
            )
        patterns = values.view(np.uint16)
        self._all += np.bincount(patterns.ravel(), minlength=NUM_PATTERNS)
        self._positive += np.bincount(patterns[positive], minlength=NUM_PATTERNS)

    def merge(self, other: "ValueCounts") -> None:
        """Add the counts of `other` to these; the order of merging does not matter."""
        self._all += other._all
        self._positive += other._positive

    def as_array(self) -> np.ndarray:
        """All that was counted, (2, 65536) int64, for `from_array`."""
        return np.stack([self._all, self._positive])

    @classmethod
    def from_array(cls, counted: np.ndarray) -> "ValueCounts":
        """The counts that `as_array` gave."""
        counts = cls()
        counts._all, counts._positive = counted.astype(np.int64)
        return counts

    def by_value(self) -> tuple[np.ndarray, np.ndarray]:
        """How many anomalous and how many normal pixels have each of `VALUES`; int64, zeros included."""
        positives, everything = in_value_order(self._positive), in_value_order(self._all)
        return positives, everything - positives

    def curve(self) -> RankingCurve:
        """The ranking of all pixels added, over the values that occur."""
        positives, negatives = self.by_value()
        seen = positives + negatives > 0
        return curve_from_counts(VALUES[seen], positives[seen], negatives[seen])


def in_value_order(counts: np.ndarray) -> np.ndarray:
    """(65536,) int64 counts by bit pattern as counts by `VALUES`, descending; those of NaN and inf are left out."""
    ordered = np.zeros(VALUES.size, dtype=np.int64)
    finite = _RANKS >= 0
    np.add.at(ordered, _RANKS[finite], counts[finite])
    return ordered


class RoundingSample:
    """Some pixels of a category as they were before rounding, to tell what it costs their ranking.

    Up to 12 kB for an anomalous image, 6 for a normal one, 12 MB in all: of more pixels every second one stays.

    Args:
        pixels: to begin with, as `pixels()` returns them.
    """

    def __init__(self, pixels: Pixels | None = None) -> None:
        self._parts = [] if pixels is None else [pixels]
        self._count = 0 if pixels is None else pixels[0].size

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray | None) -> None:
        """Take pixels of a map (H, W) before rounding and its bool mask; float16 maps and unknown masks have none."""
        if mask is None or anomaly_map.dtype == np.float16:
            return
        normal, defect = (_spread(np.flatnonzero(pixels)) for pixels in (~mask, mask))
        weights = np.repeat([-normal[1], defect[1]], [normal[0].size, defect[0].size])
        self._parts.append((anomaly_map.ravel()[np.concatenate([normal[0], defect[0]])], weights))
        self._count += weights.size
        self._thin()

    def merge(self, other: "RoundingSample") -> None:
        """Add the pixels of `other`; the order does not matter unless there are more than `MOST_PIXELS`."""
        self._parts += other._parts
        self._count += other._count
        self._thin()

    def _thin(self) -> None:
        if self._count > MOST_PIXELS:
            values, weights = self.pixels()
            self._parts = [(values[::2], 2 * weights[::2])]
            self._count = self._parts[0][1].size

    def pixels(self) -> Pixels:
        """Values (N,) and weights (N,) int64: how many pixels each stands for, negative if they are normal."""
        parts = [(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)), *self._parts]
        values, weights = (np.concatenate(of) for of in zip(*parts, strict=True))
        return values, weights

    def change(self) -> dict[str, float]:
        """By how much rounding changes the pixels' AUROC and AP, by metric; empty without pixels of either kind."""
        values, weights = self.pixels()
        if not (weights > 0).any() or not (weights < 0).any():
            return {}
        with np.errstate(over="ignore"):  # beyond float16: infinite, the highest of all
            rounded = values.astype(np.float16)
        before, after = _curve(values, weights), _curve(rounded, weights)
        return {
            "auroc_seg": after.auroc() - before.auroc(),
            "ap_seg": after.average_precision() - before.average_precision(),
        }


def rank_loss(change: dict[str, float]) -> str:
    """What to say of a change that shows, as `RoundingSample.change` gives it; empty for one that does not."""
    if max(map(abs, change.values()), default=0.0) <= LARGEST_CHANGE:
        return ""
    return (
        "Rounding to float16 makes distinct values of the maps equal, and costs their ranking: by a sample of them it "
        f"changes AUROC by about {change['auroc_seg']:+.3f} and AP by about {change['ap_seg']:+.3f}"
    )


def _spread(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """At most `PIXELS_OF_A_KIND` of pixels (N,), one out of each run of neighbours, and how many each stands for."""
    every = max(1, -(-pixels.size // PIXELS_OF_A_KIND))
    starts = np.arange(0, pixels.size, every)
    within = np.random.default_rng(0).integers(every, size=starts.size)  # no regular step: it might follow a column
    return pixels[np.minimum(starts + within, pixels.size - 1)], every


def _curve(values: np.ndarray, weights: np.ndarray) -> RankingCurve:
    distinct, ranks = np.unique(values, return_inverse=True)
    counts = [np.bincount(ranks, np.maximum(of, 0), distinct.size)[::-1] for of in (weights, -weights)]
    return curve_from_counts(distinct[::-1], *counts)
