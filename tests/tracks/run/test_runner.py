import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.metrics import average_precision_score

import tracks.command.config  # noqa: F401  (registers the schema)
from models.base import Prediction
from tests.support.clip_stand_ins import small_model
from tests.support.dataset_stand_ins import save_image, save_mask
from tests.support.fakes import BrightnessModel, FakeDataset
from tests.support.rows import row as row_of
from tracks.command.cli import CONF
from tracks.errors import TrackInputError
from tracks.run.resize import resize_mask
from tracks.run.run_folder import link_latest
from tracks.run.runner import RunnerOptions, predict_category
from tracks.run.scoring import score_category
from tracks.run.store import PredictionStore
from tracks.run.track import run_track
from tracks.score import score_run

OPTIONS = RunnerOptions(resolution=32, batch_size=4)


def store_in(folder, **changed):
    return PredictionStore.create(folder, {"categories": ["bolt", "nut"], "seed": 0, **changed})


def config(tmp_path, **changed):
    values = {
        "model": {"_target_": "tests.support.fakes.BrightnessModel"},
        "data": {"_target_": "tests.support.fakes.FakeDataset"},
        "shots": 0, "seed": 0, "draw": "by_name", "run": 0, "references": None, "categories": [], "resolution": 32,
        "image_score": "model", "map_precision": "float16", "mask_resize": "bilinear", "false_alarm_rate": 0.05,
        "batch_size": 4, "workers": 2, "device": "cpu", "out": None,
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


def test_a_run_says_once_what_is_odd_about_its_masks(tmp_path, caplog):
    for number in range(3):
        save_image(tmp_path / f"set/part/test/crack/{number}.png")
        inverted = save_mask(tmp_path / f"set/part/ground_truth/crack/{number}.png", {(2, 2): 255})
        PIL.ImageOps.invert(PIL.Image.open(inverted)).save(inverted)
        save_image(tmp_path / f"set/part/test/good/{number}.png", value=40)
    data = {"_target_": "tracks.datasets.mvtec.MVTec", "root": str(tmp_path / "set"), "name": "set"}
    results = run_track(config(tmp_path, data=data), "zero_shot")
    assert results["images"] == 6
    said = [message for message in caplog.messages if "the other way round" in message]
    assert len(said) == 2
    assert said[1].split(": ")[0].endswith(".png and 2 more")


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


def test_a_row_cut_short_by_a_kill_and_an_image_that_changed_are_predicted_again(tmp_path):
    samples = FakeDataset().test("bolt")
    store = store_in(tmp_path / "run")
    predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS)
    rows_file = tmp_path / "run" / "predictions" / "bolt.jsonl"
    rows_file.write_bytes(rows_file.read_bytes()[:-20])
    assert len(store.rows("bolt")) == 9
    assert predict_category(BrightnessModel(), samples, "bolt", store, OPTIONS) == 1
    assert len(store.rows("bolt")) == 10
    changed = [replace(samples[0], fingerprint="2"), *samples[1:]]
    assert predict_category(BrightnessModel(), changed, "bolt", store, OPTIONS) == 1


def test_another_run_is_refused_by_the_setting_that_differs_and_other_files_as_such(tmp_path):
    store_in(tmp_path / "run")
    with pytest.raises(TrackInputError, match="seed there 0, here 1"):
        store_in(tmp_path / "run", seed=1)
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
    assert written["score"] == pytest.approx(1), "defects are bright"
    nut = written["categories"]["nut"]
    assert nut["auroc_cls"] == nut["f1_seg"] == nut["pro_seg"] == nut["f1_harmonic"] == 1
    assert (nut["images"], nut["anomalous"]) == (10, 5)
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


