"""The PR, ROC and PRO charts of a category, images and pixels in one picture, marked at F1-max."""

from collections.abc import Callable

import numpy as np

from eval.category import ScoreCurves
from eval.ranking.curves import F1Max, RankingCurve
from tracks.report_page.chart import SHARES, Axes, Axis, Tick, area, chart, line, mark, rule
from tracks.report_page.curve_points import Points, precision_recall_points, pro_points, roc_points
from tracks.report_page.html import Child, Html, percent

RECALL, RATE = "recall, %", "false positive rate, %"
PR = Axes(Axis(RECALL), Axis("precision, %"))
ROC = Axes(Axis(RATE), Axis(RECALL))


def precision_recall_chart(curves: ScoreCurves) -> Html | None:
    """Recall against precision, with the shares of anomalous images and pixels (chance) as dotted lines."""

    def at_best(curve: RankingCurve, best: F1Max) -> tuple[float, float]:
        return best.recall, best.precision

    def chance(curve: RankingCurve, level: str) -> Html:
        share = curve.num_positive / (curve.num_positive + curve.num_negative)
        return rule(PR, (0.0, share), (1.0, share), level)

    return _chart("Precision and recall", "AP", PR, curves, precision_recall_points, at_best, chance)


def roc_chart(curves: ScoreCurves) -> Html | None:
    """False positive rate against recall, with the diagonal (chance) as a dotted line."""

    def at_best(curve: RankingCurve, best: F1Max) -> tuple[float, float]:
        return _false_positives(curve, best.threshold) / curve.num_negative, best.recall

    def chance(curve: RankingCurve, level: str) -> Html:
        return rule(ROC, (0.0, 0.0), (1.0, 1.0), "both")

    return _chart("ROC", "AUROC", ROC, curves, roc_points, at_best, chance)


def pro_chart(curves: ScoreCurves, limit: float) -> Html | None:
    """False positive rate up to `limit` against the mean overlap of the defect regions."""
    if curves.pro is None or curves.pixel is None:
        return None
    rate, overlap = curves.pro
    ticks: list[Tick] = [(limit * step, f"{100 * limit * step:.3g}") for step, _ in SHARES]
    axes = Axes(Axis(RATE, 0.0, limit, ticks), Axis("mean overlap of regions, %"))
    points = pro_points(rate, overlap, limit)
    drawn, kept = line(axes, points.xy, "pixels")
    best = _false_positives(curves.pixel, curves.pixel.f1_max().threshold) / curves.pixel.num_negative
    layers: list[Child] = [area(axes, points.xy, "pixels"), rule(axes, (0.0, 0.0), (limit, limit), "pixels"), drawn]
    if best <= limit:
        layers.append(mark(axes, best, float(np.interp(best, rate, overlap)), "pixels"))
    at_limit = percent(float(points.xy[-1, 1]))
    spoken = f"PRO curve: mean overlap {at_limit} percent at a false positive rate of {percent(limit)} percent"
    beyond = "" if best <= limit else f" F1-max of the pixels lies beyond the limit, at {percent(best)} %."
    return chart("PRO", spoken, axes, layers, f"{_thinned('pixel', kept, points)}.{beyond}")


def _chart(
    title: str, metric: str, axes: Axes, curves: ScoreCurves,
    points_of: Callable[[RankingCurve], Points],
    at_best: Callable[[RankingCurve, F1Max], tuple[float, float]],
    chance: Callable[[RankingCurve, str], Html],
) -> Html | None:  # fmt: skip
    """A chart with a line for the images and one for the pixels, whichever there are; None if neither."""
    lines, marks, notes, spoken = [], [], [], []
    for level, noun, curve in (("images", "image", curves.image), ("pixels", "pixel", curves.pixel)):
        if curve is None:
            continue
        points, best = points_of(curve), curve.f1_max()
        drawn, kept = line(axes, points.xy, level)
        lines += [chance(curve, level), drawn]
        marks.append(mark(axes, *at_best(curve, best), level))
        notes.append(_thinned(noun, kept, points))
        value = curve.auroc() if metric == "AUROC" else curve.average_precision()
        spoken.append(
            f"{level}: {metric} {percent(value)}, F1-max {percent(best.value)} at precision "
            f"{percent(best.precision)} and recall {percent(best.recall)}"
        )
    if not lines:
        return None
    return chart(title, f"{title} curves, percent. {'; '.join(spoken)}", axes, [*lines, *marks], f"{'; '.join(notes)}.")


def _thinned(noun: str, kept: int, points: Points) -> str:
    return f"{kept:,} points drawn for {points.of:,} {noun} thresholds"


def _false_positives(curve: RankingCurve, threshold: float) -> int:
    """How many normal items score at or above one of the curve's thresholds."""
    return int(curve.false_positives[np.searchsorted(-curve.thresholds, -threshold)])
