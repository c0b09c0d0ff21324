"""How far a metric moves with the draw of the test images: intervals by a stratified bootstrap over images.

Anomalous and normal images are resampled with replacement, each kind on its own so that no draw lacks either, and every
metric is computed again on each of B draws. Intervals are percentiles of those B values with two corrections: levels
moved outwards for small sets, by Student's t and n / (n - 1) of the smaller kind ("expanded percentile", Hesterberg,
The American Statistician 2015), and shifted by how far the draws lie to one side of the estimate ("bias-corrected",
Efron, Canadian Journal of Statistics 1981), as they do where a metric is a maximum.

What it cannot tell: how far another seed, other references or another category would move the metric; and, where every
anomalous image outscores every normal one, how many images it would take to find one that does not ([1, 1]).
F1-max, a maximum, lies higher on small sets than on large ones, and its interval is about sets of the size at hand.

How often 95 % intervals held the truth on made-up test sets of 20 + 24 and 30 + 80 images (see
benchmarks/bootstrap_coverage.py): differences of two runs 85 to 99 %, mostly 93 to 97; pixel metrics of one run 91 to
96 %; image metrics 83 to 96 %, the less the nearer they are to 1; means of image or region F1-max 80 to 90 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from eval.errors import ScoringInputError
from eval.regions.pro import check_fpr_limit
from eval.uncertainty.image_counts import ImageCounts

RESAMPLED = (
    "auroc_cls", "f1_cls", "ap_cls", "auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_region", "f1_harmonic",
)  # fmt: skip
"""The ids of the metrics that have an interval."""
FEWEST_IMAGES = 5
"""Fewer anomalous or fewer normal images than this show no spread worth a number."""
_RESAMPLES_AT_ONCE = 100
_LARGEST_SHIFT = 1.0

Draws = dict[str, np.ndarray]
"""Metrics by id, (B,) each: one value for each draw."""


@dataclass(frozen=True, eq=False)
class Resampled:
    """The metrics of a category, or their means over categories, on B draws of the images.

    `samples` holds (B,) by metric id and `estimates` the metric of the images as they are, both by groups of values
    (image_counts.py). `sizes` are, by metric, how many images the smaller kind of each category has. A metric
    without samples has its reason in `reasons`, in as far as that is not the Scorer's reason for having no metric.
    """

    samples: Draws
    estimates: dict[str, float]
    sizes: dict[str, tuple[int, ...]]
    reasons: dict[str, str] = field(default_factory=dict)

    def interval(self, metric: str, level: float = 0.95) -> tuple[float, float] | None:
        """The interval that holds the metric with about probability `level`; None without samples.

        Raises:
            ScoringInputError: for a level outside (0, 1).
        """
        if metric not in self.samples:
            return None
        samples, estimate = self.samples[metric], self.estimates[metric]
        below = float(np.mean(samples < estimate) + np.mean(samples == estimate) / 2)
        shift = 2 * float(np.clip(ndtri(below), -_LARGEST_SHIFT, _LARGEST_SHIFT))
        outwards = ndtri(lower_tail(level, self.sizes[metric]))
        return quantiles(samples, ndtr(shift + outwards), ndtr(shift - outwards))

    def intervals(self, level: float = 0.95) -> dict[str, list[float] | None]:
        """[low, high] for each of `RESAMPLED`, None where there is none."""
        both = {metric: self.interval(metric, level) for metric in RESAMPLED}
        return {metric: None if pair is None else list(pair) for metric, pair in both.items()}


def resample(
    counts: ImageCounts, resamples: int = 1000, seed: int | Sequence[int] = 0, pro_fpr_limit: float = 0.3
) -> Resampled:
    """All metrics on `resamples` draws from the images of one category.

    The draws follow from the seed, the labels and the order of the images alone, so two runs over the same images get
    the same draws. The result does not depend on the number of threads.

    Raises:
        ScoringInputError: for fewer than 100 resamples, or a limit outside (0, 1].
    """
    check_fpr_limit(pro_fpr_limit)
    if resamples < 100:
        raise ScoringInputError(f"Expected at least 100 resamples, got {resamples}. 1000 is the usual number.")
    labels, rng = np.array(counts.labels, dtype=np.int64), np.random.default_rng(seed)
    estimates = _metrics(counts, np.ones((1, labels.size)), pro_fpr_limit)
    smallest = min((int(np.sum(labels == label)) for label in (0, 1) if (labels == label).any()), default=0)
    known = {metric: float(rows[0]) for metric, rows in estimates.items()}
    if smallest < FEWEST_IMAGES:
        kinds = " and ".join(f"{np.sum(labels == label)} {kind}" for label, kind in ((1, "anomalous"), (0, "normal")))
        reason = f"{kinds} images, an interval needs {FEWEST_IMAGES} of each"
        return Resampled({}, known, {}, dict.fromkeys(known, reason))
    blocks = [
        _metrics(counts, _draw(labels, min(_RESAMPLES_AT_ONCE, resamples - start), rng), pro_fpr_limit)
        for start in range(0, resamples, _RESAMPLES_AT_ONCE)
    ]
    samples = {metric: np.concatenate([block[metric] for block in blocks]) for metric in known}
    return Resampled(samples, known, dict.fromkeys(known, (smallest,)))


def mean_over(categories: Mapping[str, Resampled]) -> Resampled:
    """The means over the categories that have a metric, each drawn on its own; which categories there are is not drawn.

    A metric has no samples if one of these has too few images to resample.
    """
    samples: Draws = {}
    estimates, reasons, sizes = {}, {}, {}
    for metric in RESAMPLED:
        with_it = {name: category for name, category in categories.items() if metric in category.estimates}
        if not with_it:
            continue
        estimates[metric] = float(np.mean([category.estimates[metric] for category in with_it.values()]))
        if lacking := [name for name, category in with_it.items() if metric not in category.samples]:
            reasons[metric] = f"too few images in {', '.join(lacking)}"
            continue
        samples[metric] = np.mean([category.samples[metric] for category in with_it.values()], axis=0)
        sizes[metric] = tuple(size for category in with_it.values() for size in category.sizes[metric])
    return Resampled(samples, estimates, sizes, reasons)


def lower_tail(level: float, sizes: Sequence[int]) -> float:
    """The share of the draws to leave out on either side, for an interval of `level` from sets of these sizes.

    Raises:
        ScoringInputError: for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ScoringInputError(f"Expected a confidence level in (0, 1), got {level}. 0.95 is the usual one.")
    stretch, freedom = small_set(sizes)
    return float(ndtr(-stretch * stdtrit(freedom, (1 + level) / 2)))


