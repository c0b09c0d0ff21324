"""PRO and AUPIMO: overlaps of what is called anomalous with the defects, over the false positive rate.

PRO, the per-region overlap: every defect region counts the same, however small. As defined with MVTec AD (Bergmann et
al., IJCV 2021): regions are the 8-connected components of the masks; at each threshold the share of each region that is
called anomalous is averaged over all regions of the category, and drawn against the false positive rate over all its
normal pixels. The score is the area under that curve from rate 0 up to a limit (0.3), divided by the limit. All
distinct thresholds are used.

AUPIMO, the area under the per-image overlap curve (Bertoldo et al., 2024, arXiv:2401.01984).

For each anomalous image the share of its defect pixels found is drawn against the false positive rate over the pixels
of *normal images alone*, on a logarithmic axis from 1e-5 to 1e-4, and the area is divided by the length of the axis.
An image's value so says how well its defects are found at a rate of false alarms low enough to live with.

Departs from the paper's code: exact instead of sampled thresholds, the share of an image at a rate is the one reached
without exceeding that rate (no interpolation), and the rate pools the pixels of all normal images, which is the same as
the mean over images where they are equally large.
"""

import numpy as np

from eval.compiled import compiled
from eval.errors import ScoringInputError
from eval.ranking.curves import area_up_to

WHOLE = 1 << 40
"""One fully covered region. Covered shares are whole numbers of 1/WHOLE, so that sums do not depend on
their order; the rounding moves a share by less than 1e-12, and 8 million regions fit an int64."""
FPR_RANGE = (1e-5, 1e-4)
"""The axis of AUPIMO."""


def add_covered_shares(ranks: np.ndarray, regions: np.ndarray, order: np.ndarray, shares: np.ndarray) -> None:
    """Add what share of the regions is newly covered at each threshold, going down, to shares (K,) int64 in 1/WHOLE.

    `ranks` is (N,), the index of each defect pixel's value among K descending values; `regions` is (N,), the region of
    each, 1..n, each number with at least one pixel, so that a region adds WHOLE; `order` puts the pixels in rising
    order of their ranks.
    """
    _add_shares(ranks, regions, order, np.bincount(regions), shares)


@compiled
def _add_shares(
    ranks: np.ndarray, regions: np.ndarray, order: np.ndarray, sizes: np.ndarray, shares: np.ndarray
) -> None:
    covered = np.zeros(sizes.size, dtype=np.int64)
    for i in order:
        region = regions[i]
        before = np.int64(np.rint(covered[region] / sizes[region] * WHOLE))
        covered[region] += 1
        shares[ranks[i]] += np.int64(np.rint(covered[region] / sizes[region] * WHOLE)) - before


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
    rate, overlap = pro_curve(negatives, shares, num_regions)
    return area_up_to(fpr_limit, rate, overlap) / fpr_limit


def pro_curve(negatives: np.ndarray, shares: np.ndarray, num_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """The curve under which PRO is the area: false positive rate and mean overlap, (K + 1,) each, from 0 to 1."""
    rate = np.concatenate([[0.0], np.cumsum(negatives) / int(np.sum(negatives))])
    overlap = np.concatenate([[0.0], np.cumsum(shares) / WHOLE / num_regions])
    return rate, overlap


def check_fpr_limit(fpr_limit: float) -> None:
    """Raise ScoringInputError unless the limit of the false positive rate lies in (0, 1]."""
    if not 0 < fpr_limit <= 1:
        raise ScoringInputError(
            f"Expected a false positive rate in (0, 1] as the limit of PRO, got {fpr_limit}. 0.3 is the usual one."
        )


def pixel_weights(negatives: np.ndarray) -> np.ndarray:
    """How much of the axis a defect pixel is found on, by its value; (K,) in [0, 1].

    `negatives` is (K,), how many pixels of normal images lie at each of K descending values, at least one in all. The
    AUPIMO of an image is the mean weight of its defect pixels: each is found at every rate from its own up.
    """
    low, high = np.log(FPR_RANGE)
    rate = np.cumsum(negatives) / int(np.sum(negatives))
    length = high - np.log(np.maximum(rate, FPR_RANGE[0]))
    return np.clip(length / (high - low), 0.0, 1.0)


def fewest_pixels() -> int:
    """With fewer pixels of normal images than this, one of them is a larger rate than the axis begins with."""
    return round(1 / FPR_RANGE[0])
