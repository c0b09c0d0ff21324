"""Tables: what is averaged, what stays blank, what is printed, and which runs may be averaged over seeds."""

import copy
import csv
import io
import json
import math

import pytest

from eval.errors import ScoringInputError
from eval.tables import (
    COLUMNS,
    METRICS,
    count_averaged,
    mean_over_categories,
    over_seeds,
    sweep_table,
    to_csv,
    to_markdown,
    track_score,
)

IDS = ["auroc_cls", "f1_cls", "ap_cls", "auroc_seg", "f1_seg", "ap_seg", "pro_seg", "f1_region", "f1_harmonic"]


def run(seed: int = 0, shift: float = 0.0) -> dict:
    """Three categories: a full one, one without image metrics, one without any."""
    full = {metric: 0.1 * i + 0.05 + shift for i, metric in enumerate(COLUMNS)} | {"f1_cls_threshold": 17.0}
    pixels = {m: None if "cls" in m or m == "f1_harmonic" else 0.5 + shift for m in COLUMNS}
    categories = {"bottle": full, "a|b": pixels, "screw, small": dict.fromkeys(COLUMNS)}
    protocol = {"shots_drawn": "by seed", "reference_seed": seed, "map_size": 224}
    return {"track": "few_shot", "model": "m", "data": "d", "shots": 4, "seed": seed} | {
        "protocol": protocol,
        "seconds": 1.5 + seed,
        "categories": categories,
    }


def cells(markdown: str) -> list[list[str]]:
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.replace("\\|", "¦")[1:-1].split("|")] for row in rows]


def test_metrics_and_their_order() -> None:
    assert list(METRICS) == IDS
    assert [metric for metric in COLUMNS if metric in METRICS] == IDS
    assert list(COLUMNS)[list(COLUMNS).index("f1_seg") + 1] == "f1_seg_floor"
    assert len(set(COLUMNS.values())) == len(COLUMNS) == 11


def test_a_learnt_threshold_has_further_columns() -> None:
    one = run()
    one["categories"]["bottle"]["auroc_seg_low_fpr"] = 0.75
    assert "FPR" not in to_markdown(one)
    one["categories"]["bottle"]["f1_seg_learnt"] = 0.25
    header, _, *rows = cells(to_markdown(one))
    assert header[-2:] == ["F1 seg, learnt threshold", "AUROC seg, FPR <= 0.05"]
    assert [row[-2:] for row in rows] == [["25.0", "75.0"], ["", ""], ["", ""], ["25.0", "75.0"]]
    assert cells(to_markdown(over_seeds([one])))[-1][-2:] == ["25.0", "75.0"]
    assert to_csv(one).splitlines()[1].endswith(",0.25,0.75")


def test_mean_leaves_blanks_out() -> None:
    categories = run()["categories"]
    mean, count = mean_over_categories(categories), count_averaged(categories)
    assert (mean["auroc_cls"], count["auroc_cls"]) == (pytest.approx(0.05), 1)
    assert (mean["auroc_seg"], count["auroc_seg"]) == (pytest.approx((0.45 + 0.5) / 2), 2)
    assert mean_over_categories({"only": categories["screw, small"]}) == dict.fromkeys(COLUMNS)
    assert mean_over_categories({"nothing known": {}}) == mean_over_categories({}) == dict.fromkeys(COLUMNS)


def test_a_zero_is_a_number_and_no_blank() -> None:
    mean = mean_over_categories({"a": {"ap_cls": 0.0}, "b": {"ap_cls": 1.0}, "c": {"ap_cls": None}})
    assert mean["ap_cls"] == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_refused_by_name(value: float) -> None:
    with pytest.raises(ScoringInputError, match="Category screw: expected pro_seg"):
        mean_over_categories({"nut": {"pro_seg": 0.5}, "screw": {"pro_seg": value}})


def test_track_score_is_the_mean_of_the_harmonic_means() -> None:
    assert track_score({"a": {"f1_harmonic": 0.2}, "b": {"f1_harmonic": 0.6}, "c": {}}) == pytest.approx(0.4)
    assert track_score({"c": {"f1_harmonic": None}}) is None
    # not the harmonic mean of the mean F1s, which would be 0.5 here
    unlike = {
        "a": {"f1_cls": 1.0, "f1_seg": 0.0, "f1_harmonic": 0.0},
        "b": {"f1_cls": 0, "f1_seg": 1, "f1_harmonic": 0.0},
    }
    assert track_score(unlike) == 0.0


def test_markdown() -> None:
    header, rule, *rows = cells(to_markdown(run()))
    assert header == ["category", *COLUMNS.values()]
    assert rule == ["---", *["---:"] * 11]
    assert rows[0] == ["bottle", *[f"{5 + 10 * i}.0" for i in range(11)]]
    assert rows[1] == ["a¦b", "", "", "", "", "50.0", "50.0", "50.0", "50.0", "50.0", "50.0", ""]
    assert rows[2] == ["screw, small", *[""] * 11]
    assert rows[3][:2] == ["mean", "5.0"]
    assert rows[3][5:7] == ["47.5", "52.5"]
    assert len(rows) == 4


def test_markdown_says_what_the_mean_left_out() -> None:
    *_, image_note, pixel_note = to_markdown(run()).splitlines()
    assert image_note == (
        "AUROC cls, F1-max cls, AP cls, F1 harmonic: mean over 1 of 3 categories, blank for a|b, screw, small."
    )
    assert pixel_note.endswith("PRO seg, F1-max region: mean over 2 of 3 categories, blank for screw, small.")
    complete = run() | {"categories": {"bottle": run()["categories"]["bottle"]}}
    assert all(line.startswith("|") for line in to_markdown(complete).splitlines())