@pytest.mark.parametrize(
    "changed",
    [
        {"image_score": "legacy_minmax"}, {"false_alarm_rate": 0.1}, {"map_precision": "float32"},
        {"mask_resize": "nearest"}, {"resolution": 16},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_change_a_result_change_the_folder(tmp_path, changed):
    first = run_track(config(tmp_path), "zero_shot")
    kept = (Path(first["folder"]) / "results.json").read_bytes()
    other = run_track(config(tmp_path, **changed), "zero_shot")
    assert other["folder"] != first["folder"]
    assert (Path(first["folder"]) / "results.json").read_bytes() == kept
    out = config(tmp_path, out=first["folder"], **changed)
    with pytest.raises(TrackInputError, match="other settings"):
        run_track(out, "zero_shot")


def test_another_device_or_version_is_another_run_and_says_so(tmp_path, monkeypatch):
    first = run_track(config(tmp_path), "zero_shot")
    said = json.loads((Path(first["folder"]) / "run.json").read_text())
    assert said["device"] == "cpu"
    assert said["device_name"]
    assert {"torch", "open_clip_torch"} <= said["versions"].keys()
    monkeypatch.setattr("tracks.run.track.device_name", lambda device: "another processor")
    second = run_track(config(tmp_path), "zero_shot")
    monkeypatch.setattr("tracks.run.track.versions", lambda: {"torch": "1.0"})
    third = run_track(config(tmp_path), "zero_shot")
    assert len({first["folder"], second["folder"], third["folder"]}) == 3
    with pytest.raises(TrackInputError, match=r"device_name there .*, here \"another processor\""):
        run_track(config(tmp_path, out=first["folder"]), "zero_shot")


def test_a_reference_that_changed_is_another_run(tmp_path, monkeypatch):
    first = run_track(config(tmp_path, shots=2), "few_shot")
    train = FakeDataset.train
    monkeypatch.setattr(
        FakeDataset, "train", lambda self, name: [replace(s, fingerprint="2") for s in train(self, name)]
    )
    assert run_track(config(tmp_path, shots=2), "few_shot")["folder"] != first["folder"]


def test_an_image_taken_away_is_gone_from_every_later_reader(tmp_path, monkeypatch):
    first = run_track(config(tmp_path), "zero_shot")
    folder, test = Path(first["folder"]), FakeDataset.test
    whole = [(row.name, row.map_file) for row in PredictionStore(folder).rows("bolt")]
    monkeypatch.setattr(FakeDataset, "test", lambda self, category: test(self, category)[1:])
    second = run_track(config(tmp_path), "zero_shot")
    assert (first["images"], second["images"]) == (20, 18)
    assert second["folder"] == first["folder"]
    assert [row.name for row in PredictionStore(folder).rows("bolt")] == [name for name, _ in whole[1:]]
    assert not (folder / whole[0][1]).exists()
    again = score_run(folder, None, None, 1)
    assert (again["images"], again["categories"]) == (18, second["categories"])
    monkeypatch.setattr(FakeDataset, "test", test)
    third = run_track(config(tmp_path), "zero_shot")
    assert third["categories"] == first["categories"]
    assert [(row.name, row.map_file) for row in PredictionStore(folder).rows("bolt")] == whole


def test_rows_stand_in_the_order_of_the_images_also_after_a_break(tmp_path):
    results = run_track(config(tmp_path, batch_size=2), "zero_shot")
    store = PredictionStore(results["folder"])
    rows = store.rows("bolt")
    store.keep_only("bolt", [(row.name, row.fingerprint) for row in rows[4:]])
    run_track(config(tmp_path, batch_size=2), "zero_shot")
    assert store.rows("bolt") == rows


def test_results_are_gone_while_a_run_is_unfinished(tmp_path, monkeypatch):
    results = run_track(config(tmp_path), "zero_shot")
    test = FakeDataset.test
    monkeypatch.setattr(
        FakeDataset, "test", lambda self, name: [*test(self, name), replace(test(self, name)[0], name="new.png")]
    )
    monkeypatch.setattr("tests.support.fakes.BrightnessModel.predict", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        run_track(config(tmp_path), "zero_shot")
    assert not list(Path(results["folder"]).glob("results.*"))


def test_fresh_discards_the_run_and_spares_what_is_not_its_own(tmp_path):
    folder = tmp_path / "mine"
    run_track(config(tmp_path, out=str(folder)), "zero_shot")
    (folder / "notes.txt").write_text("mine")
    (folder / "report.html").write_text("of the old run")
    run_track(config(tmp_path, out=str(folder), resolution=16, fresh=True), "zero_shot")
    assert PredictionStore(folder).rows("bolt")[0].height == 16
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "report.html").exists()
    (folder / "run.json").write_text('{"track": "predict"}')
    with pytest.raises(TrackInputError, match="other settings"):
        run_track(config(tmp_path, out=str(folder), fresh=True), "zero_shot")


def test_another_image_score_of_a_finished_run_goes_beside_its_results(tmp_path):
    results = run_track(config(tmp_path), "zero_shot")
    folder = Path(results["folder"])
    kept = (folder / "results.json").read_bytes()
    legacy = score_run(folder, "legacy_minmax", None, 1)
    assert (folder / "results.json").read_bytes() == kept
    assert json.loads((folder / "legacy_minmax" / "results.json").read_text()) == legacy
    assert legacy["protocol"]["setting"] == "transductive"
    assert "legacy" in legacy["protocol"]["image_score"]
    transductive = run_track(config(tmp_path, image_score="legacy_minmax"), "zero_shot")
    assert score_run(Path(transductive["folder"]), None, None, 1)["protocol"]["setting"] == "transductive"


def test_latest_moves_when_a_run_is_finished_and_as_a_whole(tmp_path, monkeypatch):
    first = run_track(config(tmp_path), "zero_shot")
    latest = tmp_path / "outputs" / "zero_shot" / "latest"
    monkeypatch.setattr("tests.support.fakes.BrightnessModel.predict", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        run_track(config(tmp_path, resolution=16), "zero_shot")
    assert latest.resolve() == Path(first["folder"]).resolve()
    with ThreadPoolExecutor(8) as pool:
        links = list(pool.map(lambda i: link_latest(latest.parent, tmp_path / f"run{i % 4}"), range(200)))
    assert set(links) == {latest}
    assert sorted(path.name for path in latest.parent.iterdir() if path.is_symlink()) == ["latest"]


def test_a_run_whose_latest_cannot_be_moved_is_finished_all_the_same(tmp_path, monkeypatch, caplog, capsys):
    def refuse(*_, **__):
        raise OSError("no links on this disk")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    results = run_track(config(tmp_path), "zero_shot")
    assert (Path(results["folder"]) / "results.json").is_file()
    assert "no links on this disk" in caplog.text
    assert "(also" not in capsys.readouterr().out


def test_a_folder_called_latest_is_left_alone(tmp_path, caplog):
    latest = tmp_path / "outputs" / "zero_shot" / "latest"
    latest.mkdir(parents=True)
    run_track(config(tmp_path), "zero_shot")
    assert not latest.is_symlink()
    assert "was not moved" in caplog.text


def test_float32_maps_are_stored_whole(tmp_path):
    results = run_track(config(tmp_path, map_precision="float32"), "zero_shot")
    store = PredictionStore(results["folder"])
    sample, row = FakeDataset().test("bolt")[0], store.rows("bolt")[0]
    stored = store.read_map(row)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, BrightnessModel.preprocess(sample.load_image()).mean(0).numpy())
    assert results["protocol"]["map_precision"] == "float32"


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        ({"map_precision": "float3"}, "float32"),
        ({"mask_resize": "neares"}, "nearest"),
        ({"categories": ["bol"]}, "bolt"),
    ],
)
def test_an_unknown_choice_names_the_near_one(tmp_path, changed, near):
    with pytest.raises(TrackInputError, match=f"did you mean {near}"):
        run_track(config(tmp_path, **changed), "zero_shot")


