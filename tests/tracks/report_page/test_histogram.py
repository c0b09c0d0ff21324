"""Every image is in the histogram once, on its own side."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.support.rows import row
from tracks.report_page.score_histogram import BINS, score_histogram


def rows(scores, label):
    return [replace(row(f"{label}-{i}"), label=label, image_score=float(score)) for i, score in enumerate(scores)]


def bars(figure):
    """(class, x, height) of each bar."""
    return [
        (node.get("class"), float(node.get("x")), float(node.get("height")))
        for node in ElementTree.fromstring(figure).iter("rect")
    ]


def test_bar_heights_are_the_counts_of_numpys_histogram():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(0, 1, 200), rng.normal(2, 1, 100)
    figure = bars(score_histogram(rows(normal, 0) + rows(anomalous, 1), 1.0))
    edges = np.histogram_bin_edges(np.concatenate([normal, anomalous]), BINS)
    for kind, scores in (("bar normal", normal), ("bar anomalous", anomalous)):
        counts = np.histogram(scores, edges)[0]
        heights = np.array([height for class_, _, height in figure if class_ == kind])
        expected = counts[counts > 0]
        np.testing.assert_allclose(heights / heights.max(), expected / expected.max(), atol=0.02)


def test_normal_images_stand_above_anomalous_ones_below_one_line():
    figure = score_histogram(rows([0.1, 0.2], 0) + rows([0.8, 0.9], 1), 0.5)
    nodes = list(ElementTree.fromstring(figure).iter("rect"))
    bottoms = {float(n.get("y")) + float(n.get("height")) for n in nodes if n.get("class") == "bar normal"}
    tops = {float(n.get("y")) for n in nodes if n.get("class") == "bar anomalous"}
    assert len(bottoms) == len(tops) == 1
    assert bottoms.pop() == pytest.approx(tops.pop(), abs=0.11)
    assert "threshold, 0.5" in figure


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (rows([0.5], 0), "1 normal"),
        (rows([0.5, 0.5], 0) + rows([0.5], 1), "2 normal, 1 anomalous"),
        (rows([0.1, 0.7], 1), "2 anomalous"),
        (rows([0.0, 0.0], None), "2 unlabelled"),
        (rows([1e-9, 2e-9], 0) + rows([0.3], None), "unlabelled ones are not drawn"),
        (rows([-40000, 65000.0], 0), "2 normal"),
    ],
)
def test_few_equal_extreme_or_unlabelled_scores_are_drawn_too(given, said):
    figure = score_histogram(given, None)
    assert said in ElementTree.fromstring(figure).find("p").text
    assert "nan" not in figure
    assert bars(figure)


@pytest.mark.parametrize(
    ("scores", "ticks"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([0.29983, 0.30004], ["0.29985", "0.2999", "0.29995", "0.3"]),
    ],
)
def test_ticks_are_round_and_told_apart(scores, ticks):
    texts = [node.text for node in ElementTree.fromstring(score_histogram(rows(scores, 0), None)).iter("text")]
    assert texts[: len(ticks)] == ticks


def test_without_images_there_is_no_histogram():
    assert score_histogram([], None) is None


def test_both_thresholds_are_drawn_and_told_apart():
    figure = score_histogram(rows([0.1, 0.2], 0) + rows([0.8, 0.9], 1), 0.5, 0.95)
    lines = {node.get("class"): float(node.get("x1")) for node in ElementTree.fromstring(figure).iter("line")}
    assert lines["rule threshold"] < lines["rule threshold own"]
    assert max(node[1] + 0.1 for node in bars(figure)) < lines["rule threshold own"], "it lies beyond all scores"
    assert "solid: the run's own threshold, 0.95; dashed: the F1-max threshold, 0.5" in figure
