"""The benchmark of metrics: its workload, that its rows compute the same, and how it measures and reports."""

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import baselines, reproduce_stand_in
from benchmarks.machine import run_measured
from benchmarks.metrics import __main__ as metrics_command
from benchmarks.metrics import scaling
from benchmarks.metrics.compare import compare, measure, run_child
from benchmarks.metrics.implementations import COLUMNS, IMPLEMENTATIONS, Implementation
from benchmarks.metrics.workload import Category, load_category, make_category, save_category
from eval.category import ScoreCurves

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def category() -> Category:
    return make_category(6, 48, seed=3)


def test_half_of_the_images_have_defects_of_the_stated_size() -> None:
    category = make_category(20, 200, seed=0)
    assert category.maps.dtype == np.float32
    assert category.maps.min() > 0
    assert category.maps.max() < 1
    np.testing.assert_array_equal(category.labels, [0, 1] * 10)
    shares = category.masks[1::2].mean(axis=(1, 2))
    assert shares.min() > 0.0008
    assert shares.max() < 4 * 0.0201
    np.testing.assert_array_equal(category.image_scores, [float(one.max()) for one in category.maps])


def test_a_category_depends_on_its_seed_and_begins_with_the_smaller_one(category: Category) -> None:
    np.testing.assert_array_equal(make_category(3, 48, seed=3).maps, category.maps[:3])
    assert not np.array_equal(make_category(3, 48, seed=4).maps, category.maps[:3])


def test_a_category_survives_the_disk(category: Category, tmp_path) -> None:
    save_category(category, tmp_path)
    loaded = load_category(tmp_path)
    for name in ("maps", "masks", "image_scores"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(category, name))


def values_of(row: Implementation, category: Category) -> dict[str, float]:
    found = {}
    for part in row.parts.values():
        found |= part(row.prepare(category))
    return {metric: value for metric, value in found.items() if metric in COLUMNS}


def test_rows_said_to_be_exact_agree(category: Category) -> None:
    exact = [row for row in IMPLEMENTATIONS if row.computes.endswith("exact") and row.package in ("", "sklearn")]
    assert {"scikit-learn", "PRO by sorting all pixels, plain"} < {row.name for row in exact}
    reference = values_of(next(row for row in exact if "with region F1" in row.computes), category)
    assert set(reference) == set(COLUMNS)
    for row in exact:
        values = {metric: value for metric, value in values_of(row, category).items() if value is not None}
        assert values == pytest.approx({metric: reference[metric] for metric in values}, abs=1e-9), row.name


@pytest.mark.parametrize("metric", ["legacy PRO", "legacy region F1"])
def test_our_legacy_metrics_are_the_plain_ones(metric: str, category: Category) -> None:
    plain, ours = (values_of(row, category) for row in IMPLEMENTATIONS if row.name.startswith(metric))
    assert min(plain.values()) > 0
    assert plain == pytest.approx(ours, abs=1e-12)


PEERS = sorted({row.package for row in IMPLEMENTATIONS} - {"", "sklearn"})


@pytest.mark.parametrize("package", PEERS)
def test_peers_that_are_installed_come_close(package: str, category: Category) -> None:
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    reference = values_of(next(row for row in IMPLEMENTATIONS if "with region F1" in row.computes), category)
    for row in (row for row in IMPLEMENTATIONS if row.package == package):
        values = values_of(row, category)
        assert values == pytest.approx({metric: reference[metric] for metric in values}, abs=0.05), row.name


def test_measure_times_each_part(category: Category) -> None:
    first = lambda given: {"pro_seg": float(len(given))}  # noqa: E731
    found = measure(Implementation("x", "y", {"first": first, "second": lambda given: {"ap_seg": 0.5}}), category)
    assert set(found["seconds"]) == {"first", "second"}
    assert found["values"] == {"pro_seg": 6.0, "ap_seg": 0.5}
    assert found["runs"] == 5
    assert found["extra_mb"] >= 0


def test_the_peak_is_found_again_in_a_process_of_its_own() -> None:
    # Not in this process: some systems take the request to forget the peak and keep it all the same.
    program = """
import numpy as np
from benchmarks.machine import peak_mb, reset_peak
before = reset_peak()
assert np.ones(50_000_000).sum() == 50_000_000
print(peak_mb() - before)
"""
    command = [sys.executable, "-c", program]
    grown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert 300 < float(grown.stdout) < 450


def test_a_command_is_measured() -> None:
    cost = run_measured([sys.executable, "-c", "assert len(b'x' * 2**27); raise SystemExit(3)"])
    assert (cost.exit_code, cost.peak_memory_mb > 128) == (3, True)
    assert cost.processor_seconds > 0
    assert cost.seconds > 0


def test_a_row_in_a_process_of_its_own() -> None:
    (row,) = compare(4, 48, 0, limit=120, only="legacy PRO, vandkit")
    assert row["name"] == "legacy PRO, vandkit"
    assert 0 < row["values"]["pro_seg"] <= 1
    assert row["seconds"]["all"] > 0


def test_a_slow_row_is_ended_and_a_failing_one_says_why(tmp_path) -> None:
    assert run_child(["benchmarks.metrics.compare", str(tmp_path), "0"], limit=0.01) == {"error": "over 0.01 s"}
    failed = run_child(["benchmarks.metrics.compare", str(tmp_path), "0"])["error"]
    assert failed.startswith("FileNotFoundError")
    assert "maps.npy" in failed


def test_the_table_shows_values_parts_and_what_went_wrong() -> None:
    measured = {"seconds": {"AUROC": 1.5, "AP": 0.25}, "extra_mb": 12.4, "values": {"auroc_seg": 0.5, "ap_seg": None}}
    rows = [
        {"name": "a", "computes": "exact", **measured},
        {"name": "b", "computes": "exact", "error": "not installed"},
        {"name": "c", "computes": "exact", "error": "ValueError: x|y\nz"},
    ]
    lines = metrics_command.to_markdown(rows).splitlines()
    assert [line.replace("\\|", "").count("|") for line in lines] == [len(COLUMNS) + 5] * 5
    assert lines[2].startswith("| a | exact | 1.75 (AUROC 1.5, AP 0.25) | 12 | 0.500000 |  |")
    assert "| not installed |" in lines[3]
    assert "| ValueError: x\\|y z |" in lines[4]


@pytest.mark.slow
def test_shards_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "NUM_SHARDS", 2)
    found = scaling.check_merge(6, 40, seed=1)
    assert found["shards"] == 2
    assert all(found["same_metrics"].values())
    assert all(found["same_curves"].values())
    assert found["num_metrics"] > 10


def test_curves_that_differ_in_one_bit_differ() -> None:
    one, other = (ScoreCurves(None, None, (np.zeros(3), np.array([1, end])), None) for end in (2.0, np.nextafter(2, 3)))
    assert scaling._same(one, copy.deepcopy(one))
    assert not scaling._same(one, other)


def test_streaming_counts_every_image() -> None:
    found = scaling.stream(3, 32, seed=0)
    assert found["images"] == 3
    assert found["seconds"] > 0
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("program", "known"),
    [(metrics_command, "scikit-learn"), (baselines, "vandkit, 1536 channels"), (reproduce_stand_in, "ksdd2")],
)
def test_only_a_name_that_none_has_is_refused(program, known, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--only", "scikit-lern"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "scikit-lern" in error
    assert known in error
