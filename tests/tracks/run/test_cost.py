"""What a run writes down of its cost: seconds inside predict, bytes that fit kept, figures of a run that was killed."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from models.references import Prepared
from tests.support.fakes import BrightnessModel
from tracks.run.cost import COST_FILE, CostLedger, Stopwatch, held_bytes, read_cost

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Kept:
    tokens: torch.Tensor
    table: np.ndarray


def remember(model, category, number=10):
    tokens = torch.zeros(number, 4)  # float32: 16 bytes a row
    bank = Prepared([tokens, tokens[: number // 2]], torch.clone)
    model.levels[category] = [Kept(tokens, np.zeros(3)), {"again": tokens[2:]}, bank, "text", 1.0]


def test_held_bytes_counts_each_memory_once_and_no_weights():
    model = BrightnessModel()
    model.levels["weights too"] = model.weight.detach()
    assert held_bytes(model) == 0
    remember(model, "bolt")
    assert held_bytes(model) == 10 * 16 + 3 * 8
    remember(model, "nut", number=20)
    assert held_bytes(model) == 30 * 16 + 2 * 24


def test_a_stopwatch_adds_up_what_is_inside_it_alone():
    watch = Stopwatch()
    for _ in range(2):
        with watch:
            time.sleep(0.03)
        time.sleep(0.1)
    assert 0.06 <= watch.seconds < 0.2 or watch.cpu_seconds < 0.05 < 0.06 <= watch.seconds
    assert watch.cpu_seconds < 0.05


def test_a_stopwatch_counts_the_processor_time_of_every_thread():
    def work():
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass

    watch = Stopwatch()
    with watch, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: work(), range(2)))
    assert watch.cpu_seconds >= 0.2


def test_a_ledger_keeps_each_category_and_what_an_earlier_process_measured(tmp_path):
    first = CostLedger(tmp_path, time.perf_counter() - 5)
    model = BrightnessModel()
    with first.fit(model):
        remember(model, "bolt")
    with first.predicting:
        time.sleep(0.02)
    first.keep("bolt", images=4)
    first.keep("nut", images=0)
    kept = read_cost(tmp_path)
    assert list(kept["categories"]) == ["bolt"], "what was not predicted has no cost"
    bolt = kept["categories"]["bolt"]
    assert (bolt["images"], bolt["bank_bytes"]) == (4, 184)
    assert bolt["seconds"] >= 5 > bolt["predict_seconds"] >= 0.02
    second = CostLedger(tmp_path, time.perf_counter())
    second.keep("nut", images=3)
    assert read_cost(tmp_path)["categories"]["bolt"] == bolt
    assert read_cost(tmp_path)["categories"]["nut"]["bank_bytes"] is None


def test_the_largest_memory_of_all_processes_counts(tmp_path):
    (tmp_path / COST_FILE).write_text(json.dumps({"categories": {}, "peak_memory_mb": 10**6, "gpu_memory_mb": 0}))
    CostLedger(tmp_path, time.perf_counter()).keep("bolt", images=1)
    assert read_cost(tmp_path)["peak_memory_mb"] == 10**6


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_run_without_figures_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / COST_FILE).write_text(content)
    assert read_cost(tmp_path) == {"categories": {}, "peak_memory_mb": None, "gpu_memory_mb": None}


def test_peak_memory_grows_with_what_is_held():
    """In a process of its own: what earlier tests held would hide it."""
    program = (
        "import numpy as np; from tracks.run.cost import peak_memory; before = peak_memory()['peak_memory_mb']; "
        "held = np.ones(2**25); print(peak_memory()['peak_memory_mb'] - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 128 < int(done.stdout) < 300, "2**25 doubles are 256 MB"
