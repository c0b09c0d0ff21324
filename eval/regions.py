"""PRO, the per-region overlap: every defect region counts the same, however small.

The definition that comes with MVTec AD (Bergmann et al., IJCV 2021): regions are the 8-connected components of the
masks; at each threshold the share of each region that is called anomalous is averaged over all regions of the
category, and drawn against the false positive rate over all its normal pixels. The score is the area under that
curve from rate 0 up to a limit (0.3), divided by the limit. All distinct thresholds are used.
"""

import numpy as np
import scipy.ndimage

from eval.errors import ScoringInputError
from eval.histogram import VALUES, pattern_ranks, to_float16

WHOLE = 1 << 40
"""One fully covered region. Covered shares are whole numbers of 1/WHOLE, so that sums do not depend on
their order; the rounding moves a share by less than 1e-12, and 8 million regions fit an int64."""


def label_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The 8-connected regions of a bool mask (H, W): int32 (H, W) with 0 outside and 1..n inside, and n."""
    labels, num_regions = scipy.ndimage.label(mask, structure=np.ones((3, 3)))
    return labels, int(num_regions)


def covered_shares(ranks: np.ndarray, regions: np.ndarray, num_ranks: int) -> np.ndarray:
    """What share of the regions is newly covered at each threshold, going down; (num_ranks,) int64 in 1/WHOLE.

    `ranks` is (N,), the place of each defect pixel's value among `num_ranks` descending values;
    `regions` is (N,), the region of each, 1..n, each number with at least one pixel. A region adds up to WHOLE.
    """
    sizes = np.bincount(regions)
    pairs, counts = np.unique(regions.astype(np.int64) * num_ranks + ranks, return_counts=True)
    region, rank = np.divmod(pairs, num_ranks)
    pixels_before = np.cumsum(sizes)[region - 1]
    covered = (np.cumsum(counts) - pixels_before) / sizes[region]  # of its region, at this rank and above; ends in 1.0
    total = (region - 1) * WHOLE + np.rint(covered * WHOLE).astype(np.int64)
    shares = np.zeros(num_ranks, dtype=np.int64)
    np.add.at(shares, rank, np.diff(total, prepend=0))
    return shares


def pro_from_counts(negatives: np.ndarray, shares: np.ndarray, num_regions: int, fpr_limit: float) -> float:
    """PRO in [0, 1] from what lies at each of K descending values; all of them may be listed, seen or not.

    `negatives` is (K,), normal pixels; `shares` is (K,), newly covered shares in 1/WHOLE over `num_regions` regions.

    Raises:
        ScoringInputError: without a region or a normal pixel, or for a limit outside (0, 1].
    """
    check_fpr_limit(fpr_limit)
    num_negative = int(np.sum(negatives))
    if not num_regions or not num_negative:
        raise ScoringInputError(
            "PRO needs at least one defect region and one normal pixel, got "
            f"{num_regions} regions and {num_negative} normal pixels. Leave this category out of the average."
        )
    rate = np.concatenate([[0.0], np.cumsum(negatives) / num_negative])
    overlap = np.concatenate([[0.0], np.cumsum(shares) / WHOLE / num_regions])
    return _area_up_to(fpr_limit, rate, overlap) / fpr_limit


def check_fpr_limit(fpr_limit: float) -> None:
    """Raise ScoringInputError unless the limit of the false positive rate lies in (0, 1]."""
    if not 0 < fpr_limit <= 1:
        raise ScoringInputError(
            f"Expected a false positive rate in (0, 1] as the limit of PRO, got {fpr_limit}. 0.3 is the usual one."
        )


def _area_up_to(limit: float, x: np.ndarray, y: np.ndarray) -> float:
    """Area under the straight lines joining (x, y), x never falling from 0 to 1, from x = 0 to the limit."""
    inside = int(np.searchsorted(x, limit, side="right"))  # points at or left of the limit; at least (0, 0)
    area = float(np.sum(np.diff(x[:inside]) * (y[1:inside] + y[: inside - 1]) / 2))
    if inside == x.size:
        return area
    run = limit - x[inside - 1]
    slope = (y[inside] - y[inside - 1]) / (x[inside] - x[inside - 1])
    return area + float(run * (y[inside - 1] + slope * run / 2))


class RegionCounts:
    """How much of the defect regions lies at each float16 value. Half a MB, however many are added."""

    def __init__(self) -> None:
        self.shares = np.zeros(VALUES.size, dtype=np.int64)
        self.num_regions = 0

    def add(self, values: np.ndarray, mask: np.ndarray) -> None:
        """Add the regions of one image: values (H, W), rounded to float16, and mask (H, W) bool.

        Raises:
            ScoringInputError: as `to_float16`; nothing is added then.
        """
        values = to_float16(values)
        if not mask.any():
            return
        labels, num_regions = label_regions(mask)
        self.shares += covered_shares(pattern_ranks(values[mask]), labels[mask], VALUES.size)
        self.num_regions += num_regions

    def merge(self, other: "RegionCounts") -> None:
        """Add the regions of `other` to these; the order of merging does not matter."""
        self.shares += other.shares
        self.num_regions += other.num_regions

    def pro(self, negatives: np.ndarray, fpr_limit: float) -> float:
        """PRO in [0, 1], given how many normal pixels have each of `VALUES`; raises as `pro_from_counts`."""
        return pro_from_counts(negatives, self.shares, self.num_regions, fpr_limit)
