"""What each image adds to every curve, so that any draw of the images is scored without reading a map again.

The values of a category are cut into groups, narrow where its pixels are many; each image keeps how many defect and
normal pixels, what share of its regions and which changes of components lie in each group. What a draw holds is then
the sum of the images' counts, each times how often it was drawn: whole numbers (shares: whole steps), so that sums
depend neither on their order nor on the number of threads. Only draws rest on groups; an estimate is the Scorer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.category import ScoreCurves
from eval.images import CheckedImage, check_image
from eval.ranking.histogram import pattern_ranks, to_float16
from eval.regions.components import Changes, component_changes, label_regions
from eval.regions.hits import hit_changes
from eval.regions.region_f1 import LEAST_IOU

NUM_GROUPS = 2048
"""So many put AUROC, AP and PRO of a category within about 0.00005 of the exact ones, F1-max up to 0.0005 below."""
_PATTERNS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
_SHARE_STEP = 2.0**-20
_KINDS = ("defects", "normals", "shares", "components", "hits")
_IMAGES_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class ValueGroups:
    """K groups of neighbouring float16 values, 0 the highest.

    `of_pattern` is (65536,) uint16, the group of each bit pattern (0 for NaN and inf, which have none). `below` is
    (2, K): what share of the defect and of the normal pixels of a group lie below one of its defect pixels on average;
    0 for a group of one value.
    """

    of_pattern: np.ndarray
    below: np.ndarray

    def __len__(self) -> int:
        return self.below.shape[1]

    def of(self, values: np.ndarray) -> np.ndarray:
        """The groups of float16 values, uint16 of the same shape."""
        return self.of_pattern[values.view(np.uint16)]


def choose_groups(curves: ScoreCurves, num_groups: int = NUM_GROUPS) -> ValueGroups:
    """At most `num_groups` groups, each of about the same share of the defects, the normal pixels and the regions.

    `curves` are those of the category (`Scorer.curves()`); without pixel metrics there is one group. If no more values
    than groups occur, each has its own, and nothing is lost.
    """
    if curves.pixel is None or curves.pro is None:
        return ValueGroups(np.zeros(_PATTERNS.size, dtype=np.uint16), np.zeros((2, 1)))
    ranking = curves.pixel
    groups, defects, normals = _groups(curves, num_groups)
    finite = np.isfinite(_PATTERNS)
    ranks = pattern_ranks(ranking.thresholds.astype(np.float16))
    index = np.searchsorted(ranks, pattern_ranks(_PATTERNS[finite]))  # a value that does not occur: the next lower one
    of_pattern = np.zeros(_PATTERNS.size, dtype=np.uint16)
    of_pattern[finite] = groups[np.minimum(index, groups.size - 1)]
    return ValueGroups(of_pattern, np.stack([_share_below(defects, of, groups) for of in (defects, normals)]))


def level_groups(curves: ScoreCurves, num_groups: int = NUM_GROUPS) -> tuple[ValueGroups, np.ndarray]:
    """The same for maps of more values than float16 has: groups of their `levels`, and what these are cut at, (K - 1,).

    A level is a whole number up to 2048, which float16 holds.
    """
    if curves.pixel is None or curves.pro is None:
        return choose_groups(curves), np.zeros(0)
    groups, defects, normals = _groups(curves, num_groups)
    lowest = np.flatnonzero(np.diff(groups, append=-1))  # of each group, falling
    of_pattern = np.zeros(_PATTERNS.size, dtype=np.uint16)
    whole = np.isfinite(_PATTERNS) & (_PATTERNS >= 0) & (lowest.size > _PATTERNS)
    of_pattern[whole] = lowest.size - 1 - _PATTERNS[whole].astype(np.int64)
    below = np.stack([_share_below(defects, of, groups) for of in (defects, normals)])
    return ValueGroups(of_pattern, below), curves.pixel.thresholds[lowest[:-1]][::-1]


def levels(anomaly_map: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """In which of the groups that `level_groups` cut each value of a map lies, 0 the lowest: float16 of its shape."""
    return np.searchsorted(edges, anomaly_map, side="right").astype(np.float16)


def _groups(curves: ScoreCurves, num_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The group of each threshold, and how many defect and normal pixels lie at each; (V,)."""
    assert curves.pixel is not None
    assert curves.pro is not None
    ranking, (rate, overlap) = curves.pixel, curves.pro
    defects, normals = (np.diff(of, prepend=0) for of in (ranking.true_positives, ranking.false_positives))
    weights = defects / ranking.num_positive + np.diff(rate) + np.diff(overlap)
    return _cut(weights, num_groups), defects, normals


