"""Two metrics the way the public code behind published tables computes them: to reproduce those tables, nothing else.

Do not rank methods by either: both move when the scores are merely rescaled, which changes no ranking. For results
of your own take `pro_seg` and `f1_region` of `eval.scorer`, which use every threshold that matters.

`legacy_pro` departs from PRO (`eval.regions.pro`):
  * Its 200 thresholds are evenly spaced between the lowest and the highest score of the category. Where scores are
    crowded near the bottom, hardly any threshold falls where the false positive rate is below the limit.
  * Points beyond the limit are dropped and the rates of the rest are stretched to [0, 1] by their own lowest and
    highest, with no interpolation at the limit: the area may be that up to a rate of 0.01 instead of 0.3.
  * So it changes when the scores are rescaled without a change of order, and one hot pixel can ruin it.

`legacy_region_f1` departs from F1 over regions:
  * The overlap of a predicted with a true region is the intersection over union of the whole binary maps cropped to
    the box around both: other regions in that box count too.
  * Every predicted region that overlaps some true one counts as a hit, also several for the same one. Recall divides
    these hits by the number of true regions, so recall and F1 may exceed 1.
  * Its thresholds are as few and as evenly spaced.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import scipy.ndimage

from eval.compiled import COMPILED, compiled
from eval.errors import ScoringInputError
from eval.images import CheckedImages, not_finite
from eval.ranking.curves import F1Max
from eval.regions.components import EIGHT_CONNECTED, component_changes
from eval.regions.pro import check_fpr_limit

NUM_STEPS = 200
LEAST_OVERLAP = 0.6


def legacy_pro(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    *,
    variant: Literal["april_gan", "saa"] = "april_gan",
    fpr_limit: float = 0.3,
) -> float:
    """The 200-threshold PRO with stretched false positive rates, of one category.

    Regions, rates and overlaps are as for PRO; a score above, not at, a threshold is called anomalous. "april_gan" is
    the routine of APRIL-GAN, shared by AnomalyCLIP and others: thresholds from the lowest score upwards, rates below
    the limit. "saa" is that of SAA+: thresholds from the highest score downwards, rates at or below the limit, and the
    pixels found in the holes of a region count as found in it, so that an overlap may exceed 1. Thresholds have the
    maps' precision; float16 maps are taken as float32.

    Args:
        maps: (H, W) float each, finite; sizes may differ.
        masks: (H, W) each, bool or 0 and 1, True = defect.
        variant: whose routine.
        fpr_limit: the largest false positive rate, in (0, 1].

    Raises:
        ScoringInputError: for input that is not as above, without a region or a normal pixel, and where the routine
            has no value: constant scores, or fewer than two different false positive rates within the limit.
    """
    check_fpr_limit(fpr_limit)
    scores, masks = _checked(maps, masks)
    thresholds = _thresholds(scores, True) if variant == "april_gan" else _thresholds(scores, False)[::-1]
    rates, overlaps = _rates_and_overlaps(scores, masks, thresholds, with_holes=variant == "saa")
    kept = rates < fpr_limit if variant == "april_gan" else rates <= fpr_limit
    return _stretched_area(rates[kept], overlaps[kept])


def legacy_region_f1(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> F1Max:
    """SAA+'s F1 over regions of one category, at 200 thresholds from the highest score downwards.

    A predicted region is a hit if its overlap, as described above, with some true region is at least 0.6; precision
    is hits per predicted, recall hits per true region; recall and F1 may exceed 1. A score above, not at, the threshold
    is called anomalous.

    Args:
        maps: (H, W) float each, finite; sizes may differ.
        masks: (H, W) each, bool or 0 and 1, True = defect.

    Raises:
        ScoringInputError: for input that is not as above, or without a region.
    """
    scores, masks = _checked(maps, masks)
    thresholds = _thresholds(scores, rising=False)
    hits, num_predicted, num_true = np.zeros(NUM_STEPS), np.zeros(NUM_STEPS), 0
    for anomaly_map, mask in zip(scores, masks, strict=True):
        num_predicted += _count_components(anomaly_map, thresholds)
        if mask.any():
            truth = _TrueRegions(mask)
            num_true += truth.sizes.size
            for steps, predicted in _distinct_predictions(anomaly_map, thresholds):
                hits[steps] += truth.count_hits(predicted)
    if not num_true:
        raise ScoringInputError(_NO_REGION)
    recall, precision = hits / num_true, hits / np.maximum(num_predicted, 1)
    f1 = 2 * recall * precision / np.where(hits > 0, recall + precision, 1)
    best = int(np.argmax(f1))
    return F1Max(float(f1[best]), float(thresholds[best]), float(precision[best]), float(recall[best]))


_NO_REGION = (
    "Expected at least one defect region in the masks, got none: without one this metric has no meaning. "
    "Leave this category out of the average."
)


def _checked(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The maps in one floating-point type, float32 or finer, and the masks as bool."""
    if not len(maps):
        raise ScoringInputError("Expected at least one map and a mask for each, got none.")
    given = CheckedImages(maps, masks, [0.0] * len(maps))
    images = [given[i] for i in range(len(given))]
    for image, name in images:
        if error := not_finite(image.anomaly_map, name):
            raise error
    dtype = np.result_type(np.float32, *{image.anomaly_map.dtype for image, _ in images})
    scores = [image.anomaly_map.astype(dtype, copy=False) for image, _ in images]
    return scores, [image.mask for image, _ in images if image.mask is not None]


