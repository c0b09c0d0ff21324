"""`Scorer`: one category's images in, as they come, its metrics out; no pixel is kept.

What is counted. Image metrics rank the image scores as they are (float64). Pixel metrics pool the pixels of all images
of the category, normal ones too, and take the maps as float16, as the prediction store keeps them: float16 maps are
scored as they are, others are rounded first (`score_arrays` does not round), and where that costs rank it is said.
Where all scores are equal, nothing is ranked: AUROC is 0.5, AP and F1-max are their floors, PRO is half its limit.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.category import CategoryCounts, CategoryScores, DefectRecord, ScoreCurves
from eval.compiled import falling_order
from eval.errors import ScoringInputError
from eval.exact import score_arrays as score_arrays
from eval.images import CheckedImage, CheckedImages, ImageFacts, not_finite
from eval.ranking.counting import NUM_PATTERNS, count_patterns
from eval.ranking.histogram import LARGEST, VALUES, RoundingSample, in_value_order, pattern_ranks, rank_loss
from eval.regions.components import component_changes, label_regions
from eval.regions.hits import hit_changes
from eval.regions.pro import add_covered_shares, check_fpr_limit
from eval.regions.region_f1 import LEAST_IOU, RegionCurve
from eval.state import read_state, write_state


class Scorer:
    """Takes the images of one category, one or several at a time, and computes its metrics.

    Holds a few MB, for each anomalous image the counts of its defect pixels by value, and a few kB of each map that is
    rounded.

    Args:
        pro_fpr_limit: PRO's largest false positive rate, in (0, 1].
        region_f1: whether to follow components for region F1, which takes most of the time.

    Raises:
        ScoringInputError: for a limit outside (0, 1].
    """

    def __init__(self, pro_fpr_limit: float = 0.3, region_f1: bool = True) -> None:
        check_fpr_limit(pro_fpr_limit)
        self.pro_fpr_limit = pro_fpr_limit
        self.region_f1 = region_f1
        self._images = ImageFacts()
        self._patterns = np.zeros((2, NUM_PATTERNS), dtype=np.int64)  # pixels of normal and of anomalous images
        self._positives = np.zeros(VALUES.size, dtype=np.int64)
        self._shares = np.zeros(VALUES.size, dtype=np.int64)
        self._components = np.zeros(VALUES.size, dtype=np.int64)
        self._records: list[DefectRecord] = []
        self._unrounded = RoundingSample()

    def update(
        self,
        maps: np.ndarray | Sequence[np.ndarray],
        masks: np.ndarray | Sequence[np.ndarray | None] | None,
        image_scores: float | Sequence[float] | np.ndarray,
        labels: int | Sequence[int | None] | None = None,
        names: str | Sequence[str] | None = None,
        defect_types: str | Sequence[str] | None = None,
    ) -> None:
        """Add one image, or N of them.

        One image: `maps` is (H, W) float, `masks` (H, W) bool or 0 and 1, True = defect, or None if unknown, `labels` 1
        anomalous, 0 normal (no mask then means no defect pixel), None: as the mask says; `names` is for errors,
        `defect_types` for the recall by type. An image of which neither label nor mask is known counts for nothing but
        `num_unlabelled`. N images: (N, H, W), or sequences of N of each, of which all but the first three may be None.

        Raises:
            ScoringInputError: as `check_image`, for NaN or inf in a map, for values beyond float16, and for sequences
                of unlike lengths. Nothing of the image that the error names is added; those before it are.
        """
        if np.ndim(image_scores) == 0:
            maps, masks, image_scores = [maps], [masks], [image_scores]  # type: ignore[list-item]
            labels, names = [labels], None if names is None else [names]  # type: ignore[list-item]
            defect_types = None if defect_types is None else [defect_types]  # type: ignore[list-item]
        images = CheckedImages(maps, masks, image_scores, labels, names, defect_types, first=len(self._images) + 1)  # type: ignore[arg-type]
        for i in range(len(images)):
            self._add(*images[i])

    def _add(self, image: CheckedImage, name: str) -> None:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(image.anomaly_map, dtype=np.float16)
        if image.mask is None:
            if not np.isfinite(values).all():
                raise _no_rank(image.anomaly_map, name)
        else:
            is_anomalous = int(bool(image.label))
            if not count_patterns(values.view(np.uint16).ravel(), self._patterns[is_anomalous]):
                raise _no_rank(image.anomaly_map, name)
            if is_anomalous:
                self._add_defects(values, image)
            if self.region_f1:
                changes = component_changes(values)
                np.add.at(self._components, pattern_ranks(values.ravel()[changes.pixels]), changes.steps)
            self._unrounded.add(image.anomaly_map, image.mask)
        self._images.add(image)

    def _add_defects(self, values: np.ndarray, image: CheckedImage) -> None:
        """Take note of the defect pixels of an image: values (H, W) float16."""
        assert image.mask is not None
        flat, pixels = values.ravel(), np.flatnonzero(image.mask)
        labels, num_regions = label_regions(image.mask)
        found, regions = flat[pixels], labels.ravel()[pixels]
        order, ranks = falling_order(found), pattern_ranks(found)
        add_covered_shares(ranks, regions, order, self._shares)
        starts = np.flatnonzero(np.diff(ranks[order], prepend=-1))
        distinct, counts = ranks[order][starts], np.diff(starts, append=ranks.size)
        self._positives[distinct] += counts
        hit_values, hits = np.zeros(0, dtype=np.float16), np.zeros(0, dtype=np.int64)
        if self.region_f1:
            changes = hit_changes(values, labels, LEAST_IOU)
            hit_values, hits = flat[changes.pixels], changes.steps
        ranks, counts = distinct.astype(np.uint16), counts.astype(np.uint32)  # kept for every image: as small as may be
        self._records.append(DefectRecord(image.defect_type, ranks, counts, num_regions, hit_values, hits))

    def merge(self, other: "Scorer") -> None:
        """Add the images that `other` was given, of the same category; the order of merging does not change any metric.

        Raises:
            ScoringInputError: if the two differ in their settings.
        """
        mine, others = (self.pro_fpr_limit, self.region_f1), (other.pro_fpr_limit, other.region_f1)
        if mine != others:
            raise ScoringInputError(
                f"Expected a scorer with the same settings (pro_fpr_limit, region_f1), {mine}, got {others}. "
                "Build both alike."
            )
        self._images.merge(other._images)
        for name in ("_patterns", "_positives", "_shares", "_components"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._records += other._records
        self._unrounded.merge(other._unrounded)

    def save(self, path: Path | str) -> None:
        """Write everything counted so far to a small file, from which `load` makes an equal scorer."""
        settings = {"pro_fpr_limit": self.pro_fpr_limit, "region_f1": self.region_f1}
        arrays = {name: getattr(self, f"_{name}") for name in ("patterns", "positives", "shares", "components")}
        write_state(Path(path), settings, arrays, self._images, self._records, self._unrounded)

    @classmethod
    def load(cls, path: Path | str) -> "Scorer":
        """The scorer that was saved to `path`; more may be added to it or merged with it.

        Raises:
            ScoringInputError: if the file is missing or is not such a state.
        """
        settings, arrays, images, records, unrounded = read_state(Path(path))
        scorer = cls(**settings)
        for name, array in arrays.items():
            setattr(scorer, f"_{name}", array)
        scorer._images, scorer._records, scorer._unrounded = images, records, unrounded
        return scorer

    def compute(self) -> CategoryScores:
        """The metrics of all images added so far; more may be added afterwards.

        Warns if rounding the maps to float16 changed AUROC or AP by more than 0.001: `rounding` of the result.
        """
        change = self._unrounded.change()
        if loss := rank_loss(change):
            warnings.warn(f"{loss}. Score them unrounded with eval.scorer.score_arrays.", stacklevel=2)
        return replace(self._counts().compute(), rounding=change)

    def curves(self) -> ScoreCurves:
        """The curves behind the metrics."""
        return self._counts().curves()

    def _counts(self) -> CategoryCounts:
        normal, anomalous = (in_value_order(patterns) for patterns in self._patterns)
        seen = np.flatnonzero(normal + anomalous)
        negatives = (normal + anomalous - self._positives)[seen]
        ranks = np.zeros(VALUES.size, dtype=np.uint16)
        ranks[seen] = np.arange(seen.size)
        records = [
            DefectRecord(r.defect_type, ranks[r.ranks], r.counts, r.num_regions, r.hit_values, r.hits)
            for r in self._records
        ]
        return CategoryCounts(
            self._images, VALUES[seen], self._positives[seen], negatives, normal[seen], self._shares[seen], records,
            self._region_curve() if self.region_f1 and seen.size else None, self.pro_fpr_limit,
        )  # fmt: skip

    def _region_curve(self) -> RegionCurve:
        hits = np.zeros(VALUES.size, dtype=np.int64)
        for record in self._records:
            np.add.at(hits, pattern_ranks(record.hit_values), record.hits)
        changed = np.flatnonzero(self._components | hits)
        components, hits = np.cumsum(self._components[changed]), np.cumsum(hits[changed])
        return RegionCurve(VALUES[changed], components, hits, sum(record.num_regions for record in self._records))


def _no_rank(anomaly_map: np.ndarray, name: str) -> ScoringInputError:
    """The error for a map that float16 cannot hold."""
    return not_finite(anomaly_map, name) or ScoringInputError(
        f"Image {name}: expected values that float16 can hold (up to {LARGEST:.0f} in size), got "
        f"{float(np.abs(anomaly_map).max()):g}. Scale the maps of the whole category by one factor, or score them "
        "unrounded with eval.scorer.score_arrays."
    )