def small_set(sizes: Sequence[int]) -> tuple[float, int]:
    """By what factor, sqrt(n / (n - 1)), draws spread less than new images would, and Student's degrees of freedom."""
    mean_size = len(sizes) / sum(1 / size for size in sizes)
    return float(np.sqrt(mean_size / (mean_size - 1))), sum(sizes) - len(sizes)


def quantiles(samples: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The values that leave the shares `low` and 1 - `high` of the (B,) samples on either side; NaN are left out."""
    below, above = np.nanquantile(samples, [low, high])
    return float(below), float(above)


def _draw(labels: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of N images is in each of `num` draws, (num, N) float64; the kinds are drawn apart."""
    weights = np.zeros((num, labels.size))
    for label in (1, 0):
        (members,) = np.nonzero(labels == label)
        if count := members.size:
            drawn = rng.integers(count, size=(num, count)) + np.arange(num)[:, None] * count
            weights[:, members] = np.bincount(drawn.ravel(), minlength=num * count).reshape(num, count)
    return weights


def _metrics(counts: ImageCounts, weights: np.ndarray, fpr_limit: float) -> Draws:
    """Each metric that has a meaning for this category, (B,), with the images counted by weights (B, N)."""
    metrics = _image_metrics(counts, weights) | _pixel_metrics(counts, weights, fpr_limit)
    if "f1_cls" in metrics and "f1_seg" in metrics:
        f1_cls, f1_seg = metrics["f1_cls"], metrics["f1_seg"]
        metrics["f1_harmonic"] = 2 * f1_cls * f1_seg / (f1_cls + f1_seg)
    return metrics


def _image_metrics(counts: ImageCounts, weights: np.ndarray) -> Draws:
    anomalous = np.array(counts.labels, dtype=bool)
    if not anomalous.any() or anomalous.all():
        return {}
    values, ranks = np.unique(-np.array(counts.scores), return_inverse=True)
    order = np.argsort(ranks, kind="stable")
    starts = np.searchsorted(ranks[order], np.arange(values.size))
    positives = np.add.reduceat((weights * anomalous)[:, order], starts, axis=1)
    negatives = np.add.reduceat((weights * ~anomalous)[:, order], starts, axis=1)
    return {
        "auroc_cls": auroc_rows(positives, negatives),
        "f1_cls": f1_max_rows(positives, negatives),
        "ap_cls": average_precision_rows(positives, negatives),
    }


def _pixel_metrics(counts: ImageCounts, weights: np.ndarray, fpr_limit: float) -> Draws:
    if counts.num_without_mask or not counts.num_regions or not counts.num_normal_pixels:
        return {}
    sums = counts.weighted(weights)
    metrics = {
        "auroc_seg": auroc_rows(sums.defects, sums.normals),
        "f1_seg": f1_max_rows(sums.defects, sums.normals),
        "ap_seg": average_precision_rows(sums.defects, sums.normals, counts.groups.below),
        "pro_seg": pro_rows(sums.shares, sums.num_regions, sums.normals, fpr_limit),
    }
    if sums.components is not None and sums.hits is not None:
        metrics["f1_region"] = region_f1_rows(sums.components, sums.hits, sums.num_regions)
    return metrics


# Metrics of B rankings at once over the same K descending groups of values, defined as in eval/ranking/curves.py and
# eval/regions. A group of several values is a straight line between its ends (AUROC, PRO), or lies where its defect
# pixels do on average (average precision); a group of one value is a tie, as there. `positives` and `negatives` are
# (B, K) float64, what lies in each group, highest values first. A ranking that lacks what its metric needs is NaN.


def auroc_rows(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """AUROC of each ranking, (B,)."""
    hits = np.cumsum(positives, axis=1)
    pairs_won = np.sum((hits - positives / 2) * negatives, axis=1)
    return _ratio(pairs_won, hits[:, -1] * np.sum(negatives, axis=1))


def average_precision_rows(positives: np.ndarray, negatives: np.ndarray, below: np.ndarray | float = 0.0) -> np.ndarray:
    """Average precision of each ranking, (B,).

    `below` is (2, K) as in `ValueGroups`, 0 where groups are single values.
    """
    below = np.broadcast_to(below, (2, positives.shape[1]))
    hits = np.cumsum(positives, axis=1) - below[0] * positives
    called = hits + np.cumsum(negatives, axis=1) - below[1] * negatives
    return _ratio(np.sum(positives * _ratio(hits, called, empty=0), axis=1), np.sum(positives, axis=1))


def f1_max_rows(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """The largest F1 over the lower ends of the groups of each ranking, (B,)."""
    hits, called = np.cumsum(positives, axis=1), np.cumsum(positives + negatives, axis=1)
    best = np.max(hits / (called + hits[:, -1:] + (hits[:, -1:] == 0)), axis=1)
    return np.where(hits[:, -1] > 0, 2 * best, np.nan)


def pro_rows(shares: np.ndarray, num_regions: np.ndarray, negatives: np.ndarray, fpr_limit: float) -> np.ndarray:
    """PRO of each ranking, (B,): `shares` (B, K) regions newly covered, `num_regions` (B,) regions in all."""
    totals = np.sum(negatives, axis=1, keepdims=True)
    run = _ratio(negatives, totals)
    ends = np.cumsum(run, axis=1)
    gained = _ratio(shares, num_regions[:, None])
    starts = np.cumsum(gained, axis=1) - gained
    inside = np.clip(fpr_limit - (ends - run), 0, run)  # how far each group reaches before the limit
    area = np.sum(inside * (starts + gained * _ratio(inside, run, empty=0) / 2), axis=1)
    return area / fpr_limit


def region_f1_rows(components: np.ndarray, hits: np.ndarray, num_regions: np.ndarray) -> np.ndarray:
    """The largest region F1 over the lower ends of the groups of each ranking, (B,).

    `components` and `hits` are (B, K), by how many the predicted components and those that hit a region change in each
    group; `num_regions` (B,) is the number of regions.
    """
    predicted = np.cumsum(components, axis=1)
    return np.max(_ratio(2 * np.cumsum(hits, axis=1), predicted + num_regions[:, None]), axis=1)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """What above / below is, and `empty` where below is 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, float(empty)), where=below != 0)