def test_csv_is_exact_and_reads_back() -> None:
    results = run()
    results["categories"]["bottle"]["ap_seg"] = 1 / 3
    header, *rows = csv.reader(io.StringIO(to_csv(results)))
    assert header == ["category", *COLUMNS]
    assert [row[0] for row in rows] == ["bottle", "a|b", "screw, small", "mean"]
    assert float(rows[0][header.index("ap_seg")]) == 1 / 3
    assert float(rows[3][header.index("ap_seg")]) == mean_over_categories(results["categories"])["ap_seg"]
    assert rows[2][1:] == [""] * 11


def test_tables_do_not_trust_a_stored_mean() -> None:
    stale = run() | {"mean": {"auroc_cls": 0.99}}
    assert to_markdown(stale) == to_markdown(run())
    assert to_csv(stale) == to_csv(run())


def test_over_seeds() -> None:
    summary = over_seeds([run(0), run(1, shift=0.02), run(5, shift=0.04)])
    assert summary["seeds"] == [0, 1, 5]
    assert (summary["track"], summary["shots"]) == ("few_shot", 4)
    cell = summary["categories"]["bottle"]["auroc_cls"]
    assert cell == {"mean": pytest.approx(0.07), "std": pytest.approx(0.02)}  # n - 1; with n it would be 0.0163
    assert summary["categories"]["screw, small"]["pro_seg"] is None
    assert summary["score"] == summary["mean"]["f1_harmonic"]
    assert json.loads(json.dumps(summary)) == summary


def test_spread_of_the_mean_is_that_of_whole_runs() -> None:
    first, second = run(0), run(1)
    for categories, up, down in ((first["categories"], "bottle", "a|b"), (second["categories"], "a|b", "bottle")):
        categories[up]["ap_seg"], categories[down]["ap_seg"] = 0.6, 0.4
    summary = over_seeds([first, second])
    assert summary["categories"]["bottle"]["ap_seg"]["std"] == pytest.approx(math.sqrt(0.02))
    assert summary["mean"]["ap_seg"] == {"mean": pytest.approx(0.5), "std": pytest.approx(0.0)}


def test_tables_over_seeds() -> None:
    summary = over_seeds([run(0), run(1, shift=0.02)])
    rows = cells(to_markdown(summary))
    assert rows[2][:3] == ["bottle", "6.0 ± 1.4", "16.0 ± 1.4"]
    assert rows[3][1] == ""
    assert rows[-1][:2] == ["mean", "6.0 ± 1.4"]
    assert "mean over 1 of 3 categories" in to_markdown(summary)
    header, first, *_ = csv.reader(io.StringIO(to_csv(summary)))
    assert header[:3] == ["category", "auroc_cls", "auroc_cls_std"]
    assert [float(cell) for cell in first[1:3]] == pytest.approx([0.06, 0.02 / math.sqrt(2)])


def test_one_seed_has_no_spread() -> None:
    summary = over_seeds([run(3)])
    assert summary["mean"]["auroc_cls"] == {"mean": pytest.approx(0.05), "std": None}
    assert cells(to_markdown(summary)) == cells(to_markdown(run(3)))
    assert next(csv.DictReader(io.StringIO(to_csv(summary))))["auroc_cls_std"] == ""


def test_sweep_table() -> None:
    one, two = over_seeds([run(0) | {"shots": 1}]), over_seeds([run(0), run(1, shift=0.02)])
    header, _, first, second = cells(sweep_table([one, two]))
    assert header == ["track", "model", "weights", "data", "shots", "seeds", "categories", *COLUMNS.values()]
    assert first[:8] == ["few_shot", "m", "", "d", "1", "0", "3", "5.0"]
    assert second[4:8] == ["4", "0 1", "3", "6.0 ± 1.4"]
    assert second[11] == "48.5 ± 1.4"  # AUROC seg: 47.5 for seed 0 and 49.5 for seed 1
    assert len(cells(sweep_table([]))) == 2


def test_sweep_table_says_where_protocols_differ() -> None:
    one, two = over_seeds([run(0)]), over_seeds([run(0)])
    two["protocol"] = {**two["protocol"], "map_size": 518, "setting": "transductive"}
    header, _, first, second = cells(sweep_table([one, two]))
    assert header[-1] == "protocol"
    assert first[-1] == "map_size 224, setting not stated"
    assert second[-1] == "map_size 518, setting transductive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": 2}, "shots is 4 for seed 0 and 2 for seed 1"),
        ({"track": "zero_shot"}, "track is"),
        ({"weights": "other"}, "weights is None"),
        ({"protocol": {"map_size": 518}}, "protocol is"),
        ({"seed": 0}, r"\[0, 0\]"),
        ({"categories": {"bottle": {}}}, "a|b, screw, small"),
    ],
)
def test_unlike_runs_are_not_averaged(change: dict, message: str) -> None:
    with pytest.raises(ScoringInputError, match=message):
        over_seeds([run(0), run(1) | change])


def test_runs_with_unlike_blanks_are_not_averaged() -> None:
    other = copy.deepcopy(run(1))
    other["categories"]["bottle"]["ap_cls"] = None
    with pytest.raises(ScoringInputError, match="ap_cls of bottle"):
        over_seeds([run(0), other])
    with pytest.raises(ScoringInputError, match="at least one run"):
        over_seeds([])
