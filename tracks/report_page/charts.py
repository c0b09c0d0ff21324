"""The charts of a category as inline SVG by matplotlib: PR, ROC and PRO curves marked at F1-max, and image scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eval.category import ScoreCurves
from eval.ranking.curves import F1Max, RankingCurve
from tracks.report_page.drawing import CHANCE, COLOURS, FONT_PX, draw_curve, new_axes, page_svg
from tracks.report_page.html import percent, plural, significant
from tracks.run.store import Row

BINS = 24
KINDS = ((0, "normal"), (1, "anomalous"), (None, "unlabelled"))
RECALL, RATE = "recall, %", "false positive rate, %"


@dataclass(frozen=True)
class Chart:
    """A picture, the inside of an `svg` of WIDTH x HEIGHT, with its title, its words for who cannot see it, a note."""

    title: str
    spoken: str
    picture: Markup
    note: str


def category_charts(
    curves: ScoreCurves, rows: Sequence[Row], pro_limit: float, thresholds: tuple[float | None, float | None], key: str
) -> list[Chart]:
    """Those of the four that there is something to draw for; `thresholds` are as for `score_histogram`.

    `key` makes the ids in the pictures unique on a page.
    """
    made = [
        precision_recall_chart(curves, f"{key}-pr"),
        roc_chart(curves, f"{key}-roc"),
        pro_chart(curves, pro_limit, f"{key}-pro"),
        score_histogram(rows, *thresholds, key=f"{key}-scores"),
    ]
    return [chart for chart in made if chart is not None]


def precision_recall_chart(curves: ScoreCurves, key: str = "pr") -> Chart | None:
    """Recall against precision, with the shares of anomalous images and pixels (chance) as dotted lines."""
    axes, drawn = new_axes(RECALL, "precision, %"), []
    for level, curve in _levels(curves):
        share, best = curve.num_positive / (curve.num_positive + curve.num_negative), curve.f1_max()
        axes.plot([0, 1], [share, share], color=COLOURS[level], **CHANCE)
        drawn.append(draw_curve(axes, precision_recall_points(curve), level, (best.recall, best.precision)))
    return _curves_chart("Precision and recall", "AP", curves, axes, drawn, key)


def roc_chart(curves: ScoreCurves, key: str = "roc") -> Chart | None:
    """False positive rate against recall, with the diagonal (chance) as a dotted line."""
    axes, drawn = new_axes(RATE, RECALL), []
    axes.plot([0, 1], [0, 1], color=COLOURS["soft"], **CHANCE)
    for level, curve in _levels(curves):
        best = curve.f1_max()
        drawn.append(draw_curve(axes, roc_points(curve), level, (_rate_at(curve, best), best.recall)))
    return _curves_chart("ROC", "AUROC", curves, axes, drawn, key)


def pro_chart(curves: ScoreCurves, limit: float, key: str = "pro") -> Chart | None:
    """False positive rate up to `limit` against the mean overlap of the defect regions."""
    if curves.pro is None or curves.pixel is None:
        return None
    rate, overlap = curves.pro
    points, best = pro_points(rate, overlap, limit), _rate_at(curves.pixel, curves.pixel.f1_max())
    axes = new_axes(RATE, "mean overlap of regions, %", limit)
    axes.plot([0, limit], [0, limit], color=COLOURS["pixels"], **CHANCE)
    at_best = (best, float(np.interp(best, rate, overlap))) if best <= limit else None
    drawn = draw_curve(axes, points, "pixels", at_best)
    axes.fill_between(*drawn.T, color=COLOURS["pixels"], alpha=0.13, linewidth=0)
    beyond = "" if at_best else f" F1-max of the pixels lies beyond the limit, at {percent(best)} %."
    spoken = (
        f"PRO curve: mean overlap {percent(float(points[-1, 1]))} percent at a false positive rate of {percent(limit)} "
        "percent"
    )
    note = f"{len(drawn):,} points drawn for {rate.size:,} pixel thresholds.{beyond}"
    return Chart("PRO", spoken, page_svg(axes, key), note)


def score_histogram(
    rows: Sequence[Row], threshold: float | None, own: float | None = None, key: str = "scores"
) -> Chart | None:
    """The image scores: normal images upwards, anomalous ones downwards; None without rows.

    A dashed line at `threshold`, that of F1-max, a solid one at the run's `own`. Unlabelled images go upwards where
    nothing is labelled, and are left out otherwise (the note says so).
    """
    if not rows:
        return None
    scores = {label: np.array([row.image_score for row in rows if row.label == label]) for label, _ in KINDS}
    labelled = scores[0].size + scores[1].size > 0
    above, upper = (scores[0], "normal") if labelled else (scores[None], "unlabelled")
    edges = np.histogram_bin_edges(np.concatenate([above, scores[1], [] if own is None else [own]]), BINS)
    up, down = np.histogram(above, edges)[0], np.histogram(scores[1], edges)[0]
    axes = _histogram_axes(edges, int(up.max()), int(down.max()))
    for counts, kind in ((up, upper), (-down, "anomalous")):
        axes.stairs(counts, edges, fill=True, color=COLOURS[kind], gid=f"bars {kind}")
    axes.axhline(0, color=COLOURS["soft"], linewidth=1.2, gid="zero")
    for value, line, name in ((threshold, (0, (5, 3)), "threshold"), (own, "-", "threshold own")):
        if value is not None:
            axes.axvline(value, color=COLOURS["ink"], linewidth=1.2, linestyle=line, gid=name)
    names = [(0.97, f"{upper} ↑", "top"), (0.03, "anomalous ↓", "bottom")]
    for height, text, side in names if down.any() else names[:1]:
        axes.text(0.98, height, text, ha="right", va=side, transform=axes.transAxes, color=COLOURS["ink"],
                  fontsize=FONT_PX, gid="name")  # fmt: skip
    return Chart("Image scores", _spoken_scores(scores, threshold), page_svg(axes, key),
                 _scores_note(scores, labelled, threshold, own))  # fmt: skip


def roc_points(curve: RankingCurve) -> np.ndarray:
    """(N, 2) false positive rate and recall from (0, 0) to (1, 1); straight between thresholds, as ties count half."""
    x, y = curve.false_positives / curve.num_negative, curve.true_positives / curve.num_positive
    return np.concatenate([[[0.0, 0.0]], np.stack([x, y], axis=1)])


def precision_recall_points(curve: RankingCurve) -> np.ndarray:
    """(N, 2) recall and precision as average precision adds them up: in steps, each at the precision of its end."""
    recall = curve.true_positives / curve.num_positive
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    ends = np.stack([np.concatenate([[0.0], recall[:-1]]), recall], axis=1)
    return np.stack([ends.reshape(-1), precision.repeat(2)], axis=1)


def pro_points(rate: np.ndarray, overlap: np.ndarray, limit: float) -> np.ndarray:
    """(N, 2) of a false positive rate (K,) and mean overlap of the defect regions (K,), from rate 0 up to `limit`."""
    inside = rate <= limit
    x, y = np.append(rate[inside], limit), np.append(overlap[inside], np.interp(limit, rate, overlap))
    return np.stack([x, y], axis=1)


def _levels(curves: ScoreCurves) -> list[tuple[str, RankingCurve]]:
    found = (("images", curves.image), ("pixels", curves.pixel))
    return [(level, curve) for level, curve in found if curve is not None]


def _rate_at(curve: RankingCurve, best: F1Max) -> float:
    """The false positive rate at the threshold of F1-max."""
    index = np.searchsorted(-curve.thresholds, -best.threshold)
    return float(curve.false_positives[index] / curve.num_negative)


def _histogram_axes(edges: np.ndarray, most_up: int, most_down: int) -> Axes:
    axes = new_axes("image score", "images")
    room = 0.12 * (max(most_up, 1) + most_down)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-most_down - room if most_down else 0, max(most_up, 1) + room))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{abs(count):.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    step = float(np.diff(axes.get_xticks()).min())
    digits = int(np.floor(np.log10(np.abs(edges).max())) - np.floor(np.log10(step))) + 1
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * (abs(value) > step / 9):.{digits}g}"))
    return axes


def _curves_chart(
    title: str, metric: str, curves: ScoreCurves, axes: Axes, drawn: Sequence[np.ndarray], key: str
) -> Chart | None:
    """The chart of the images' and the pixels' curve, whichever there are; None if neither."""
    if not drawn:
        return None
    notes, spoken = [], []
    for (level, curve), points in zip(_levels(curves), drawn, strict=True):
        best, value = curve.f1_max(), curve.auroc() if metric == "AUROC" else curve.average_precision()
        notes.append(f"{len(points):,} points drawn for {curve.thresholds.size:,} {level[:-1]} thresholds")
        spoken.append(
            f"{level}: {metric} {percent(value)}, F1-max {percent(best.value)} at precision "
            f"{percent(best.precision)} and recall {percent(best.recall)}"
        )
    return Chart(title, f"{title} curves, percent. {'; '.join(spoken)}", page_svg(axes, key), f"{'; '.join(notes)}.")


def _spoken_scores(scores: dict[int | None, np.ndarray], threshold: float | None) -> str:
    parts = [
        f"{name}: {plural(scores[label].size, 'image')}, median {significant(float(np.median(scores[label])))}"
        for label, name in KINDS
        if scores[label].size
    ]
    end = f"; threshold of F1-max {significant(threshold)}" if threshold is not None else ""
    return f"Histogram of image scores. {'; '.join(parts)}{end}"


def _scores_note(
    scores: dict[int | None, np.ndarray], labelled: bool, threshold: float | None, own: float | None
) -> str:
    counted = ", ".join(f"{scores[label].size:,} {name}" for label, name in KINDS if scores[label].size)
    left_out = "; unlabelled ones are not drawn" if labelled and scores[None].size else ""
    at = f"; dashed: the F1-max threshold, {significant(threshold)}" if threshold is not None else ""
    ours = f"; solid: the run's own threshold, {significant(own)}" if own is not None else ""
    return f"{counted}{left_out}{ours}{at}."
