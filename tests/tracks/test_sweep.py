"""A sweep's table: a row for each setting swept, named by it, the seeds of one setting in one row."""

import csv
import io
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from eval.tables import COLUMNS, sweep_table
from tracks.errors import TrackInputError
from tracks.sweep import PLUGIN, rows_of, to_csv, to_maximise, with_swept

ROOT = Path(__file__).resolve().parents[2]


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


def test_what_a_searching_sweeper_is_told():
    cell = {"categories": {"bolt": {"auroc_cls": 0.9}}, "mean": {"auroc_cls": 0.8}, "score": 0.5}
    told = {name: to_maximise(cell, OmegaConf.create({"maximise": name})) for name in ("score", "bolt/auroc_cls")}
    assert told == {"score": 0.5, "bolt/auroc_cls": 0.9}
    assert math.isnan(to_maximise({**cell, "score": None}, OmegaConf.create({"maximise": "score"})))
    with pytest.raises(TrackInputError, match=r"expected maximise to be one of .*did you mean mean/auroc_cls"):
        to_maximise(cell, OmegaConf.create({"maximise": "mean/auroc_cl"}))


@pytest.mark.e2e
@pytest.mark.parametrize("installed", [True, False])
def test_optuna_searches_and_says_what_was_best(installed, tmp_path):
    if installed != (find_spec(PLUGIN) is not None):
        pytest.skip("needs hydra-optuna-sweeper" if installed else "needs to be without hydra-optuna-sweeper")
    words = ["zero-shot", "-m", "sweeper=optuna", "trials=3", "maximise=mean/auroc_cls", "model=random",
             "model.map_size=8", "model.seed=range(0,50)", "categories=[denim]", "overlays=0", "resolution=32",
             f"outputs={tmp_path}", "device=cpu"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, capture_output=True, text=True)
    if not installed:
        assert (done.returncode, 'pip install "vandkit[optuna]"' in done.stderr) == (2, True)
        return
    assert done.returncode == 0, done.stderr
    [folder] = [path for path in (tmp_path / "sweep").iterdir() if not path.is_symlink()]
    rows = list(csv.DictReader((folder / "table.csv").open()))
    best = max(rows, key=lambda row: float(row["auroc_cls"]))
    assert len(rows) == 3
    assert f"largest mean/auroc_cls: {float(best['auroc_cls']):.4f} with model.seed={best['model.seed']}" in done.stdout
    assert "[3/3]" in done.stdout
