"""A published table beside ours, from made-up results: values, means, tolerance, order and how they print."""

import csv
import statistics

import pytest

from eval.published.reader import load
from tests.support.published_stand_ins import METRICS, like_the_paper, scores_like_the_paper
from tracks.comparison.answers import Need, group, needs_of
from tracks.comparison.lines import lines_of, summary, to_csv, to_markdown

ZERO_SHOT = Need("april_gan_visa", 0, 0)


def test_a_run_with_the_papers_figures_differs_nowhere_but_in_rounded_means():
    table = load("april_gan/9")
    lines = lines_of(table, {ZERO_SHOT: scores_like_the_paper("april_gan/9")}, 0.06)
    ours = [line for line in lines if line.metric != "legacy_pro"]
    assert len(ours) == 13 * 7
    names = [*(row.words["Object"] for row in table.rows[:-1]), "mean"]
    assert [line.row for line in ours if line.column == "AP-cls"] == names
    assert all(line.within for line in ours)
    assert all(line.difference == pytest.approx(0, abs=1e-9) for line in ours if line.row != "mean")
    legacy = [line for line in lines if line.metric == "legacy_pro"]
    assert len(legacy) == 13
    assert all((line.ours, line.within, line.paper_std) == (None, None, None) for line in legacy)


def test_the_printed_table_marks_what_lies_beyond_the_tolerance():
    run = like_the_paper("april_gan/9", shift=0.9)
    run.results["categories"]["candle"]["auroc_seg"] = 0.95  # the paper says 97.8
    lines = lines_of(load("april_gan/9"), {ZERO_SHOT: run.scores(METRICS.values())}, 1.0)
    candle = next(line for line in to_markdown(lines).splitlines() if line.startswith("| candle"))
    assert "| 97.8 → 95.0 (-2.8*) |" in candle
    assert "| 39.4 → 40.3 (+0.9) |" in candle
    assert "| 92.5 → none |" in candle
    assert summary(lines, 1.0).startswith(
        "90 of 91 figures within the tolerance; 0 of 0 figures by the paper's own (legacy)"
    )
    rows = list(csv.DictReader(to_csv(lines).splitlines()))
    first = next(row for row in rows if (row["row"], row["metric"]) == ("candle", "auroc_seg"))
    assert float(first["difference"]) == pytest.approx(-2.8)
    assert (first["paper"], first["within"], first["paper_std"]) == ("97.8", "False", "")


def test_seeds_give_mean_and_deviation_and_the_papers_own_deviation_widens_the_tolerance():
    scores = {
        Need("april_gan_visa", 1, seed): scores_like_the_paper("april_gan/10", shift=shift - 4, shots=1, seed=seed)
        for seed, shift in ((0, 0.0), (1, 2.0), (4, 4.0))
    }
    lines = {(line.row, line.metric): line for line in lines_of(load("april_gan/10"), scores, 1.0)}
    line = lines["pcb1", "auroc_cls"]
    assert (line.paper, line.paper_std) == (89.0, 7.3)
    assert (line.ours, line.ours_std) == (pytest.approx(87.0), pytest.approx(statistics.stdev([0, 2, 4])))
    assert line.within is True  # 2 points off, but the paper's own seeds are 7.3 apart
    assert lines["pcb4", "auroc_cls"].within is False
    assert lines["pcb4", "legacy_minmax_auroc_cls"].ours is None


def test_no_mean_where_categories_are_missing():
    run = like_the_paper("april_gan/9")
    del run.results["categories"]["cashew"]
    lines = lines_of(load("april_gan/9"), {ZERO_SHOT: run.scores(METRICS.values())}, 1.0)
    assert [line.ours for line in lines if line.row in ("mean", "cashew")] == [None] * 16
    assert sum(line.ours is not None for line in lines) == 11 * 7


def test_groups_over_four_data_sets():
    """Textures score 0.6 and objects 0.3, but for one of each; the sums are by hand."""
    textures = set(group("texture"))
    mvtec = [row.words["Object"] for row in load("april_gan/5").rows[:-1]]
    visa = [row.words["Object"] for row in load("april_gan/9").rows[:-1]]
    of_set = {
        "mvtec": {f"mvtec/{name}": {"f1_seg": 0.6 if f"mvtec/{name}" in textures else 0.3} for name in mvtec},
        "visa": {f"visa/{name}": {"f1_seg": 0.3} for name in visa},
        "ksdd2": {"ksdd2/surface": {"f1_seg": 0.95}},
        "mtd": {"mtd/tile": {"f1_seg": 0.6}},
    }
    of_set["visa"]["visa/candle"]["f1_seg"] = 0.52
    scores = {Need(f"saa_plus_{name}", 0, 0): found for name, found in of_set.items()}
    table = load("saa_extended/1")
    lines = {line.column: line for line in lines_of(table, scores, 1.0) if line.metric == "f1_seg"}
    expected = {
        "VisA": 30 + 22 / 12, "MVTec-AD": 40.0, "KSDD2": 95.0, "MTD": 60.0,
        "Texture": 60 + 35 / 7, "Object": 30 + 22 / 22, "Total": (7 * 65 + 22 * 31) / 29,
    }  # fmt: skip
    assert {column: line.ours for column, line in lines.items()} == pytest.approx(expected)
    assert {line.row for line in lines.values()} == {"F_p, SAA+"}
    assert lines["Object"].difference == pytest.approx(31 - 28.82)
    del scores[Need("saa_plus_mtd", 0, 0)]
    fewer = {line.column: line.ours for line in lines_of(table, scores, 1.0) if line.metric == "f1_seg"}
    assert (fewer["Texture"], fewer["Total"], fewer["MTD"]) == (None, None, None)
    assert fewer["Object"] == pytest.approx(31.0)


def test_rows_and_columns_come_in_the_papers_order():
    table = load("april_gan/3")
    mvtec = [row.words["Object"] for row in load("april_gan/5").rows[:-1]]
    found = {f"mvtec/{name}": dict.fromkeys(METRICS.values(), 0.5) for name in mvtec}
    lines = lines_of(table, dict.fromkeys(needs_of(table.name, seeds=[0]), found), 1.0)
    printed = [", ".join(row.words.values()) for row in table.rows]
    assert list(dict.fromkeys(line.row for line in lines)) == printed
    first = [line.column for line in lines if line.row == printed[0] and not line.metric.startswith("legacy_")]
    assert first == [column for column in table.columns if column != "AP-segm"]
    assert all(line.ours == 50 for line in lines if not line.metric.startswith("legacy_"))