def _thresholds(scores: Sequence[np.ndarray], rising: bool) -> np.ndarray:
    """The range in steps of 1/200: from the lowest score up, or from the highest down; the other end is left out.

    Rising ones may reach the other end by rounding, as in the published routine.
    """
    low, high = min(one.min() for one in scores), max(one.max() for one in scores)
    step = (high - low) / NUM_STEPS
    if not rising:
        return high - np.arange(NUM_STEPS, dtype=high.dtype) * step
    return np.arange(low, high, step) if step > 0 else np.array([low])


def _rates_and_overlaps(
    scores: Sequence[np.ndarray], masks: Sequence[np.ndarray], thresholds: np.ndarray, with_holes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The false positive rate and the mean overlap over all regions above each of T rising thresholds, (T,) each."""
    normal = np.zeros(thresholds.size, dtype=np.int64)
    shares = []
    for anomaly_map, mask in zip(scores, masks, strict=True):
        normal += _count_above(anomaly_map.ravel(), thresholds) - _count_above(anomaly_map[mask], thresholds)
        for box, region, size in _regions(mask, with_holes):
            shares.append(_count_above(anomaly_map[box][region], thresholds) / size)
    num_normal = sum(mask.size - np.count_nonzero(mask) for mask in masks)
    if not shares:
        raise ScoringInputError(_NO_REGION)
    if not num_normal:
        raise ScoringInputError(
            "Expected at least one normal pixel, as PRO needs a false positive rate, got none. "
            "Leave this category out of the average."
        )
    return normal / num_normal, np.stack(shares, axis=1).mean(axis=1)


def _regions(mask: np.ndarray, with_holes: bool) -> Iterator[tuple[tuple[slice, slice], np.ndarray, int]]:
    """Each region of a mask: its box, its pixels there (h, w) bool, holes filled if asked, and its size unfilled."""
    labels, _ = scipy.ndimage.label(mask, EIGHT_CONNECTED)
    for number, box in enumerate(scipy.ndimage.find_objects(labels), 1):
        region = labels[box] == number
        size = int(np.count_nonzero(region))
        yield box, scipy.ndimage.binary_fill_holes(region, EIGHT_CONNECTED) if with_holes else region, size


def _stretched_area(rates: np.ndarray, overlaps: np.ndarray) -> float:
    """The area under the overlaps (T,) over the rates (T,), never rising, stretched to [0, 1]."""
    if np.unique(rates).size < 2:
        raise ScoringInputError(
            f"The 200-threshold PRO has no value here: of its evenly spaced thresholds, {rates.size} leave a false "
            "positive rate within the limit and these do not differ in it, as happens with constant scores or where "
            "one score lies far from all others. PRO at all thresholds (`pro_seg` of `eval.scorer`) has one."
        )
    stretched = (rates - rates.min()) / (rates.max() - rates.min())
    return float(-np.trapezoid(overlaps, stretched))


def _count_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of the values (N,) lie above each of T rising thresholds; (T,) int64."""
    if COMPILED:
        passed = np.zeros(thresholds.size + 1, dtype=np.int64)
        _add_passed(values, thresholds, passed)
    else:
        passed = np.bincount(np.searchsorted(thresholds, values), minlength=thresholds.size + 1)
    return passed[::-1].cumsum()[-2::-1]


@compiled
def _add_passed(values: np.ndarray, thresholds: np.ndarray, passed: np.ndarray) -> None:
    """Count values (N,) by how many of the T thresholds lie below them, into passed (T + 1,)."""
    last = thresholds.size
    low, span = thresholds[0], thresholds[last - 1] - thresholds[0]
    per_unit = (last - 1) / span if span > 0 else 0.0
    for value in values:
        index = min(max(int((value - low) * per_unit), 0), last)  # near the right one; then moved there
        while index < last and thresholds[index] < value:
            index += 1
        while index > 0 and thresholds[index - 1] >= value:
            index -= 1
        passed[index] += 1


def _count_components(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many components the pixels above each of T falling thresholds form, (T,) int64; scores (H, W)."""
    changes = component_changes(scores)
    first_above = np.searchsorted(-thresholds, -scores.ravel()[changes.pixels], side="right")
    steps = np.zeros(thresholds.size + 1, dtype=np.int64)
    np.add.at(steps, first_above, changes.steps)
    return np.cumsum(steps)[:-1]


def _distinct_predictions(scores: np.ndarray, thresholds: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The different binary maps (H, W) that T falling thresholds make, each with its steps; empty ones are left out."""
    num_above = _count_above(scores.ravel(), thresholds[::-1])[::-1]
    starts = np.flatnonzero(np.diff(num_above, prepend=0))
    for start, end in zip(starts, np.append(starts, thresholds.size)[1:], strict=True):
        yield slice(start, end), scores > thresholds[start]


class _TrueRegions:
    """The defect regions of one image, their boxes (G, 4) and sizes (G,)."""

    def __init__(self, mask: np.ndarray):
        labels, _ = scipy.ndimage.label(mask, EIGHT_CONNECTED)
        self.sizes = np.bincount(labels.ravel())[1:]
        self.boxes = _corners(scipy.ndimage.find_objects(labels))
        self.mask, self.table = mask, _summed(mask)

    def count_hits(self, predicted: np.ndarray) -> int:
        """How many components of a binary map (H, W) overlap some region enough."""
        both = predicted & self.mask
        if np.count_nonzero(both) < LEAST_OVERLAP * self.sizes.min():
            return 0  # every box around two regions holds a whole true one
        components, _ = scipy.ndimage.label(predicted, EIGHT_CONNECTED)
        boxes = _joint(_corners(scipy.ndimage.find_objects(components))[:, None], self.boxes[None])
        shared = _sums_in(_summed(both), boxes)
        union = _sums_in(_summed(predicted), boxes) + _sums_in(self.table, boxes) - shared
        return int(np.count_nonzero((shared / union).max(axis=1) >= LEAST_OVERLAP))


def _corners(boxes: Sequence[tuple[slice, slice]]) -> np.ndarray:
    """Boxes as (N, 4) int64: first row, first column, row and column after the last."""
    corners = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in boxes]
    return np.array(corners, dtype=np.int64).reshape(-1, 4)


def _joint(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smallest boxes around pairs of boxes; (..., 4) each, as `_corners`."""
    return np.concatenate([np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])], axis=-1)


def _summed(binary: np.ndarray) -> np.ndarray:
    """For a binary map (H, W), how many pixels are set above and left of each corner; (H + 1, W + 1)."""
    return np.pad(binary, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)


def _sums_in(table: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How many pixels are set in each box (..., 4), from `_summed`."""
    top, left, bottom, right = np.moveaxis(boxes, -1, 0)
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
