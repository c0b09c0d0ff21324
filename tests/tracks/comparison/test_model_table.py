"""The table of `make compare`: its rows, cost, published figures beside, and the notes below."""

import csv
import io
import json
from itertools import count

import pytest

from eval.tables import COLUMNS
from tracks.comparison.finished import FinishedRun
from tracks.comparison.model_table import checks, cost_of, footnotes, rows_of, summary, to_csv, to_markdown
from tracks.comparison.plan import Outcome, PlannedRun
from tracks.comparison.published import Published

PROTOCOL = {"setting": "inductive", "method": "a method", "resolution": "256 x 256"}


def cost_entry(**changed):
    known = {"images": 4, "predict_seconds": 2.0, "predict_cpu_seconds": 1.0, "seconds": 8.0, "bank_bytes": 1024**2}
    return {**known, **changed}


@pytest.fixture
def outcome(tmp_path):
    numbers = count()

    def make(model, shots=1, seed=0, value=0.5, cost=None, references=("1.png",), error=None):
        run = PlannedRun(f"{shots}-shot {model} seed {seed}", model, shots, seed, (), tmp_path)
        if error:
            return Outcome(run, error=error)
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"references": {"bolt": references}}))
        (folder / "cost.json").write_text(json.dumps(cost or {}))
        results = {
            "track": "few_shot", "model": model, "weights": "tiny", "data": "toy", "shots": shots, "seed": seed,
            "protocol": PROTOCOL, "images": 4, "score": value,
            "categories": {name: dict.fromkeys(COLUMNS, value) for name in ("bolt", "nut")},
        }  # fmt: skip
        return Outcome(run, FinishedRun(folder, results))

    return make


def test_rows_hold_mean_and_deviation_and_the_best_of_a_setting_is_bold(outcome):
    outcomes = [outcome("a", seed=0, value=0.4), outcome("a", seed=1, value=0.6), outcome("b", seed=0, value=0.3),
                outcome("b", seed=1, value=0.3), outcome("a", shots=2, value=0.1)]  # fmt: skip
    lines = to_markdown(rows_of(outcomes), []).splitlines()
    assert len(lines) == 5
    first, second, third = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    columns = dict(zip([cell.strip() for cell in lines[0].split("|")[1:-1]], range(99), strict=False))
    assert first[columns["AUROC cls"]] == "**50.0 ± 14.1**"
    assert first[columns["F1 floor cls"]] == "50.0 ± 14.1", "a floor is no result to be best in"
    assert second[columns["AUROC cls"]] == "30.0 ± 0.0"
    assert (third[0], third[columns["AUROC cls"]]) == ("2-shot", "10.0"), "alone in its setting: nothing to be best of"


def test_cost_is_a_rate_over_all_runs_the_mean_bank_and_the_largest_memory(outcome):
    costs = [
        {"categories": {"bolt": cost_entry(), "nut": cost_entry(bank_bytes=3 * 1024**2)}, "peak_memory_mb": 700},
        {"categories": {"bolt": cost_entry(images=8, predict_seconds=4.0, bank_bytes=None)}, "peak_memory_mb": 900},
        {},
    ]
    assert cost_of(costs) == {
        "predict_images_per_second": 2.0, "predict_images_per_cpu_second": pytest.approx(16 / 3),
        "images_per_second": pytest.approx(16 / 24), "bank_bytes": 2 * 1024**2, "peak_memory_mb": 900,
        "gpu_memory_mb": None,
    }  # fmt: skip
    assert set(cost_of([{}]).values()) == {None}
    table = to_markdown(rows_of([outcome("a", cost=costs[0])]), [])
    assert "| 2.0 | 4.0 | 0.5 | 2.00 | 700 |" in table
    assert "GPU" not in table


def test_published_figures_stand_below_ours_labelled_and_with_their_source(outcome):
    beside = [Published("spade", 1, "april_gan/3", {"auroc_cls": 82.9}, {"auroc_cls": 2.6})]
    rows = rows_of([outcome("spade"), outcome("padim")])
    lines = to_markdown(rows, beside).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["spade", "*spade, published [1]*", "padim"]
    assert "| *82.9 ± 2.6* |" in lines[3]
    notes = footnotes(rows, beside, ["a note"])
    assert "- [1] published" in notes
    assert "arXiv 2305.17382, Table 3" in notes
    assert "- a note" in notes
    assert "- spade: setting inductive; method a method" in notes
    ours, _, printed = csv.DictReader(io.StringIO(to_csv(rows, beside)))
    assert (ours["source"], ours["auroc_cls"], ours["auroc_cls_std"], ours["seeds"]) == ("ours", "0.5", "", "0")
    assert (printed["source"], float(printed["auroc_cls_std"])) == ("april_gan/3", pytest.approx(0.026))
    assert printed["ap_seg"] == ""


def test_what_a_reader_must_know_is_said(outcome):
    odd = outcome("a", seed=1)
    odd.finished.results["categories"]["nut"]["pro_seg"] = None
    (row,) = rows_of([outcome("a", seed=0, value=0.25), odd])
    assert (row["seeds"], row["mean"]["auroc_cls"]) == ([0], {"mean": 0.25, "std": None})
    assert "pro_seg of nut" in row["alone_because"]
    outcomes = [
        outcome("a"), outcome("b", references=["2.png"]), outcome("c", seed=1),
        *(outcome("d", shots, seed, error="no net") for shots, seed in ((0, 0), (1, 0), (1, 1))),
    ]  # fmt: skip
    content = summary("toy", ["data=toy"], ["bolt"], outcomes, [row], [], ["left out"])
    assert content["notes"][1:4] == [
        "Maps scored at 256 x 256",
        "left out",
        "NOT THE SAME: 1-shot b seed 0 had other references or images than 1-shot a seed 0.",
    ]
    assert content["notes"][4] == "No result of d (zero-shot, 1-shot seed 0, 1-shot seed 1): no net"
    assert content["notes"][5].startswith("1-shot a: seed 0 alone")
    assert [(each["model"], each["seed"], each["crashed"]) for each in content["failed"]] == [
        ("d", 0, False), ("d", 0, False), ("d", 1, False),
    ]  # fmt: skip
    assert checks([outcome("a"), outcome("b")]) == []
