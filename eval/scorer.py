"""`Scorer`, one category's images in, its metrics out; `score_arrays`, the same from arrays in memory, unrounded.

What is counted. Image metrics rank the image scores as they are (float64). Pixel metrics pool the pixels of all
images of the category, normal ones too; `Scorer` rounds maps to float16 first (as the prediction store keeps them),
`score_arrays` does not. A metric that has no meaning for a category is None and `reasons` says why: never 0 or NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.curves import RankingCurve, curve_from_ranks, curve_from_scores, descending_ranks, f1_floor
from eval.errors import ScoringInputError
from eval.histogram import ValueCounts, to_float16
from eval.image_checks import CheckedImage, check_image
from eval.regions import RegionCounts, check_fpr_limit, covered_shares, label_regions, pro_from_counts

IMAGE_METRICS = ("auroc_cls", "f1_cls", "ap_cls", "f1_cls_floor", "f1_cls_threshold")
PIXEL_METRICS = ("auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_seg_floor", "f1_seg_threshold")

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class CategoryScores:
    """The metrics of one category, in [0, 1] (thresholds: in the unit of the scores), None where one has no meaning.

    `reasons` says, for each metric that is None, why. `num_images` counts every image given, `num_anomalous` those
    known to be anomalous, `num_unlabelled` those that nothing is known of and that no metric counts.
    """

    metrics: Metrics
    reasons: dict[str, str] = field(default_factory=dict)
    num_images: int = 0
    num_anomalous: int = 0
    num_unlabelled: int = 0


class _Images:
    """The image scores and labels of a category, and which of its images cannot be counted."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.num_unlabelled = 0
        self.num_without_mask = 0

    def __len__(self) -> int:
        return len(self.labels) + self.num_unlabelled

    def add(self, image: CheckedImage) -> None:
        if image.label is None:
            self.num_unlabelled += 1
            return
        self.scores.append(image.image_score)
        self.labels.append(image.label)
        self.num_without_mask += image.mask is None

    def merge(self, other: "_Images") -> None:
        self.scores += other.scores
        self.labels += other.labels
        self.num_unlabelled += other.num_unlabelled
        self.num_without_mask += other.num_without_mask


class Scorer:
    """Takes the images of one category one at a time and computes its metrics; no pixel is kept.

    Raises:
        ScoringInputError: for a `pro_fpr_limit`, PRO's largest false positive rate, outside (0, 1].
    """

    def __init__(self, pro_fpr_limit: float = 0.3) -> None:
        check_fpr_limit(pro_fpr_limit)
        self.pro_fpr_limit = pro_fpr_limit
        self._images = _Images()
        self._pixels = ValueCounts()
        self._regions = RegionCounts()

    def update(
        self,
        anomaly_map: np.ndarray,
        mask: np.ndarray | None,
        image_score: float,
        label: int | None = None,
        name: str = "",
    ) -> None:
        """Add one image.

        `anomaly_map` is (H, W) float, counted as float16; `mask` (H, W) bool, True = defect, or None if unknown;
        `label` 1 anomalous, 0 normal (no mask then means no defect pixel), None: as the mask says. An image of which
        neither is known counts for nothing but `num_unlabelled`. `name` is for errors.

        Raises:
            ScoringInputError: as `check_image`, and for values beyond float16; nothing of the image is added then.
        """
        name = name or f"number {len(self._images) + 1}"
        image = check_image(anomaly_map, mask, image_score, label, name)
        values = _rounded(anomaly_map, name)
        self._images.add(image)
        if image.mask is not None:
            self._pixels.add(values, image.mask)
            self._regions.add(values, image.mask)

    def merge(self, other: "Scorer") -> None:
        """Add the images that `other` was given, of the same category; the order of merging does not matter.

        Raises:
            ScoringInputError: if the two differ in their limit for PRO.
        """
        if other.pro_fpr_limit != self.pro_fpr_limit:
            raise ScoringInputError(
                f"Expected a scorer with the same false positive rate limit for PRO, {self.pro_fpr_limit}, got "
                f"{other.pro_fpr_limit}. Build both with the same limit."
            )
        self._images.merge(other._images)
        self._pixels.merge(other._pixels)
        self._regions.merge(other._regions)

    def compute(self) -> CategoryScores:
        """The metrics of all images added so far; more may be added afterwards."""
        curve = self._pixels.curve()
        if why_no_pixels := _why_no_pixel_metrics(self._images, curve):
            return _category_scores(self._images, None, why_no_pixels)
        _, negatives = self._pixels.by_value()
        pro = self._regions.pro(negatives, self.pro_fpr_limit)
        return _category_scores(self._images, _pixel_metrics(curve, pro))


