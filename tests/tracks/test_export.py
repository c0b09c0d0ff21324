"""`export`: the folder says what the model says, in every format that is installed, and refuses what was changed."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tracks.api import composed
from tracks.errors import TrackInputError
from tracks.export import export
from tracks.exporting.run import Runner
from tracks.fit import fit

SMALL = {"weights": "tiny", "weights.backbone.image_size": 64, "category": "bolt"}
ONNX = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}


def save_photos(folder, count, size=(150, 150)):
    folder.mkdir()
    drawn = np.random.default_rng(count)
    for i in range(count):
        pixels = drawn.integers(90, 130, (20, 20, 3)).astype(np.uint8)
        pixels[5:10, 5:10] //= 2 + i % 2
        PIL.Image.fromarray(pixels).resize(size).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """A product that looks at tiles, and one that does not."""
    root = tmp_path_factory.mktemp("products")
    good, made = save_photos(root / "good", 3), {}
    for model, tiles in (("clip_adapter", "auto"), ("padim", "whole")):
        made[model] = str(root / f"{model}.safetensors")
        few = {"references": good, "out": made[model], "device": "cpu", "workers": 1}
        fit(composed("fit", {**SMALL, "model": model, "tiles": tiles, **few}))
    return made


@pytest.fixture(scope="module")
def exported(products, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "bolt"
    found = export(composed("export", {"product": products["clip_adapter"], "format": "torchscript", "out": str(out)}))
    assert found.photos == 3
    return out


def test_the_runner_judges_alone(exported, products, tmp_path):
    photos = save_photos(tmp_path / "photos", 2, (200, 120))
    command = [sys.executable, "run.py", *sorted(str(p) for p in (tmp_path / "photos").iterdir()), "--threads", "1"]
    done = subprocess.run([*command, "--maps", str(tmp_path / "maps")], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    checked = {"product": products["clip_adapter"], "check": str(exported), "images": photos}
    assert export(composed("export", checked)).is_rounding
    runner = Runner(exported, threshold=rows[0]["score"])
    assert [row["score"] for row in rows] == [pytest.approx(runner.judge(row["file"]).score, abs=1e-6) for row in rows]
    assert runner.verdict(rows[0]["score"]) == "DEFECT"
    assert runner.verdict(rows[0]["score"] - 1e-3) == "OK"
    assert np.load(rows[0]["map"]).shape == (128, 128)


@pytest.mark.parametrize("kind", ONNX)
@pytest.mark.parametrize("model", ["padim", pytest.param("clip_adapter", marks=pytest.mark.slow)])
def test_other_runtimes_say_the_same(kind, model, products, tmp_path):
    for package in ONNX[kind]:
        pytest.importorskip(package)
    found = export(composed("export", {"product": products[model], "format": kind, "out": str(tmp_path / "out")}))
    assert found.is_rounding


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8_weights", "int8"])
@pytest.mark.parametrize("model", ["padim", "clip_adapter"])
def test_lower_precisions_say_what_they_lose(precision, model, products, tmp_path):
    for package in (*ONNX["openvino"], "nncf"):
        pytest.importorskip(package)
    lower = {"product": products[model], "format": "openvino", "precision": precision, "out": str(tmp_path / "out")}
    found = export(composed("export", lower))
    assert 0 < found.scores < 1
    assert found.maps > 0


def test_changed_files_weights_and_settings_are_refused(exported, products, tmp_path):
    def refused(said, **settings):
        with pytest.raises(TrackInputError, match=said):
            export(composed("export", {"check": str(exported), **settings}))

    refused("to be exported of weights", product=products["padim"])
    refused("to be exported of product", **SMALL)
    refused("to be exported of settings", **SMALL, tiles=3)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert any("tiny_clip: Apache-2.0" in note for note in manifest["licences"])
    state = (exported / "state.npz").read_bytes()
    try:
        (exported / "state.npz").write_bytes(state[:-1] + b"x")
        refused("expected state.npz with sha256", product=products["clip_adapter"])
        with pytest.raises(ValueError, match=r"expected state\.npz"):
            Runner(exported)
    finally:
        (exported / "state.npz").write_bytes(state)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "got both or neither"),
        ({"out": "x", "check": "y"}, "got both or neither"),
        ({"out": "x", "format": "tflite"}, "one of onnx, openvino, torchscript, got 'tflite'"),
        ({"out": "x", "precision": "int8"}, "or one of float32, float16, int8, int8_weights with format=openvino"),
        ({"out": "x", "precision": "int8", "format": "openvino"}, "calibrated on the references"),
        ({"check": "nowhere"}, "expected an exported folder, got nowhere"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(TrackInputError, match=said):
        export(composed("export", {**SMALL, **settings}))


def test_a_region_of_interest_is_refused(tmp_path):
    path, region = str(tmp_path / "bolt.safetensors"), [[0.1, 0.1], [0.8, 0.2], [0.5, 0.9]]
    few = {"references": save_photos(tmp_path / "good", 2), "out": path, "device": "cpu", "workers": 1}
    fit(composed("fit", {**SMALL, "model": "padim", "tiles": "whole", "roi": region, **few}))
    with pytest.raises(TrackInputError, match="fitted with a region of interest"):
        export(composed("export", {"product": path, "format": "torchscript", "out": str(tmp_path / "out")}))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(TrackInputError, match="an empty folder or an earlier export"):
        export(composed("export", {**SMALL, "format": "torchscript", "out": str(tmp_path)}))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