def test_a_run_that_decides_no_other_map_takes_the_predictions_over_and_shares_nothing_that_changes(tmp_path):
    first = run_track(config(tmp_path, shots=2), "few_shot")
    own = PredictionStore(first["folder"])
    before = own.rows("bolt")
    second = run_track(config(tmp_path, shots=2, image_score="legacy_minmax"), "few_shot")
    other = PredictionStore(second["folder"])
    assert other.rows("bolt") == before
    assert second["categories"]["bolt"]["auroc_seg"] == first["categories"]["bolt"]["auroc_seg"]
    other.add(before[0], np.ones((32, 32)), np.ones((32, 32), dtype=bool))
    assert other.read_map(before[0]).min() == 1
    assert own.read_map(before[0]).max() < 1
    assert not own.read_mask(before[0]).any()
    third = run_track(config(tmp_path, shots=2, resolution=16), "few_shot")
    assert PredictionStore(third["folder"]).rows("bolt")[0].height == 16


def test_rounding_that_costs_rank_is_said_in_the_run_and_float32_mends_it(tmp_path, monkeypatch, caplog):
    noise = np.random.default_rng(0)

    def on_a_thousand(self, images, categories):
        maps = 1000 + torch.from_numpy(noise.random(images[:, 0].shape)).float() + images.mean(1)
        return Prediction(maps, maps.amax(dim=(1, 2)), {})

    plain = run_track(config(tmp_path), "zero_shot")
    assert "float16" not in caplog.text
    assert all("rounding" not in table for table in plain["categories"].values())
    monkeypatch.setattr(BrightnessModel, "predict", on_a_thousand)
    rounded = run_track(config(tmp_path, out=str(tmp_path / "rounded")), "zero_shot")
    assert "nut: Rounding to float16 makes distinct values" in caplog.text
    assert "map_precision=float32" in caplog.text
    assert "costs their ranking" in rounded["categories"]["nut"]["rounding"]
    caplog.clear()
    whole = run_track(config(tmp_path, out=str(tmp_path / "whole"), map_precision="float32"), "zero_shot")
    assert "float16" not in caplog.text
    assert whole["categories"]["nut"]["ap_seg"] > rounded["categories"]["nut"]["ap_seg"] + 0.05
    store = PredictionStore(whole["folder"])
    pairs = [(store.read_mask(row).ravel(), store.read_map(row).ravel()) for row in store.rows("nut")]
    masks, maps = (np.concatenate(each) for each in zip(*pairs, strict=True))
    assert whole["categories"]["nut"]["ap_seg"] == pytest.approx(average_precision_score(masks, maps), abs=1e-9)


def test_the_published_set_up_scores_the_very_maps_that_the_model_makes(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        published = compose("zero_shot", ["experiment=april_gan_mvtec"])
    assert published.map_precision == "float32"
    model = {"_target_": "tests.support.clip_stand_ins.small_model", "kind": "vit"}
    cfg = config(tmp_path, model=model, map_precision=published.map_precision, resolution=48, batch_size=20)
    results = run_track(cfg, "zero_shot")
    for category in ("bolt", "nut"):
        samples, made = FakeDataset().test(category), small_model("vit")
        with torch.inference_mode():
            images = torch.stack([made.preprocess(sample.load_image()) for sample in samples])
            maps = made.predict(images, [category] * len(samples)).anomaly_maps.numpy()
        masks = np.stack([resize_mask(sample.load_mask(), (48, 48)) for sample in samples])
        expected = average_precision_score(masks.ravel(), maps.ravel())
        assert results["categories"][category]["ap_seg"] == pytest.approx(expected, abs=1e-9)
        assert average_precision_score(masks.ravel(), maps.ravel().astype(np.float16)) != pytest.approx(
            expected, abs=1e-9
        )
