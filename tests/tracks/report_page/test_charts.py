"""The charts enclose what the metrics say, thinning does not move them, and every image is in the histogram once."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from eval.category import ScoreCurves
from eval.ranking.curves import RankingCurve, curve_from_scores
from eval.scorer import Scorer
from tests.support.rows import row
from tracks.report_page.charts import (
    BINS,
    category_charts,
    precision_recall_chart,
    precision_recall_points,
    pro_chart,
    pro_points,
    roc_chart,
    roc_points,
    score_histogram,
)  # fmt: skip
from tracks.report_page.drawing import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOLERANCE, TOP, WIDTH


def curve(seed=0, size=300, levels=None) -> RankingCurve:
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.3
    scores = rng.normal(size=size) + labels
    return curve_from_scores(scores if levels is None else np.round(scores * levels), labels)


@pytest.fixture(scope="module")
def scorer():
    rng = np.random.default_rng(0)
    scorer = Scorer()
    for number in range(6):
        mask = np.zeros((24, 24), dtype=bool)
        if number % 2:
            mask[3:9, 4 : 6 + number] = True
            mask[15:17, 15:17] = True
        anomaly_map = (rng.random(mask.shape) + 0.7 * mask).astype(np.float16)
        scorer.update(anomaly_map, mask, float(anomaly_map.mean()), number % 2)
    return scorer


def area(xy):
    return float(np.sum(np.diff(xy[:, 0]) * (xy[1:, 1] + xy[:-1, 1]) / 2))


def parsed(chart):
    return ElementTree.fromstring(f"<svg>{chart.picture}</svg>")


def placed(xy, right=1.0):
    """Where values (N, 2) lie in a picture."""
    shares = np.asarray(xy, dtype=float) / [right, 1]
    return [LEFT, HEIGHT - BOTTOM] + shares * [WIDTH - LEFT - RIGHT, TOP + BOTTOM - HEIGHT]


def corners(node):
    """The points (N, 2) of the path in a group."""
    return np.array(re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", node.find("path").get("d")), dtype=float)


def group(chart, name):
    return parsed(chart).find(f".//g[@class='{name}']")


@pytest.mark.parametrize("levels", [None, 2])
def test_the_area_below_a_line_is_its_metric(levels):
    ranking = curve(levels=levels)
    points = roc_points(ranking)
    assert area(points) == pytest.approx(ranking.auroc(), abs=1e-12)
    assert (points[0].tolist(), points[-1].tolist()) == ([0, 0], [1, 1])
    assert area(precision_recall_points(ranking)) == pytest.approx(ranking.average_precision(), abs=1e-12)


def test_the_area_below_the_pro_line_is_pro(scorer):
    points = pro_points(*scorer.curves().pro, 0.3)
    assert points[-1, 0] == 0.3
    assert area(points) / 0.3 == pytest.approx(scorer.compute().metrics["pro_seg"], abs=1e-9)


def distance(points, line):
    """How far each point (N, 2) lies from a polyline (M, 2), (N,)."""
    start, along = line[:-1], np.diff(line, axis=0)
    length = np.maximum((along**2).sum(1), 1e-12)
    shares = np.clip(((points[:, None] - start) * along).sum(2) / length, 0, 1)
    return np.linalg.norm(points[:, None] - start - shares[..., None] * along, axis=2).min(1)


def test_no_point_left_out_is_further_from_the_drawn_line_than_the_page_says():
    ranking = curve(size=4000)
    chart = roc_chart(ScoreCurves(ranking, None, None, None))
    drawn, points = corners(group(chart, "line images")), placed(roc_points(ranking))
    assert 2 < len(drawn) < len(points)
    assert distance(points, drawn).max() <= TOLERANCE
    assert distance(drawn, points).max() <= TOLERANCE


def test_the_marks_stand_at_f1_max(scorer):
    curves = scorer.curves()
    for level, ranking in (("images", curves.image), ("pixels", curves.pixel)):
        best = ranking.f1_max()
        above = ranking.thresholds >= best.threshold
        rate = ranking.false_positives[above][-1] / ranking.num_negative
        for chart, at in (
            (precision_recall_chart(curves), (best.recall, best.precision)),
            (roc_chart(curves), (rate, best.recall)),
        ):
            use = group(chart, f"mark {level}").find(".//use")
            assert (float(use.get("x")), float(use.get("y"))) == pytest.approx(placed([at])[0], abs=0.06)


def test_charts_say_through_how_many_points_they_are_drawn_and_what_they_show(scorer):
    curves, metrics = scorer.curves(), scorer.compute().metrics
    chart = roc_chart(curves)
    assert chart.note.startswith(f"{len(corners(group(chart, 'line images')))} points")
    for level, ranking, metric in (("image", curves.image, "auroc_cls"), ("pixel", curves.pixel, "auroc_seg")):
        assert f"{ranking.thresholds.size:,} {level} thresholds" in chart.note
        assert f"AUROC {100 * metrics[metric]:.1f}" in chart.spoken


def test_the_pro_chart_ends_at_its_limit_and_says_what_lies_beyond(scorer):
    curves = replace(scorer.curves(), pixel=curve())
    best = curves.pixel.f1_max()
    rate = curves.pixel.false_positives[curves.pixel.thresholds >= best.threshold][-1] / curves.pixel.num_negative
    wide, narrow = pro_chart(curves, 0.9), pro_chart(curves, rate / 2)
    assert corners(group(wide, "line pixels"))[-1][0] == WIDTH - RIGHT
    assert group(wide, "mark pixels") is not None
    assert group(narrow, "mark pixels") is None
    assert f"beyond the limit, at {100 * rate:.1f} %" in narrow.note


def test_without_curves_there_are_no_charts(scorer):
    nothing = ScoreCurves(None, None, None, None)
    assert category_charts(nothing, [], 0.3, (None, None), "c") == []
    assert "pixel" not in precision_recall_chart(ScoreCurves(scorer.curves().image, None, None, None)).note


def test_pictures_take_their_colours_and_fonts_from_the_page_and_share_no_id(scorer):
    made = [
        chart
        for key in ("a", "b")
        for chart in category_charts(scorer.curves(), rows([0.1], 0), 0.3, (None, None), key)
    ]
    assert [chart.title for chart in made[:4]] == ["Precision and recall", "ROC", "PRO", "Image scores"]
    text = "".join(chart.picture for chart in made)
    assert not re.search(r'(?<!")#|font-family|xmlns|xlink|matplotlib', text)
    assert {*re.findall(r"var\(--(\w+)\)", text)} <= set(COLOURS)
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]*)', text)} <= set(ids)


def rows(scores, label):
    return [replace(row(f"{label}-{i}"), label=label, image_score=float(score)) for i, score in enumerate(scores)]


def bars(chart, kind):
    """The corners (N, 2) of the bars of a kind, relative to the line of zero, up positive."""
    zero = corners(parsed(chart).find(".//g[@class='zero']"))[0][1]
    return (corners(group(chart, f"bars {kind}")) - [0, zero]) * [1, -1]


def test_bar_heights_are_the_counts_and_normal_images_stand_above_anomalous_ones():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 200), rng.normal(2, 1, 100)
    chart = score_histogram(rows(normal, 0) + rows(anomalous, 1), 1.0)
    edges = np.histogram_bin_edges(np.concatenate([normal, anomalous]), BINS)
    tops = []
    for kind, scores, side in (("normal", normal, 1), ("anomalous", anomalous, -1)):
        height = side * bars(chart, kind)[:, 1]
        assert height.min() == pytest.approx(0, abs=0.11)
        tops.append(height.max() / np.histogram(scores, edges)[0].max())
        counts = {round(float(value / height.max() * np.histogram(scores, edges)[0].max())) for value in height}
        assert counts == {0, *np.histogram(scores, edges)[0].tolist()}
    assert tops[0] == pytest.approx(tops[1], rel=0.02)
    assert "threshold, 1" in chart.note


@pytest.mark.parametrize(
    ("given", "said", "kind"),
    [
        (rows([0.5], 0), "1 normal", "normal"),
        (rows([0.5, 0.5], 0) + rows([0.5], 1), "2 normal, 1 anomalous", "anomalous"),
        (rows([0.1, 0.7], 1), "2 anomalous", "anomalous"),
        (rows([0.0, 0.0], None), "2 unlabelled", "unlabelled"),
        (rows([1e-9, 2e-9], 0) + rows([0.3], None), "unlabelled ones are not drawn", "normal"),
        (rows([-40000, 65000.0], 0), "2 normal", "normal"),
    ],
)
def test_few_equal_extreme_or_unlabelled_scores_are_drawn_too(given, said, kind):
    chart = score_histogram(given, None)
    assert said in chart.note
    assert "nan" not in chart.picture
    assert abs(bars(chart, kind)[:, 1]).max() > 10


@pytest.mark.parametrize(
    ("scores", "ticks"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([0.29983, 0.30004], ["0.29985", "0.2999", "0.29995", "0.3"]),
    ],
)
def test_ticks_are_round_and_told_apart(scores, ticks):
    texts = [node.text for node in parsed(score_histogram(rows(scores, 0), None)).iter("text")]
    assert texts[: len(ticks)] == ticks


def test_both_thresholds_are_drawn_and_told_apart():
    chart = score_histogram(rows([0.1, 0.2], 0) + rows([0.8, 0.9], 1), 0.5, 0.95)
    best, own = (corners(group(chart, name))[0][0] for name in ("threshold", "threshold own"))
    assert best < own
    assert bars(chart, "anomalous")[:, 0].max() <= own, "it lies beyond all scores"
    assert "solid: the run's own threshold, 0.95; dashed: the F1-max threshold, 0.5" in chart.note
    assert score_histogram([], None) is None
