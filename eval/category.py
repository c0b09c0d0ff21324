"""What is known of one category once all its images were counted, and the metrics that follow from it.

Both ways of counting, `eval.scorer.Scorer` and `eval.exact.count_exactly`, end in `CategoryCounts`, so that every
metric is worked out in one place. A metric that has no meaning for a category is None and `reasons` says why: never 0
or NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval.images import ImageFacts
from eval.ranking.curves import F1Max, RankingCurve, curve_from_counts, curve_from_scores, f1_floor
from eval.regions.pro import fewest_pixels, pixel_weights, pro_curve, pro_from_counts
from eval.regions.region_f1 import RegionCurve

IMAGE_METRICS = (
    "auroc_cls", "f1_cls", "ap_cls", "f1_cls_floor", "f1_cls_threshold", "precision_cls", "recall_cls",
)  # fmt: skip
PIXEL_METRICS = (
    "auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_seg_floor", "f1_seg_threshold", "precision_seg", "recall_seg",
    "auroc_seg_low_fpr",
)  # fmt: skip
REGION_METRICS = ("f1_region", "f1_region_threshold", "precision_region", "recall_region")

LOW_FPR = 0.05
"""The false positive rate up to which `auroc_seg_low_fpr` looks, as reported on MVTec AD 2."""

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class CategoryScores:
    """The metrics of one category, in [0, 1] (thresholds: in the unit of the scores), None where one has no meaning.

    `reasons` says, for each metric that is None, why. `num_images` counts every image given, `num_anomalous` those
    known to be anomalous, `num_unlabelled` those that nothing is known of and that no metric counts. `recall_by_type`
    is, for each defect type, `images` (how many), and the recall of images, pixels and regions at the category's own
    F1-max thresholds: `image`, `pixel`, `region`, None where there is no such threshold or no mask. `rounding` says by
    how much rounding the maps to float16 changed `auroc_seg` and `ap_seg`, estimated; empty if they were not rounded.
    """

    metrics: Metrics
    reasons: dict[str, str] = field(default_factory=dict)
    num_images: int = 0
    num_anomalous: int = 0
    num_unlabelled: int = 0
    recall_by_type: dict[str, dict[str, float | None]] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScoreCurves:
    """The curves behind the metrics, None where the category has none.

    `pro` is the false positive rate and the mean overlap of the regions, (K + 1,) each; `region` counts components.
    """

    image: RankingCurve | None
    pixel: RankingCurve | None
    pro: tuple[np.ndarray, np.ndarray] | None
    region: RegionCurve | None


@dataclass(frozen=True, eq=False)
class DefectRecord:
    """The defect pixels of one image.

    `ranks` is (M,), indices into the category's descending values, with `counts` (M,) pixels at each. `hit_values` (F,)
    are scores at which the number of regions hit changes, by `hits` (F,), of `num_regions`.
    """

    defect_type: str
    ranks: np.ndarray
    counts: np.ndarray
    num_regions: int
    hit_values: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True, eq=False)
class CategoryCounts:
    """All that the metrics of a category follow from.

    `values` (K,) are descending thresholds, `positives`, `negatives` and `normal` (K,) how many defect pixels, normal
    pixels, and pixels of normal images lie at each, `shares` (K,) how much of the regions (see `eval.regions.pro`).
    `region` is None if components were not followed.
    """

    images: ImageFacts
    values: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    normal: np.ndarray
    shares: np.ndarray
    records: Sequence[DefectRecord]
    region: RegionCurve | None
    pro_fpr_limit: float

    @property
    def region_f1(self) -> bool:
        """Whether components were followed."""
        return self.region is not None

    @cached_property
    def why_no_images(self) -> str:
        """Why the category has no image metrics; empty if it has."""
        num_anomalous, num_images = sum(self.images.labels), len(self.images.labels)
        if not num_anomalous:
            return f"no anomalous image among {num_images}" + self._uncounted()
        if num_anomalous == num_images:
            return f"no normal image among {num_images}" + self._uncounted()
        return ""

    @cached_property
    def why_no_pixels(self) -> str:
        """Why the category has no pixel and no region metrics; empty if it has."""
        if self.images.num_without_mask:
            return f"{self.images.num_without_mask} of {sum(self.images.labels)} anomalous images have no mask"
        if not self.positives.any():
            return f"no defect pixel in {len(self.images.labels)} images" + self._uncounted()
        if not self.negatives.any():
            return f"no normal pixel in {len(self.images.labels)} images" + self._uncounted()
        return ""

    def _uncounted(self) -> str:
        number = self.images.num_unlabelled
        return f" ({number} more with neither label nor mask)" if number else ""

    @property
    def num_regions(self) -> int:
        """How many defect regions the masks hold."""
        return sum(record.num_regions for record in self.records)

    @cached_property
    def image_curve(self) -> RankingCurve | None:
        """The ranking of the images."""
        if self.why_no_images:
            return None
        return curve_from_scores(np.array(self.images.scores), np.array(self.images.labels))

    @cached_property
    def pixel_curve(self) -> RankingCurve | None:
        """The ranking of all pixels of all images."""
        if self.why_no_pixels:
            return None
        return curve_from_counts(self.values, self.positives, self.negatives)

    def curves(self) -> ScoreCurves:
        """The curves behind the metrics."""
        pro = None if self.why_no_pixels else pro_curve(self.negatives, self.shares, self.num_regions)
        return ScoreCurves(self.image_curve, self.pixel_curve, pro, None if self.why_no_pixels else self.region)

    def compute(self) -> CategoryScores:
        """All metrics of the category."""
        metrics: Metrics = {}
        reasons: dict[str, str] = {}
        image_best = _add_curve(metrics, reasons, "cls", IMAGE_METRICS, self.image_curve, self.why_no_images)
        pixel_best = _add_curve(metrics, reasons, "seg", PIXEL_METRICS, self.pixel_curve, self.why_no_pixels)
        if self.pixel_curve:
            metrics["auroc_seg_low_fpr"] = self.pixel_curve.auroc_up_to(LOW_FPR)
            metrics["pro_seg"] = pro_from_counts(self.negatives, self.shares, self.num_regions, self.pro_fpr_limit)
        region_best = self._add_regions(metrics, reasons)
        self._add_harmonic(metrics, reasons)
        self._add_pimo(metrics, reasons)
        return CategoryScores(
            metrics, reasons, len(self.images), sum(self.images.labels), self.images.num_unlabelled,
            self._recall_by_type(image_best, pixel_best, region_best),
        )  # fmt: skip

    def _add_regions(self, metrics: Metrics, reasons: dict[str, str]) -> F1Max | None:
        why = self.why_no_pixels or ("" if self.region else "components were not followed")
        if why or self.region is None:
            metrics |= dict.fromkeys(REGION_METRICS)
            reasons |= dict.fromkeys(REGION_METRICS, why)
            return None
        best = self.region.f1_max()
        metrics |= dict(zip(REGION_METRICS, (best.value, best.threshold, best.precision, best.recall), strict=True))
        return best

    def _add_harmonic(self, metrics: Metrics, reasons: dict[str, str]) -> None:
        f1_cls, f1_seg = metrics["f1_cls"], metrics["f1_seg"]
        if f1_cls is None or f1_seg is None:
            metrics["f1_harmonic"] = None
            reasons["f1_harmonic"] = "; ".join(
                dict.fromkeys(why for why in (self.why_no_images, self.why_no_pixels) if why)
            )
        else:
            metrics["f1_harmonic"] = 2 * f1_cls * f1_seg / (f1_cls + f1_seg)

    def _add_pimo(self, metrics: Metrics, reasons: dict[str, str]) -> None:
        metrics["aupimo_seg"] = None
        num_normal = int(self.normal.sum())
        if self.why_no_pixels:
            reasons["aupimo_seg"] = self.why_no_pixels
        elif num_normal < fewest_pixels():
            reasons["aupimo_seg"] = (
                f"{num_normal} pixels in normal images are too few for a false positive rate of {1 / fewest_pixels():g}"
            )
        else:
            weights = pixel_weights(self.normal)
            means = [float(weights[r.ranks] @ r.counts) / int(r.counts.sum()) for r in self.records]
            metrics["aupimo_seg"] = math.fsum(means) / len(means)

    def _recall_by_type(
        self, image: F1Max | None, pixel: F1Max | None, region: F1Max | None
    ) -> dict[str, dict[str, float | None]]:
        return {
            name: {
                "images": self.images.defect_types.count(name),
                "image": None if image is None else self._image_recall(name, image.threshold),
                "pixel": None if pixel is None else self._pixel_recall(name, pixel.threshold),
                "region": None if region is None else self._region_recall(name, region.threshold),
            }
            for name in sorted(set(self.images.defect_types) - {""})
        }

    def _image_recall(self, defect_type: str, threshold: float) -> float:
        images = zip(self.images.scores, self.images.defect_types, strict=True)
        scores = [score for score, name in images if name == defect_type]
        return sum(score >= threshold for score in scores) / len(scores)

    def _pixel_recall(self, defect_type: str, threshold: float) -> float:
        first_below = int(np.count_nonzero(self.values >= threshold))
        records = [record for record in self.records if record.defect_type == defect_type]
        found = sum(int(record.counts[record.ranks < first_below].sum()) for record in records)
        return found / sum(int(record.counts.sum()) for record in records)

    def _region_recall(self, defect_type: str, threshold: float) -> float:
        records = [record for record in self.records if record.defect_type == defect_type]
        found = sum(int(record.hits[record.hit_values >= np.float64(threshold)].sum()) for record in records)
        return found / sum(record.num_regions for record in records)


def _add_curve(
    metrics: Metrics, reasons: dict[str, str], level: str, names: Sequence[str], curve: RankingCurve | None, why: str
) -> F1Max | None:
    """AUROC, AP, F1-max with its threshold, precision and recall, and the F1 floor, with ids ending in cls or seg."""
    metrics |= dict.fromkeys(names)
    if curve is None:
        reasons |= dict.fromkeys(names, why)
        return None
    best = curve.f1_max()
    metrics |= {
        f"auroc_{level}": curve.auroc(),
        f"f1_{level}": best.value,
        f"ap_{level}": curve.average_precision(),
        f"f1_{level}_floor": f1_floor(curve.num_positive, curve.num_positive + curve.num_negative),
        f"f1_{level}_threshold": best.threshold,
        f"precision_{level}": best.precision,
        f"recall_{level}": best.recall,
    }
    return best
