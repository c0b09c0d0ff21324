import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.fakes import BrightnessModel, FakeDataset
from tests.unit.rows import row as row_of
from tracks.errors import TrackInputError
from tracks.runner import RunnerOptions, predict_category
from tracks.scoring import score_category
from tracks.store import PredictionStore
from tracks.track import run_track

OPTIONS = RunnerOptions(resolution=32, batch_size=4)


def store_in(folder, **changed):
    return PredictionStore.create(folder, {"categories": ["bolt", "nut"], "seed": 0, **changed})


def config(tmp_path, **changed):
    values = {
        "model": {"_target_": "tests.fakes.BrightnessModel"},
        "data": {"_target_": "tests.fakes.FakeDataset"},
        "shots": 0, "seed": 0, "run": 0, "references": None, "categories": [], "resolution": 32,
        "image_score": "model", "false_alarm_rate": 0.05, "batch_size": 4, "workers": 2, "device": "cpu", "out": None,
        "outputs": str(tmp_path / "outputs"), "overlays": 1, "fresh": False,
    }  # fmt: skip
    return OmegaConf.create({**values, **changed})


def test_every_image_gets_a_row_and_a_map_of_the_scored_size(tmp_path):
    store = store_in(tmp_path / "run")
    samples = FakeDataset().test("bolt")
    assert predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS) == 10
    rows = store.rows("bolt")
    assert [row.name for row in rows] == [sample.name for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        anomaly_map = store.read_map(row)
        expected = np.asarray(sample.load_image(), dtype=np.float32).mean(2) / 255
        np.testing.assert_array_equal(anomaly_map, expected.astype(np.float16))
        np.testing.assert_array_equal(store.read_mask(row), sample.load_mask())


def test_the_stored_mask_of_a_defect_that_is_gone_is_no_good_image(tmp_path):
    store = store_in(tmp_path / "run")
    samples = FakeDataset().test("bolt")
    predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS)
    path = next((tmp_path / "run").rglob("*.mask.png"))
    path.write_bytes(b"no picture")
    with pytest.raises(TrackInputError, match=r"the mask of .* at .*\.mask\.png, got .*; delete .* and run again"):
        score_category(samples, "bolt", store)
    path.unlink()
    with pytest.raises(TrackInputError, match=r"the mask of .* at .*\.mask\.png, got .*; delete .* and run again"):
        score_category(samples, "bolt", store)


def test_a_defect_that_vanishes_at_the_scored_size_is_known_to_be_empty(tmp_path):
    store = store_in(tmp_path / "run")
    store.add(replace(row_of("speck.png"), label=1), np.zeros((8, 8)), np.zeros((8, 8), dtype=bool))
    assert not store.read_mask(store.rows("bolt")[0]).any()


def test_bright_defects_are_scored_perfectly(tmp_path):
    store = store_in(tmp_path / "run")
    samples = FakeDataset().test("nut")
    predict_category(BrightnessModel(), samples, "nut", store, OPTIONS)
    table = score_category(samples, "nut", store)
    assert table["auroc_cls"] == table["f1_seg"] == table["pro_seg"] == table["f1_harmonic"] == 1
    assert (table["images"], table["anomalous"]) == (10, 5)


def test_a_run_that_was_cut_off_continues_with_what_is_missing_in_the_same_batches(tmp_path):
    samples = FakeDataset().test("bolt")
    store = store_in(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        predict_category(BrightnessModel(fail_after=4), samples, "bolt", store, OPTIONS)
    assert len(store.rows("bolt")) == 4
    model = BrightnessModel()
    assert predict_category(model, samples, "bolt", store, OPTIONS) == 6
    assert model.images_seen == [4, 2]
    whole = store_in(tmp_path / "whole")
    predict_category(BrightnessModel(), samples, "bolt", whole, OPTIONS)
    assert sorted(map(repr, store.rows("bolt"))) == sorted(map(repr, whole.rows("bolt")))


def test_a_row_cut_short_by_a_kill_is_predicted_again(tmp_path):
    samples = FakeDataset().test("bolt")
    store = store_in(tmp_path / "run")
    predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS)
    rows_file = tmp_path / "run" / "predictions" / "bolt.jsonl"
    rows_file.write_bytes(rows_file.read_bytes()[:-20])
    assert len(store.rows("bolt")) == 9
    assert predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS) == 1
    assert len(store.rows("bolt")) == 10


def test_an_image_that_changed_is_predicted_again(tmp_path):
    samples = FakeDataset().test("bolt")
    store = store_in(tmp_path / "run")
    predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS)
    changed = [type(samples[0])(**{**samples[0].__dict__, "fingerprint": "2"}), *samples[1:]]
    assert predict_category(BrightnessModel(), changed, "bolt", store, OPTIONS) == 1


def test_another_run_is_refused_by_the_setting_that_differs(tmp_path):
    store_in(tmp_path / "run")
    with pytest.raises(TrackInputError, match="seed there 0, here 1"):
        store_in(tmp_path / "run", seed=1)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrackInputError, match="holds other files"):
        store_in(tmp_path)


def test_zero_shot_never_asks_for_a_train_image(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(FakeDataset, "train", lambda self, category: calls.append(category))
    run_track(config(tmp_path), "zero_shot")
    assert calls == []


def test_results_hold_what_they_promise(tmp_path, capsys):
    results = run_track(config(tmp_path), "zero_shot")
    latest = tmp_path / "outputs" / "zero_shot" / "latest"
    written = json.loads((latest / "results.json").read_text())
    assert set(written) >= {"track", "model", "weights", "data", "shots", "seed", "protocol", "images", "seconds",
                            "peak_memory_mb", "categories", "mean", "score"}  # fmt: skip
    assert written["images"] == 20
    assert written["score"] == pytest.approx(1)
    assert written["categories"]["nut"]["f1_seg"] == 1
    assert (latest / "results.csv").is_file()
    assert results["folder"] in capsys.readouterr().out
    assert list((latest / "overlays").rglob("*.png"))


def test_running_again_predicts_nothing_and_gives_the_same_results(tmp_path):
    first = run_track(config(tmp_path, shots=2), "few_shot")
    second = run_track(config(tmp_path, shots=2), "few_shot")
    assert first == second


def test_other_weights_make_another_run(tmp_path, monkeypatch):
    first = run_track(config(tmp_path), "zero_shot")
    original = BrightnessModel.__init__

    def heavier(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        self.weight.data += torch.ones(1)

    monkeypatch.setattr(BrightnessModel, "__init__", heavier)
    assert run_track(config(tmp_path), "zero_shot")["folder"] != first["folder"]


def test_references_are_left_out_of_the_test_images_when_they_come_from_them(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeDataset, "train", lambda self, category: self.test(category)[:5])
    results = run_track(config(tmp_path, shots=2), "few_shot")
    assert results["images"] == 16


def test_unknown_category_names_the_near_one(tmp_path):
    with pytest.raises(TrackInputError, match="bolt"):
        run_track(config(tmp_path, categories=["bolts"]), "zero_shot")


def test_legacy_image_score_is_labelled_and_follows_the_formula(tmp_path):
    results = run_track(config(tmp_path, image_score="legacy_minmax"), "zero_shot")
    assert results["protocol"]["setting"] == "transductive"
    assert "legacy" in results["protocol"]["image_score"]
