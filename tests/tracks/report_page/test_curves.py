"""The lines of the charts enclose what the metrics say, and thinning does not move them."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from eval.category import ScoreCurves
from eval.ranking.curves import RankingCurve, curve_from_scores
from eval.scorer import Scorer
from tracks.report_page.chart import HEIGHT, LEFT, TOLERANCE, WIDTH, Axes, Axis, line
from tracks.report_page.curve_charts import precision_recall_chart, pro_chart, roc_chart
from tracks.report_page.curve_points import precision_recall_points, pro_points, roc_points, thin


def curve(seed=0, size=300, levels=None) -> RankingCurve:
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.3
    scores = rng.normal(size=size) + labels
    return curve_from_scores(scores if levels is None else np.round(scores * levels), labels)


def area(xy):
    return float(np.sum(np.diff(xy[:, 0]) * (xy[1:, 1] + xy[:-1, 1]) / 2))


@pytest.mark.parametrize("levels", [None, 2])
def test_the_area_below_the_roc_line_is_auroc(levels):
    ranking = curve(levels=levels)
    points = roc_points(ranking)
    assert area(points.xy) == pytest.approx(ranking.auroc(), abs=1e-12)
    assert points.xy[0].tolist() == [0, 0]
    assert points.xy[-1].tolist() == [1, 1]
    assert points.of == ranking.thresholds.size


@pytest.mark.parametrize("levels", [None, 2])
def test_the_area_below_the_precision_recall_line_is_average_precision(levels):
    ranking = curve(levels=levels)
    assert area(precision_recall_points(ranking).xy) == pytest.approx(ranking.average_precision(), abs=1e-12)


def scored():
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


def test_the_area_below_the_pro_line_is_pro():
    scorer = scored()
    points = pro_points(*scorer.curves().pro, 0.3)
    assert points.xy[-1, 0] == 0.3
    assert area(points.xy) / 0.3 == pytest.approx(scorer.compute().metrics["pro_seg"], abs=1e-9)


@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_no_point_left_out_is_further_from_the_thinned_line_than_allowed(tolerance):
    rng = np.random.default_rng(1)
    xy = np.stack([np.linspace(0, 5, 150), np.cumsum(rng.normal(0, 0.05, 150))], axis=1)
    kept = thin(xy, tolerance)
    assert 2 < len(kept) < 150
    walk = np.concatenate([start + np.linspace(0, 1, 400)[:, None] * (end - start) for start, end in pairwise(kept)])
    step = np.linalg.norm(np.diff(walk, axis=0), axis=1).max()
    for point in xy:
        assert np.linalg.norm(walk - point, axis=1).min() <= tolerance + step / 2


def test_a_straight_line_is_drawn_with_two_points():
    xy = np.stack([np.linspace(0, 1, 50)] * 2, axis=1)
    assert thin(xy, 1e-9).tolist() == [[0, 0], [1, 1]]
    assert len(thin(np.array([[0.0, 0], [1, 1], [0, 0]]), 0.1)) == 3


def walked(path):
    """The points that the `d` of a path with M, l, h, v visits."""
    at, points = np.zeros(2), []
    for letter, numbers in re.findall(r"([Mlhv])([^Mlhvz]*)", path):
        values = [float(number) for number in numbers.split()]
        step = {"h": (values[0], 0), "v": (0, values[0])}.get(letter, values)
        at = np.array(step) if letter == "M" else at + step
        points.append(at)
    return np.array(points)


def test_a_line_is_drawn_where_its_values_lie():
    axes = Axes(Axis("x"), Axis("y"))
    xy = np.array([[0.0, 0.0], [0.2, 0.9], [0.2, 0.4], [1.0, 0.4]])
    drawn, kept = line(axes, xy, "images")
    assert kept == 4
    np.testing.assert_allclose(walked(ElementTree.fromstring(drawn).get("d")), axes.place(xy), atol=0.15)
    assert axes.point(0, 0)[0] == LEFT
    assert 0 < axes.point(1, 1)[0] <= WIDTH
    assert 0 < axes.point(1, 1)[1] < axes.point(0, 0)[1] < HEIGHT


def test_rounding_does_not_add_up_along_a_line():
    axes = Axes(Axis("x"), Axis("y"))
    points = roc_points(curve(size=2000))
    drawn, kept = line(axes, points.xy, "images")
    path = walked(ElementTree.fromstring(drawn).get("d"))
    assert kept < points.of
    np.testing.assert_allclose(path[-1], axes.place(points.xy)[-1], atol=0.06)
    assert TOLERANCE < 0.5


def marks(figure, tag):
    found = [node for node in ElementTree.fromstring(figure).iter(tag) if "mark" in (node.get("class") or "")]
    assert len(found) == 1
    return {key: float(value) for key, value in found[0].attrib.items() if key != "class"}


def test_the_marks_stand_at_f1_max():
    curves = scored().curves()
    axes = Axes(Axis("x"), Axis("y"))
    figure = precision_recall_chart(curves)
    for ranking, x, y in (
        (curves.image, marks(figure, "circle")["cx"], marks(figure, "circle")["cy"]),
        (curves.pixel, marks_of_rect(figure)[0], marks_of_rect(figure)[1]),
    ):
        best = ranking.f1_max()
        assert (x, y) == pytest.approx(axes.point(best.recall, best.precision), abs=0.06)


def marks_of_rect(figure):
    mark = marks(figure, "rect")
    return mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2


def test_the_mark_on_the_roc_line_counts_false_positives_at_the_threshold():
    curves = scored().curves()
    best = curves.pixel.f1_max()
    above = curves.pixel.thresholds >= best.threshold
    rate = curves.pixel.false_positives[above][-1] / curves.pixel.num_negative
    assert marks_of_rect(roc_chart(curves)) == pytest.approx(
        Axes(Axis("x"), Axis("y")).point(rate, best.recall), abs=0.06
    )


def test_charts_say_through_how_many_points_they_are_drawn_and_what_they_show():
    scorer = scored()
    curves, metrics = scorer.curves(), scorer.compute().metrics
    figure = ElementTree.fromstring(roc_chart(curves))
    drawn = [len(walked(node.get("d"))) for node in figure.iter("path")]
    note = figure.find("p").text
    assert f"{curves.image.thresholds.size} image thresholds" in note
    assert f"{curves.pixel.thresholds.size:,} pixel thresholds" in note
    assert note.startswith(f"{drawn[0]} points")
    spoken = figure.find("svg").get("aria-label")
    assert f"AUROC {100 * metrics['auroc_cls']:.1f}" in spoken
    assert f"AUROC {100 * metrics['auroc_seg']:.1f}" in spoken


def test_without_curves_there_are_no_charts():
    nothing = ScoreCurves(None, None, None, None)
    assert [precision_recall_chart(nothing), roc_chart(nothing), pro_chart(nothing, 0.3)] == [None, None, None]
    images = ScoreCurves(scored().curves().image, None, None, None)
    assert "pixel" not in precision_recall_chart(images)