def _share_below(defects: np.ndarray, pixels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The share of the pixels of each group that lie below one of its defect pixels, (K,); all by value, (V,) each."""
    in_group = np.bincount(groups, weights=pixels)
    below = np.cumsum(in_group)[groups] - np.cumsum(pixels)
    pairs = np.bincount(groups, weights=defects) * in_group
    return np.bincount(groups, weights=defects * below) / np.maximum(pairs, 1)


def _cut(weights: np.ndarray, num_groups: int) -> np.ndarray:
    """The group, from 0 without a gap, of each of V values in order, by how much weight (V,) each has."""
    if weights.size <= num_groups:
        return np.arange(weights.size)
    middle = np.cumsum(weights) - weights / 2
    cut = np.minimum(middle * (num_groups / weights.sum()), num_groups - 1).astype(np.int64)
    return np.unique(np.maximum.accumulate(cut), return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class GroupSums:
    """What B draws hold in each of K groups, (B, K) float64; `num_regions` is (B,).

    `shares` are regions newly covered; `components` and `hits` are changes going down, None if they were not followed.
    """

    defects: np.ndarray
    normals: np.ndarray
    shares: np.ndarray
    num_regions: np.ndarray
    components: np.ndarray | None = None
    hits: np.ndarray | None = None


class ImageCounts:
    """The counts of each image of a category by group, in the order in which the images are added.

    With K groups about 4 K bytes for a normal image and 12 K for an anomalous one (more where a group holds more than
    32,767 pixels of one image): 131 MB for 8,000 images, half of them anomalous.

    Args:
        groups: as `choose_groups` cuts them.
        region_f1: whether to follow components for region F1, which takes most of the time.
    """

    def __init__(self, groups: ValueGroups, region_f1: bool = True) -> None:
        self.groups = groups
        self.region_f1 = region_f1
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.num_without_mask = 0
        self.num_normal_pixels = 0
        self._num_regions: list[int] = []
        self._counts: dict[str, list[np.ndarray | None]] = {kind: [] for kind in _KINDS}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_regions(self) -> int:
        """How many defect regions all images hold."""
        return sum(self._num_regions)

    def add(
        self, anomaly_map: np.ndarray, mask: np.ndarray | None, image_score: float, label: int | None = None,
        name: str = "",
    ) -> None:  # fmt: skip
        """Add one image, as `Scorer.update` takes it; one of which neither label nor mask is known is left out.

        Raises:
            ScoringInputError: as `check_image` and `to_float16`.
        """
        image = check_image(anomaly_map, mask, image_score, label, name)
        if image.label is None:
            return
        self.scores.append(image.image_score)
        self.labels.append(image.label)
        self.num_without_mask += image.mask is None
        counts, num_regions = self._count(image)
        self.num_normal_pixels += int(counts["normals"].sum()) if counts else 0
        self._num_regions.append(num_regions)
        for kind, kept in self._counts.items():
            kept.append(_compact(counts[kind]) if kind in counts else None)

    def _count(self, image: CheckedImage) -> tuple[dict[str, np.ndarray], int]:
        """What one image adds to each of `_KINDS` that it has a part in, (K,) each, and its number of regions."""
        if image.mask is None:
            return {}, 0
        values = np.ascontiguousarray(to_float16(image.anomaly_map))
        groups, counts, num_regions = self.groups.of(values), {}, 0
        counts["normals"] = self._by_group(groups.ravel())
        if self.region_f1:
            counts["components"] = self._changes(component_changes(values), groups)
        if image.label:
            labels, num_regions = label_regions(image.mask)
            found, regions = groups[image.mask], labels[image.mask]
            counts["defects"] = self._by_group(found)
            counts["normals"] = counts["normals"] - counts["defects"]
            counts["shares"] = _in_steps(self._by_group(found, 1 / np.bincount(regions)[regions]))
            if self.region_f1:
                counts["hits"] = self._changes(hit_changes(values, labels, LEAST_IOU), groups)
        return counts, num_regions

    def _by_group(self, groups: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(groups, weights=weights, minlength=len(self.groups))

    def _changes(self, changes: Changes, groups: np.ndarray) -> np.ndarray:
        return self._by_group(groups.ravel()[changes.pixels], changes.steps).astype(np.int64)

    def weighted(self, weights: np.ndarray) -> GroupSums:
        """What B draws hold, of which each has each image as often as `weights` (B, N) say: float64, whole numbers."""
        sums = {kind: self._sum(kept, weights) for kind, kept in self._counts.items()}
        if not self.region_f1:
            del sums["components"], sums["hits"]
        return GroupSums(num_regions=weights @ np.array(self._num_regions, dtype=np.float64), **sums)

    def _sum(self, counts: Sequence[np.ndarray | None], weights: np.ndarray) -> np.ndarray:
        total = np.zeros((weights.shape[0], len(self.groups)))
        present = [index for index, count in enumerate(counts) if count is not None]
        for start in range(0, len(present), _IMAGES_AT_ONCE):
            chosen = present[start : start + _IMAGES_AT_ONCE]
            total += weights[:, chosen] @ np.array([counts[index] for index in chosen], dtype=np.float64)
        return total


def _in_steps(shares: np.ndarray) -> np.ndarray:
    """Shares (K,) as whole numbers of a small step, which float64 adds up without rounding; their sum is kept."""
    return np.diff(np.rint(np.cumsum(shares) / _SHARE_STEP), prepend=0) * _SHARE_STEP


def _compact(counts: np.ndarray) -> np.ndarray:
    """Whole numbers in 16 bits if they fit, else in 32; shares, of which float32 holds every step, in 32."""
    if counts.dtype.kind == "f":
        return counts.astype(np.float32)
    return counts.astype(np.int16 if np.abs(counts).max() <= np.iinfo(np.int16).max else np.int32)
