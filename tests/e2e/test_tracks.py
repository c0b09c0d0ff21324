"""The commands as a user runs them, in processes of their own, on the data and the weights that ship."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tracks.submission.vand2023 import validate

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["data.test_normal=4", "data.test_per_kind=1", "categories=[marble,battery]", "resolution=64", "overlays=1"]

pytestmark = pytest.mark.e2e


def run(module, *arguments, expect=0, **environment):
    """Run a module of ours; returns its stdout, or stderr where an error is expected."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stderr if expect else done.stdout


def heed_interrupts():
    """In the child: a test run that was started in the background hands down that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def results(outputs, track):
    return json.loads((outputs / track / "latest" / "results.json").read_text())


@pytest.fixture(scope="module")
def few_shot_run(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("few_shot")
    printed = run("tracks.few_shot", *SMALL, "shots=2", f"outputs={outputs}")
    return outputs, printed


def test_few_shot_prints_the_table_and_the_files(few_shot_run):
    outputs, printed = few_shot_run
    written = results(outputs, "few_shot")
    assert list(written["categories"]) == ["marble", "battery"]
    assert f"| mean | {100 * written['mean']['auroc_cls']:.1f} |" in printed
    assert f"{100 * written['score']:.1f}" in printed
    assert str(outputs / "few_shot" / "latest") in printed
    assert written["images"] == sum(table["images"] for table in written["categories"].values()) == 20
    manifest = json.loads((outputs / "few_shot" / "latest" / "references.json").read_text())
    assert {name: len(entries) for name, entries in manifest["categories"].items()} == {"marble": 2, "battery": 2}
    decided = written["decision"]["pooled"]
    assert (decided["categories"], decided["normal"], decided["anomalous"]) == (2, 8, 12)
    assert f"({decided['false_alarms']} of 8 normal images; target 5.0%)" in printed
    assert all("of 2 references as log odds" in entry["source"] for entry in written["decision"]["categories"].values())


def test_scoring_the_store_again_gives_the_same_numbers(few_shot_run, tmp_path):
    outputs, _ = few_shot_run
    run("tracks.score", f"out={tmp_path}", VANDKIT_RUN=str(outputs / "few_shot" / "latest"))
    again = json.loads((tmp_path / "results.json").read_text())
    first = results(outputs, "few_shot")
    assert (again["categories"], again["decision"]) == (first["categories"], first["decision"])


def test_a_submission_is_written_and_valid(few_shot_run, tmp_path):
    outputs, _ = few_shot_run
    latest = outputs / "few_shot" / "latest"
    run("tracks.submit", f"run={latest}", f"out={tmp_path / 'entry'}", "map_size=64")
    archive = tmp_path / "entry.zip"
    assert archive.is_file()
    names = {path.name for path in (tmp_path / "entry").rglob("*.npz")}
    assert len(list((tmp_path / "entry").rglob("*.npz"))) == 20, names
    scores = [path.relative_to(tmp_path / "entry").as_posix() for path in (tmp_path / "entry").rglob("*.txt")]
    targets = [name.replace("classification/", "").removesuffix(".txt") for name in scores]
    assert validate(archive, targets, map_size=64) == []


def test_a_run_killed_in_the_middle_ends_in_the_same_results(tmp_path):
    settings = ["data.test_normal=20", "data.test_per_kind=2", "categories=[plaster]", "resolution=64", "overlays=0"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("tracks.zero_shot", *settings, f"outputs={whole}")
    command = [sys.executable, "-m", "tracks.zero_shot", *settings, f"outputs={cut}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = 0
    while rows < 8 and process.poll() is None:
        time.sleep(0.02)
        rows = sum(len(path.read_bytes().splitlines()) for path in cut.rglob("*.jsonl"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sum(len(path.read_bytes().splitlines()) for path in cut.rglob("*.jsonl"))
    assert 8 <= there < 32, "the run was not killed in its middle"
    printed = run("tracks.zero_shot", *settings, f"outputs={cut}")
    assert "from an earlier run" in printed
    cost = {"seconds": 0, "peak_memory_mb": 0}
    assert {**results(cut, "zero_shot"), **cost} == {**results(whole, "zero_shot"), **cost}


def test_a_sweep_names_a_failed_cell_ends_in_one_table_and_skips_finished_cells(tmp_path):
    axes = [*SMALL, "categories=[marble]", "seed=0,1", f"outputs={tmp_path}"]
    assert "shots=99" in run("tracks.sweep", *axes, "shots=0,1,99", expect=2)
    rows = json.loads((tmp_path / "sweep" / "latest" / "table.json").read_text())
    assert [(row["shots"], row["seeds"]) for row in rows] == [(0, [0, 1]), (1, [0, 1])]
    assert rows[1]["mean"]["auroc_seg"]["std"] is not None
    again = run("tracks.sweep", *axes, "shots=0,1")
    assert again.count("0 images to predict") == 4
    assert "4 of 4 cells finished" in again


@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_several_runs_of_a_track_end_in_the_same_table_and_another_launcher_runs_them(tmp_path, launcher):
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    settings = [*SMALL, "categories=[marble]", "model=constant", "weights=none", "shots=1,2", f"outputs={tmp_path}"]
    assert "2 of 2 cells finished" in run("tracks.few_shot", "-m", *settings, f"hydra/launcher={launcher}")
    written = (tmp_path / "sweep" / "latest" / "table.csv").read_text().splitlines()
    assert [line.split(",")[4:7] for line in written[1:]] == [["1", "0", "marble"], ["2", "0", "marble"]]


def test_cells_side_by_side_that_differ_in_a_rate_alone_have_folders_and_rows_of_their_own(tmp_path):
    settings = [*SMALL, "categories=[marble]", "model=constant", "weights=none", "shots=2", f"outputs={tmp_path}"]
    axes = ["false_alarm_rate=0.05,0.3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert "| false_alarm_rate | false alarms | recall |" in run("tracks.sweep", *settings, *axes)
    found = [json.loads(path.read_text()) for path in (tmp_path / "few_shot").glob("[!l]*/results.json")]
    assert sorted(each["decision"]["target_rate"] for each in found) == [0.05, 0.3]
    rows = json.loads((tmp_path / "sweep" / "latest" / "table.json").read_text())
    assert [row["swept"]["false_alarm_rate"] for row in rows] == ["0.05", "0.3"]


def test_own_photos_get_a_verdict_each(tmp_path):
    photos, good = tmp_path / "my photos, new", tmp_path / "good"
    photos.mkdir()
    good.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.normal(128, 4, (120, 160, 3)).clip(0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save((good if number < 4 else photos) / f"{number}.jpg")
    pixels[40:70, 60:110] = 250
    PIL.Image.fromarray(pixels).save(photos / "marked.jpg")
    (photos / "broken.png").write_bytes(b"no picture")
    printed = run(
        "tracks.predict", f"outputs={tmp_path / 'outputs'}", VANDKIT_IMAGES=str(photos), VANDKIT_REFERENCES=str(good),
        VANDKIT_CATEGORY='plate, 5" [steel]', VANDKIT_PROMPT="scratch, dent",
    )  # fmt: skip
    assert "marked.jpg" in printed
    folder = tmp_path / "outputs" / "predict" / "latest"
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    assert any("unreadable" in row and "broken.png" in row for row in rows)
    assert len(list((folder / "maps").rglob("*.tiff"))) == 3


def test_a_tampered_weights_file_is_refused(tmp_path):
    file = tmp_path / "tiny_adapter.safetensors"
    content = bytearray((ROOT / "models/weights/tiny/tiny_adapter.safetensors").read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    error = run("tracks.zero_shot", f"weights.adapter.path={file}", f"outputs={tmp_path / 'o'}", expect=2)
    assert str(file) in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1


def test_another_runs_folder_is_refused_and_left_alone(few_shot_run):
    outputs, _ = few_shot_run
    latest = (outputs / "few_shot" / "latest").resolve()
    before = sorted(path.stat().st_mtime_ns for path in latest.rglob("*"))
    error = run("tracks.zero_shot", *SMALL, f"out={latest}", f"outputs={outputs}", expect=2)
    assert "other settings" in error
    assert sorted(path.stat().st_mtime_ns for path in latest.rglob("*")) == before


def test_ctrl_c_keeps_what_is_done(tmp_path):
    command = [sys.executable, "-m", "tracks.zero_shot", f"outputs={tmp_path}", "categories=[plaster]", "workers=1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    while not list(tmp_path.rglob("*.tiff")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "what is done is kept" in error
    assert list(tmp_path.rglob("*.jsonl"))
