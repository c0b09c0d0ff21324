"""The image scores of a category as a histogram: normal images upwards, anomalous ones downwards."""

import math
from collections.abc import Sequence

import numpy as np

from tracks.report_page.chart import Axes, Axis, Tick, bar, chart, label, rule
from tracks.report_page.html import Child, Html, plural, significant
from tracks.run.store import Row

BINS = 24
KINDS = ((0, "normal", "normal"), (1, "anomalous", "anomalous"), (None, "unlabelled", "unlabelled"))


def score_histogram(rows: Sequence[Row], threshold: float | None, own: float | None = None) -> Html | None:
    """The figure, a dashed line at `threshold`, that of F1-max, a solid one at the run's `own`; None without rows.

    Unlabelled images go upwards where nothing is labelled, and are left out otherwise (the note says so).
    """
    if not rows:
        return None
    scores = {label: np.array([row.image_score for row in rows if row.label == label]) for label, _, _ in KINDS}
    labelled = scores[0].size + scores[1].size > 0
    above, below = (scores[0], scores[1]) if labelled else (scores[None], scores[1])
    edges = _edges(np.concatenate([above, below, [] if own is None else [own]]))
    up, down = np.histogram(above, edges)[0], np.histogram(below, edges)[0]
    axes = _axes(edges, int(up.max()), int(down.max()))
    upper, lower = ("normal", "anomalous") if labelled else ("unlabelled", "anomalous")
    layers: list[Child] = [*_bars(axes, edges, up, upper), *_bars(axes, edges, -down, lower)]
    layers.append(rule(axes, (axes.x.low, 0.0), (axes.x.high, 0.0), "zero"))
    if threshold is not None:
        layers.append(rule(axes, (threshold, axes.y.low), (threshold, axes.y.high), "threshold"))
    if own is not None:
        layers.append(rule(axes, (own, axes.y.low), (own, axes.y.high), "threshold own"))
    layers += _names(axes, upper, lower if labelled else None)
    return chart("Image scores", _spoken(scores, threshold), axes, layers, _note(scores, labelled, threshold, own))


def _edges(scores: np.ndarray) -> np.ndarray:
    low, high = float(scores.min()), float(scores.max())
    margin = 0.5 * (abs(low) or 1.0) if high == low else 0.0
    return np.linspace(low - margin, high + margin, BINS + 1)


def _axes(edges: np.ndarray, most_up: int, most_down: int) -> Axes:
    """The y axis runs from -most_down to most_up with a little air, ticks at whole numbers; never empty."""
    step = _whole_step(max(most_up, most_down, 1))
    up, down = -(-max(most_up, 1) // step) * step, -(-max(most_down, 0) // step) * step
    counts: list[Tick] = [(float(n), str(abs(n))) for n in range(-down, up + 1, step)]
    places: list[Tick] = _round_ticks(float(edges[0]), float(edges[-1]))
    room = 0.12 * (up + down)
    return Axes(
        Axis("image score", float(edges[0]), float(edges[-1]), places),
        Axis("images", -down - room if down else 0.0, up + room, counts),
    )


def _round_ticks(low: float, high: float) -> list[Tick]:
    """Two to six values from `low` to `high` at a step of 1, 2 or 5 times a power of ten."""
    magnitude = 10.0 ** math.floor(math.log10(high - low))
    step = next(part * magnitude for part in (0.2, 0.5, 1.0, 2.0) if (high - low) / (part * magnitude) <= 5)
    values = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = math.floor(math.log10(max(abs(low), abs(high)))) - math.floor(math.log10(step)) + 1
    return [(value, f"{value:.{max(digits, 1)}g}") for value in values]


def _whole_step(most: int) -> int:
    """1, 2 or 5 times a power of ten, such that about four steps reach `most`."""
    magnitude = 10 ** max(0, len(str(most)) - 2)
    return next(step * magnitude for step in (1, 2, 5, 10, 20, 50) if 4 * step * magnitude >= most)


def _bars(axes: Axes, edges: np.ndarray, counts: np.ndarray, kind: str) -> list[Html]:
    spans = zip(edges[:-1], edges[1:], counts, strict=True)
    return [bar(axes, float(left), float(right), float(count), kind) for left, right, count in spans if count]


def _names(axes: Axes, upper: str, lower: str | None) -> list[Child]:
    inset = 0.02 * (axes.x.high - axes.x.low)
    top = axes.y.high - 0.05 * (axes.y.high - axes.y.low)
    names = [label(axes, axes.x.high - inset, top, f"{upper} ↑", "end")]
    if lower and axes.y.low < 0:
        bottom = axes.y.low + 0.02 * (axes.y.high - axes.y.low)
        names.append(label(axes, axes.x.high - inset, bottom, f"{lower} ↓", "end"))
    return list(names)


def _spoken(scores: dict[int | None, np.ndarray], threshold: float | None) -> str:
    parts = [
        f"{name}: {plural(scores[label].size, 'image')}, median {significant(float(np.median(scores[label])))}"
        for label, name, _ in KINDS
        if scores[label].size
    ]
    end = f"; threshold of F1-max {significant(threshold)}" if threshold is not None else ""
    return f"Histogram of image scores. {'; '.join(parts)}{end}"


def _note(
    scores: dict[int | None, np.ndarray], labelled: bool, threshold: float | None, own: float | None
) -> str:  # fmt: skip
    counted = ", ".join(f"{scores[label].size:,} {name}" for label, name, _ in KINDS if scores[label].size)
    left_out = "; unlabelled ones are not drawn" if labelled and scores[None].size else ""
    at = f"; dashed: the F1-max threshold, {significant(threshold)}" if threshold is not None else ""
    ours = f"; solid: the run's own threshold, {significant(own)}" if own is not None else ""
    return f"{counted}{left_out}{ours}{at}."