def score_arrays(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    image_scores: Sequence[float],
    labels: Sequence[int | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    pro_fpr_limit: float = 0.3,
) -> CategoryScores:
    """Score one category held in memory, N of each, without rounding the maps: the reference for `Scorer`.

    Each image is as `Scorer.update` takes it. It sorts all pixels at once, which takes about 20 times the memory of
    the float32 maps.

    Raises:
        ScoringInputError: as `Scorer.update`, and for sequences of unlike lengths.
    """
    check_fpr_limit(pro_fpr_limit)
    labels = [None] * len(maps) if labels is None else labels
    names = [f"number {i + 1}" for i in range(len(maps))] if names is None else names
    if len({len(maps), len(masks), len(image_scores), len(labels), len(names)}) != 1:
        raise ScoringInputError(
            f"Expected one mask, score, label and name for each of {len(maps)} maps, got {len(masks)} masks, "
            f"{len(image_scores)} scores, {len(labels)} labels and {len(names)} names. Use None for what is unknown."
        )
    everything = zip(maps, masks, image_scores, labels, names, strict=True)
    return _score_pooled([check_image(*one) for one in everything], pro_fpr_limit)


def _score_pooled(checked: Sequence[CheckedImage], pro_fpr_limit: float) -> CategoryScores:
    """The metrics of images held in memory, all pixels ranked together."""
    images = _Images()
    for image in checked:
        images.add(image)
    maps = [image.anomaly_map.ravel() for image in checked if image.mask is not None]
    masks = [image.mask for image in checked if image.mask is not None]
    positive = np.concatenate([np.zeros(0, dtype=bool), *(mask.ravel() for mask in masks)])
    values, ranks = descending_ranks(np.concatenate(maps) if maps else np.zeros(0))
    curve = curve_from_ranks(values, ranks, positive)
    if why_no_pixels := _why_no_pixel_metrics(images, curve):
        return _category_scores(images, None, why_no_pixels)
    regions, num_regions = _regions_of_defect_pixels(masks)
    shares = covered_shares(ranks[positive], regions, values.size)
    negatives = np.diff(curve.false_positives, prepend=0)
    pro = pro_from_counts(negatives, shares, num_regions, pro_fpr_limit)
    return _category_scores(images, _pixel_metrics(curve, pro))


def _regions_of_defect_pixels(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """The region, 1..n over all masks, of each defect pixel in reading order, and n."""
    numbers, num_regions = [], 0
    for mask in masks:
        labels, found = label_regions(mask)
        numbers.append(labels[mask].astype(np.int64) + num_regions)
        num_regions += found
    return np.concatenate(numbers), num_regions


def _rounded(anomaly_map: np.ndarray, name: str) -> np.ndarray:
    try:
        return to_float16(anomaly_map)
    except ScoringInputError as error:
        raise ScoringInputError(f"Image {name}: {error}") from error


def _why_no_pixel_metrics(images: _Images, curve: RankingCurve) -> str:
    """Why the category has no pixel metrics; empty if it has."""
    if images.num_without_mask:
        return f"{images.num_without_mask} of {sum(images.labels)} anomalous images have no mask"
    if not curve.num_positive:
        return f"no defect pixel in {len(images.labels)} images" + _uncounted(images)
    if not curve.num_negative:
        return f"no normal pixel in {len(images.labels)} images" + _uncounted(images)
    return ""


def _why_no_image_metrics(images: _Images) -> str:
    """Why the category has no image metrics; empty if it has."""
    num_anomalous = sum(images.labels)
    if not num_anomalous:
        return f"no anomalous image among {len(images.labels)}" + _uncounted(images)
    if num_anomalous == len(images.labels):
        return f"no normal image among {len(images.labels)}" + _uncounted(images)
    return ""


def _uncounted(images: _Images) -> str:
    return f" ({images.num_unlabelled} more with neither label nor mask)" if images.num_unlabelled else ""


def _curve_metrics(curve: RankingCurve, level: str) -> Metrics:
    """AUROC, AP, F1-max with its threshold, and the F1 floor, with ids ending in `level`: cls or seg."""
    best = curve.f1_max()
    return {
        f"auroc_{level}": curve.auroc(),
        f"f1_{level}": best.value,
        f"ap_{level}": curve.average_precision(),
        f"f1_{level}_floor": f1_floor(curve.num_positive, curve.num_positive + curve.num_negative),
        f"f1_{level}_threshold": best.threshold,
    }


def _pixel_metrics(curve: RankingCurve, pro: float) -> Metrics:
    return {**_curve_metrics(curve, "seg"), "pro_seg": pro}


def _category_scores(images: _Images, pixels: Metrics | None, why_no_pixels: str = "") -> CategoryScores:
    """Join image and pixel metrics, their harmonic F1, and a reason for each that is None."""
    metrics: Metrics = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS, "f1_harmonic"))
    reasons: dict[str, str] = {}
    if why_no_images := _why_no_image_metrics(images):
        reasons |= dict.fromkeys(IMAGE_METRICS, why_no_images)
    else:
        metrics |= _curve_metrics(curve_from_scores(np.array(images.scores), np.array(images.labels)), "cls")
    if pixels is None:
        reasons |= dict.fromkeys(PIXEL_METRICS, why_no_pixels)
    else:
        metrics |= pixels
    f1_cls, f1_seg = metrics["f1_cls"], metrics["f1_seg"]
    if f1_cls is None or f1_seg is None:
        reasons["f1_harmonic"] = "; ".join(dict.fromkeys(why for why in (why_no_images, why_no_pixels) if why))
    else:
        metrics["f1_harmonic"] = 2 * f1_cls * f1_seg / (f1_cls + f1_seg)
    return CategoryScores(metrics, reasons, len(images), sum(images.labels), images.num_unlabelled)
