"""The metrics of a category by their definitions, one threshold and one region at a time: slow, to compare with.

AUROC, AP and the precision-recall curve are scikit-learn's; everything else is counted out at every distinct value.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from eval.category import IMAGE_METRICS, PIXEL_METRICS, REGION_METRICS, CategoryScores
from eval.scorer import Scorer, score_arrays

ALL_METRICS = {*IMAGE_METRICS, *PIXEL_METRICS, *REGION_METRICS, "f1_harmonic", "aupimo_seg"}
TOO_FEW = "pixels in normal images are too few"
"""Why small categories have no AUPIMO."""

Best = tuple[float, float, float, float]
"""A largest F1, its threshold, and precision and recall there."""


@dataclass
class Category:
    """The images of a category as the scorer takes them."""

    maps: list[np.ndarray]
    masks: list
    scores: list[float]
    labels: list
    types: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.types = self.types or [""] * len(self.maps)

    def scorer(self, images: Any = None, **settings: Any) -> Scorer:
        """A scorer that was given the images of these places, one by one; all if None."""
        scorer = Scorer(**settings)
        for i in range(len(self.maps)) if images is None else images:
            scorer.update(self.maps[i], self.masks[i], self.scores[i], self.labels[i], f"{i}.png", self.types[i])
        return scorer

    def scored(self, images: Any = None, **settings: Any) -> CategoryScores:
        """What a scorer says of these images, by float16."""
        return self.scorer(images, **settings).compute()

    def scored_unrounded(self, **settings: Any) -> CategoryScores:
        """The scores of the maps as they are."""
        return score_arrays(self.maps, self.masks, self.scores, self.labels, defect_types=self.types, **settings)

    def completed(self) -> "Category":
        """The images that count, float64, with the label that a mask states and the mask that a normal label states."""
        counted = Category([], [], [], [], [])
        for i, mask in enumerate(self.masks):
            label = self.labels[i] if mask is None or self.labels[i] is not None else int(np.any(mask))
            if label is None:
                continue
            mask = np.zeros(self.maps[i].shape) if mask is None and not label else mask
            counted.maps.append(self.maps[i].astype(np.float64))
            counted.masks.append(None if mask is None else np.asarray(mask).astype(bool))
            counted.scores.append(self.scores[i])
            counted.labels.append(int(label))
            counted.types.append(self.types[i] if label else "")
        return counted


def category(seed: int = 0, images: int = 8, levels: int | None = None) -> Category:
    """Noise with faint squares where the masks are; with `levels`, whole numbers that float16 holds exactly."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(images):
        mask = np.zeros((24, 30 + i), dtype=bool)
        if i % 2:
            mask[2:7, 3:9] = mask[15:17, 20:22] = mask[23, 0] = True
        noise = rng.random(mask.shape) if levels is None else rng.integers(0, levels, mask.shape)
        maps.append((noise + mask * (0.4 if levels is None else levels // 3)).astype(np.float32))
        masks.append(mask)
    return Category(maps, masks, [float(m.mean()) for m in maps], [i % 2 for i in range(images)])


def parts(binary: np.ndarray) -> list[np.ndarray]:
    """The 8-connected parts of a bool map (H, W), as one bool map each."""
    labels, number = scipy.ndimage.label(binary, structure=np.ones((3, 3)))
    return [labels == i for i in range(1, number + 1)]


def thresholds(maps: list[np.ndarray]) -> list[float]:
    """All distinct values of the maps, descending."""
    return sorted({float(value) for one in maps for value in one.ravel()}, reverse=True)


def plain_pro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """PRO: mean share of the regions found over the false positive rate, area up to the limit over the limit."""
    regions = [(one, region) for one, mask in zip(maps, masks, strict=True) for region in parts(mask)]
    normal = np.concatenate([one[~mask] for one, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in thresholds(maps):
        overlap = [np.mean(one[region] >= threshold) for one, region in regions]
        points.append((float(np.mean(normal >= threshold)), float(np.mean(overlap))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def hits_at(one: np.ndarray, regions: list[np.ndarray], threshold: float) -> tuple[int, list[bool]]:
    """How many components a map has at a threshold, and which regions one of them hits (overlap / union >= 0.6)."""
    components = parts(one >= threshold)
    hit = [any(5 * np.sum(c & region) >= 3 * np.sum(c | region) for c in components) for region in regions]
    return len(components), hit


def plain_region_counts(maps: list[np.ndarray], masks: list[np.ndarray]) -> list[tuple[float, int, int]]:
    """(threshold, components, hits) over all images at every distinct value, descending."""
    regions = [parts(mask) for mask in masks]
    rows = []
    for threshold in thresholds(maps):
        found = [hits_at(one, of_image, threshold) for one, of_image in zip(maps, regions, strict=True)]
        rows.append((threshold, sum(number for number, _ in found), sum(sum(hit) for _, hit in found)))
    return rows


def plain_region_f1(maps: list[np.ndarray], masks: list[np.ndarray]) -> Best:
    """The largest region F1, at the highest of equal thresholds."""
    num_regions = sum(len(parts(mask)) for mask in masks)
    rows = plain_region_counts(maps, masks)
    threshold, components, hits = max(rows, key=lambda row: Fraction(2 * row[2], row[1] + num_regions))
    return 2 * hits / (components + num_regions), threshold, hits / components, hits / num_regions


def plain_pimo(maps: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """AUPIMO: for each anomalous image the recall of its pixels over log FPR from 1e-5 to 1e-4, of normal images."""
    normal = np.sort(np.concatenate([m.ravel() for m, mask in zip(maps, masks, strict=True) if not mask.any()]))
    areas = []
    for one, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        steps = sorted({float(value) for value in one[mask]}, reverse=True)
        rates = [(normal.size - int(np.searchsorted(normal, value))) / normal.size for value in steps]
        edges = [math.log10(min(max(rate, 1e-5), 1e-4)) for rate in [*rates, 1.0]]
        recalls = [float(np.mean(one[mask] >= value)) for value in steps]
        areas.append(sum(recall * (after - at) for recall, (at, after) in zip(recalls, pairwise(edges), strict=True)))
    return float(np.mean(areas))


def sklearn_f1_max(labels: np.ndarray, scores: np.ndarray) -> Best:
    """The best of scikit-learn's thresholds, the highest of equals."""
    precision, recall, values = precision_recall_curve(labels, scores)
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-300)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]
    return f1[best], values[best], precision[best], recall[best]


def plain_metrics(given: Category, limit: float = 0.3) -> dict[str, float | None]:
    """All metrics but AUPIMO; None where there is nothing to compare."""
    counted = given.completed()
    metrics = ranking_metrics("cls", np.array(counted.labels, dtype=bool), np.array(counted.scores))
    pixels = {
        "pro_seg": None,
        "auroc_seg_low_fpr": None,
        **ranking_metrics("seg", np.zeros(0, dtype=bool), np.zeros(0)),
        **_region(None),
    }
    if all(mask is not None for mask in counted.masks) and counted.maps:
        labels = np.concatenate([mask.ravel() for mask in counted.masks])
        if labels.any() and not labels.all():
            pixels = {"pro_seg": plain_pro(counted.maps, counted.masks, limit)}
            values = np.concatenate([one.ravel() for one in counted.maps])
            pixels |= ranking_metrics("seg", labels, values)
            pixels["auroc_seg_low_fpr"] = roc_auc_score(labels, values, max_fpr=0.05)
            pixels |= _region(plain_region_f1(counted.maps, counted.masks))
    metrics |= pixels
    both = (metrics["f1_cls"], metrics["f1_seg"])
    metrics["f1_harmonic"] = None if None in both else 2 / sum(1 / f1 for f1 in both if f1)
    return metrics


def ranking_metrics(level: str, labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """The metrics of a ranking by scikit-learn, their ids ending in `level`; None without both kinds."""
    best: tuple[float | None, ...] = (None,) * 4
    auroc = precision = floor = None
    if labels.any() and not labels.all():
        best = sklearn_f1_max(labels, scores)
        auroc, precision = roc_auc_score(labels, scores), average_precision_score(labels, scores)
        floor = 2 * labels.sum() / (labels.sum() + labels.size)
    names = (f"f1_{level}", f"f1_{level}_threshold", f"precision_{level}", f"recall_{level}")
    rest = {f"auroc_{level}": auroc, f"ap_{level}": precision, f"f1_{level}_floor": floor}
    return {**dict(zip(names, best, strict=True)), **rest}


def _region(best: Best | None) -> dict[str, float | None]:
    names = ("f1_region", "f1_region_threshold", "precision_region", "recall_region")
    return dict(zip(names, best or (None,) * 4, strict=True))


def plain_recalls(given: Category, metrics: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Recall of images, pixels and regions of each defect type at the thresholds among the metrics."""
    counted = given.completed()
    rows = {}
    for name in sorted(set(counted.types) - {""}):
        places = [i for i, one in enumerate(counted.types) if one == name]
        row: dict[str, float | None] = {"images": len(places), "image": None, "pixel": None, "region": None}
        if (image := metrics["f1_cls_threshold"]) is not None:
            row["image"] = float(np.mean([counted.scores[i] >= image for i in places]))
        if (pixel := metrics["f1_seg_threshold"]) is not None:
            found = np.concatenate([counted.maps[i][counted.masks[i]] >= pixel for i in places])
            row["pixel"] = float(np.mean(found))
        if (region := metrics["f1_region_threshold"]) is not None:
            hit = [hits_at(counted.maps[i], parts(counted.masks[i]), region)[1] for i in places]
            row["region"] = float(np.mean(np.concatenate(hit)))
        rows[name] = row
    return rows
