"""The table of what a run's own thresholds decide, beside counts taken from the planted run."""

from xml.etree import ElementTree

import pytest

from tests.support.report_stand_ins import ODD, OPTIONS, ReportDataset, finished_run, unfinished_run
from tests.tracks.report_page.test_page import section, table, text
from tracks.decide.decision import NOT_KEPT, KeptThresholds, decisions
from tracks.decide.threshold import Threshold
from tracks.report_page.page import render_page
from tracks.report_page.pictures import Photos
from tracks.report_page.scored_run import gather
from tracks.report_page.tables import decision_notes
from tracks.run.scoring import score_category

CAPTION = "Decided by a threshold"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = finished_run(tmp_path_factory.mktemp("report") / "run")
    kept = KeptThresholds(store.folder, 0.05)
    for name in ("bolt", ODD, "unlabelled", "never reached"):
        kept.keep_known(name, Threshold(0.29 if name == ODD else 0.55, "planted <b>"))
    return store


@pytest.fixture(scope="module")
def page(store):
    return ElementTree.fromstring(render_page(store, Photos(ReportDataset()), OPTIONS))


def cells(page, name):
    row = next(row for row in table(page, CAPTION).iter("tr") if text(row.find("th")) == name)
    return [text(cell) for cell in row.findall("td")]


def test_each_row_holds_the_counts_of_its_category(store, page):
    expected, total = {}, [0, 0, 0, 0]
    for name, threshold in (("bolt", 0.55), (ODD, 0.29)):
        rows = store.rows(name)
        called = [[row.image_score >= threshold for row in rows if row.label == label] for label in (0, 1)]
        counts = [sum(called[0]), len(called[0]), sum(called[1]), len(called[1])]
        expected[name] = counts
        total = [a + b for a, b in zip(total, counts, strict=True)]
    for name, counts in {**expected, "pooled": total}.items():
        shares = [f"{100 * counts[i] / counts[i + 1]:.1f}" for i in (0, 2)]
        shown = [*map(str, counts[:2]), shares[0], *map(str, counts[2:]), shares[1], "0"]
        assert cells(page, name)[1:] == shown
    assert expected[ODD][0] > 0
    assert 0 < expected["bolt"][2] < 3


def test_no_image_gives_a_count_of_0_and_a_dash_and_no_threshold_dashes_alone(page):
    assert cells(page, "unlabelled") == ["0.55", "0", "0", "—", "0", "0", "—", "0"]
    assert cells(page, "never reached") == ["0.55", "0", "0", "—", "0", "0", "—", "0"]
    assert cells(page, "good only") == ["—"] * 8


def test_the_rule_and_the_reason_stand_below(store, page):
    said = [
        f"Threshold of bolt, {ODD}, unlabelled, never reached: planted <b>.",
        f"No threshold for good only: {NOT_KEPT}.",
    ]
    assert set(said) <= {text(node) for node in page.iter("p")}
    decision = decisions(store)
    assert decision_notes(decision) == said
    assert decision_notes({**decision, "target_rate": 0.05})[0] == "Target: at most 5.0% false alarms."


def test_the_table_stands_among_the_results(page):
    results = next(node for node in page.iter("section") if node.find("h2[@id='results']") is not None)
    assert CAPTION in [text(found.find("caption"))[: len(CAPTION)] for found in results.iter("table")]
    widths = [int(cell.get("colspan", 1)) for cell in table(page, CAPTION).findall("thead/tr[1]/th")]
    assert sum(widths) == len(table(page, CAPTION).findall("tbody/tr[1]/*")) == 9


def test_what_is_missed_is_missed_by_the_runs_own_threshold(store, page):
    """0.55 finds other images than the threshold of F1-max, which is chosen with the labels."""
    groups = section(page, "bolt").findall("div[@class='groups']/div")
    rows = {row.name: row for row in store.rows("bolt")}
    for figcaption in groups[0].findall("figure/figcaption"):
        own = rows[text(figcaption.find("strong"))].image_score >= 0.55
        assert text(figcaption.findall("span[@class]")[1]) == ("found" if own else "missed")
    missed = sum(row.label == 1 and row.image_score < 0.55 for row in rows.values())
    assert f"{missed} of 3 anomalous images missed by the run's own threshold." in text(groups[0].find("p"))
    assert "the F1-max threshold" in text(groups[0].find("p"))
    good_only = section(page, "good only")
    assert "the run has no threshold of its own" in text(good_only)


def test_recall_by_kind_has_its_precision_beside_it(store, page):
    head, body = (list(table(page, "bolt: recall by kind").find(part)) for part in ("thead", "tbody"))
    columns = [text(cell) for cell in head[0]]
    kind, precision = (dict(zip(columns, (text(cell) for cell in line), strict=True)) for line in body)
    rows = store.rows("bolt")
    called = [row for row in rows if row.image_score >= 0.55]
    found = sum(row.label for row in called)
    assert kind["image recall, own threshold"] == f"{100 * found / 3:.1f}"
    assert precision["image recall, own threshold"] == f"{100 * found / len(called):.1f}"
    metrics = score_category(None, "bolt", store)
    for column, level in (("image recall", "cls"), ("pixel recall", "seg"), ("region recall", "region")):
        assert precision[column] == f"{100 * metrics[f'precision_{level}']:.1f}"


def test_the_map_scale_of_a_page_ends_within_what_a_map_can_reach(tmp_path):
    store = unfinished_run(tmp_path / "run", protocol={"few_shot_map_bound": 0.85})
    assert gather(store, OPTIONS.choice).scale.high <= 0.85
