"""A sweep's table: a row for each setting swept, named by it, the seeds of one setting in one row."""

import csv
import io

import pytest

from eval.tables import COLUMNS, sweep_table
from tracks.sweep import rows_of, to_csv, with_swept


def cell(*words, seed=0, value=0.5, alarms=1, category="bolt"):
    entry = {"threshold": 0.5, "normal": 10, "false_alarms": alarms, "anomalous": 4, "found": 3}
    return {
        "track": "few_shot", "model": "m", "weights": "w", "data": "d", "shots": 1, "seed": seed,
        "protocol": {"setting": "inductive"}, "categories": {category: dict.fromkeys(COLUMNS, value)},
        "decision": {"categories": {category: entry}}, "words": ["overlays=0", *words, f"seed={seed}"],
    }  # fmt: skip


@pytest.mark.parametrize("key", ["false_alarm_rate", "batch_size", "+model.anything", "data.seed"])
def test_a_setting_that_no_protocol_names_has_rows_and_a_column_of_its_own(key):
    cells = [cell(f"{key}={value}", seed=seed) for value in ("0.05", "0.2") for seed in (0, 1)]
    rows = rows_of(with_swept(cells))
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    header, _, first, second = sweep_table(rows).splitlines()
    place = header.split(" | ").index(key.lstrip("+"))
    assert [line.split(" | ")[place] for line in (first, second)] == ["0.05", "0.2"]
    assert "overlays" not in header
    written = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row[key.lstrip("+")] for row in written] == ["0.05", "0.2"]
    assert (written[0]["seeds"], written[0]["categories"], written[0]["auroc_cls_std"]) == ("0 1", "bolt", "0.0")


def test_a_sweep_of_false_alarm_rates_shows_what_was_decided():
    cells = [
        cell(f"false_alarm_rate={rate}", seed=s, alarms=n + s) for rate, n in ((0.05, 1), (0.2, 4)) for s in (0, 1)
    ]
    table = sweep_table(rows_of(with_swept(cells)))
    assert "| false_alarm_rate | false alarms | recall |" in table
    assert "| 0.05 | 15.0% | 75.0% |" in table
    assert "| 0.2 | 45.0% | 75.0% |" in table


def test_categories_swept_are_one_row_of_the_seeds_that_have_them_all(caplog):
    cells = [cell(f"categories=[{name}]", category=name, seed=seed) for seed in (0, 1) for name in ("bolt", "nut")]
    (row,) = rows_of(with_swept(cells[:3]))
    assert (list(row["categories"]), row["seeds"], row["swept"]) == (["bolt", "nut"], [0], {})
    assert "seed 1 lacks nut and is left out" in caplog.text


def test_a_job_that_failed_counts_as_a_value_of_the_sweep():
    failed = {"error": "no", "words": ["overlays=0", "resolution=big", "seed=0"]}
    first, second = with_swept([cell("resolution=64"), failed])
    assert (first["swept"], second["swept"]) == ({"resolution": "64"}, {"resolution": "big"})
