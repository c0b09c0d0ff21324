"""Transductive models in the runner and in `predict`: the whole test set at once, resumed by category, labelled."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from models.base import Prediction
from models.contract import together
from tests.support.fakes import BrightnessModel, FakeDataset, FromTheMean
from tests.tracks.run.test_runner import config, store_in
from tests.tracks.test_predict import a_folder_of, save_photo, settings, table
from tracks import api
from tracks.decide.decision import KeptThresholds
from tracks.decide.threshold_folder import folder_threshold
from tracks.errors import TrackInputError
from tracks.predict import predict
from tracks.run.runner import NATIVE, RunnerOptions, predict_category, score_images
from tracks.run.store import PredictionStore
from tracks.run.track import drop_what_is_outdated, run_track

OPTIONS = RunnerOptions(resolution=NATIVE, batch_size=4)
MODEL = {"_target_": "tests.support.fakes.FromTheMean"}


@pytest.fixture
def model(monkeypatch):
    model = FromTheMean()
    model.preprocess = lambda image: FromTheMean.preprocess(image.resize((32, 32)))
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: model)
    return model


def expected_of(samples):
    return together(FromTheMean(), torch.stack([FromTheMean.preprocess(each.load_image()) for each in samples]))


def test_every_image_gets_its_own_prediction_its_size_and_its_mask(tmp_path):
    samples, model = FakeDataset().test("bolt"), FromTheMean()
    expected = expected_of(samples)
    found = list(score_images(model, samples, "bolt", OPTIONS))
    assert model.asked == [10]
    for number, (loaded, scored) in enumerate(found):
        assert loaded.sample is samples[number]
        np.testing.assert_allclose(scored.anomaly_map, expected.anomaly_maps[number].numpy(), atol=1e-6)
        assert scored.image_score == pytest.approx(float(expected.image_scores[number]))
        assert scored.scalars["spread"] == pytest.approx(float(expected.scalars["spread"][number]))
        np.testing.assert_array_equal(loaded.mask, samples[number].load_mask())
        assert loaded.size == (32, 32)
        assert loaded.image is None, "the images of a test set are not held"
        assert scored.seconds > 0


def test_a_category_that_was_cut_off_or_changed_is_done_again_as_a_whole_and_a_finished_one_stays(tmp_path):
    store, data = store_in(tmp_path / "run"), FakeDataset()
    samples = {name: data.test(name) for name in data.categories}
    predict_category(FromTheMean(), samples["nut"], "nut", store, OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        predict_category(FromTheMean(fail_after=4), samples["bolt"], "bolt", store, OPTIONS)
    assert len(store.rows("bolt")) == 4
    drop_what_is_outdated(store, samples, together=True)
    assert (len(store.rows("bolt")), len(store.rows("nut"))) == (0, 10)
    model = FromTheMean()
    assert [predict_category(model, samples[name], name, store, OPTIONS) for name in ("bolt", "nut")] == [10, 0]
    assert model.asked == [10]
    fewer = {**samples, "nut": samples["nut"][1:], "bolt": [replace(samples["bolt"][0], fingerprint="2")]}
    drop_what_is_outdated(store, fewer, together=True)
    assert store.rows("nut") == store.rows("bolt") == [], "what is gone had a say in the others"


def test_a_run_is_labelled_and_its_numbers_are_those_of_the_whole_test_set(tmp_path):
    results = run_track(config(tmp_path, model=MODEL, map_precision="float32"), "zero_shot")
    assert results["protocol"]["setting"] == "transductive"
    assert "transductive" in (tmp_path / "outputs/zero_shot/latest/run.json").read_text()
    expected = expected_of(FakeDataset().test("nut")).image_scores.tolist()
    rows = (tmp_path / "outputs/zero_shot/latest/predictions/nut.jsonl").read_text().splitlines()
    assert [json.loads(row)["image_score"] for row in rows] == pytest.approx(expected)


def test_a_run_takes_its_threshold_from_the_test_images_and_says_so(tmp_path):
    results = run_track(config(tmp_path, model=MODEL, false_alarm_rate=0.1), "zero_shot")
    decision = results["decision"]
    assert decision["target_rate"] == 0.1
    assert "all test images" in decision["image_score"]
    rows = PredictionStore(results["folder"]).rows("nut")
    expected = folder_threshold([row.image_score for row in rows], 0.1)
    assert decision["categories"]["nut"]["threshold"] == expected.value
    assert "transductive, from these 10 photos" in decision["categories"]["nut"]["source"]
    kept = KeptThresholds(Path(results["folder"]), 0.01)
    assert kept.threshold("nut") == folder_threshold([row.image_score for row in rows], 0.01)
    kept.keep_photos("nut", rows[:9], False)
    assert "expected 10 or more" in str(kept.threshold("nut"))


def test_references_come_before_the_test_set_on_the_few_shot_track(tmp_path):
    results = run_track(config(tmp_path, model=MODEL, shots=2), "few_shot")
    assert results["protocol"]["setting"] == "transductive"
    assert results["images"] == 20


def test_predict_scores_the_folder_together_takes_its_threshold_from_it_and_begins_again_with_a_new_photo(
    tmp_path, model, capsys
):
    a_folder_of(tmp_path, [50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 240])
    (tmp_path / "photos/odd.png").write_bytes(b"no picture")
    predict(settings(tmp_path))
    rows = table(tmp_path / "out")
    assert [row["verdict"] for row in rows.values()] == ["OK"] * 10 + ["DEFECT", "unreadable"]
    assert model.asked == [11]
    printed = capsys.readouterr().out
    assert "transductive: the photos are scored by each other" in printed
    assert "transductive, from these 11 photos" in printed
    predict(settings(tmp_path, threshold=0.3))
    assert model.asked == [11], "the same photos are not scored again for another threshold"
    save_photo(tmp_path / "photos/11.png", 60)
    predict(settings(tmp_path))
    assert model.asked == [11, 12]
    (tmp_path / "photos/00.png").unlink()
    predict(settings(tmp_path))
    assert model.asked == [11, 12, 11]


class Brightness(BrightnessModel):
    """Of photos of any size; a reference left out has the score that it had before."""

    def __init__(self):
        super().__init__()
        self.references = {}

    @staticmethod
    def preprocess(image):
        return BrightnessModel.preprocess(image.resize((32, 32)))

    def fit(self, references, category):
        self.references[category] = torch.stack(list(references))
        super().fit(self.references[category], category)

    def reference_prediction(self, category):
        maps = self.references[category].mean(dim=1)
        return Prediction(maps, maps.amax(dim=(1, 2)))


@pytest.fixture
def brightness(monkeypatch):
    model = Brightness()
    monkeypatch.setattr("tracks.run.build.instantiate", lambda node: model)
    return model


def test_predict_takes_references_from_the_folder_says_which_and_judges_by_them(tmp_path, brightness, capsys):
    levels = [50 + 2 * number for number in range(19)] + [200, 240]
    a_folder_of(tmp_path, levels)
    predict(settings(tmp_path, own_references=8))
    rows = list(table(tmp_path / "out").values())
    assert [bool(row["note"].count("taken as a reference")) for row in rows] == [True] * 2 + [False] * 19
    assert [float(row["score"]) for row in rows[:2]] == pytest.approx([50 / 255, 52 / 255])
    assert float(rows[-1]["score"]) == pytest.approx((240 - 51) / 255)
    printed = capsys.readouterr().out
    assert "those that look least anomalous are the references of the others" in printed
    assert "some of them are references" in printed
    taken = {0: "00.png", 1: "01.png"}
    expected = folder_threshold([float(row["score"]) for row in rows], 0.05, False, taken)
    assert float(rows[0]["threshold"]) == pytest.approx(expected.value)
    seen = sum(brightness.images_seen)
    predict(settings(tmp_path, own_references=8, threshold="folder"))
    assert sum(brightness.images_seen) == seen, "nothing is scored again for another threshold"
    alone = folder_threshold([float(row["score"]) for row in rows])
    assert float(next(iter(table(tmp_path / "out").values()))["threshold"]) == pytest.approx(alone.value)
    assert "own_references" not in str(brightness.protocol)


def test_a_run_takes_its_threshold_from_the_images_that_became_references(tmp_path):
    model = {"_target_": "tests.tracks.run.test_together.Brightness"}
    results = run_track(config(tmp_path, model=model, own_references=2), "zero_shot")
    assert results["protocol"]["setting"] == "transductive"
    assert "2 images of the 10% of the lowest zero-shot score" in results["protocol"]["own_references"]
    rows = PredictionStore(results["folder"]).rows("nut")
    taken = {number: row.name for number, row in enumerate(rows) if row.scalars["own_reference"]}
    assert len(taken) == 1
    scores = [row.image_score for row in rows]
    for rate in (0.05, 0.2):
        kept = KeptThresholds(Path(results["folder"]), rate)
        assert kept.threshold("nut") == folder_threshold(scores, rate, False, taken)
    plain = run_track(config(tmp_path, model=model), "zero_shot")
    assert plain["folder"] != results["folder"]


def test_a_handful_of_photos_is_too_few_to_take_references_from(tmp_path, brightness):
    a_folder_of(tmp_path, [50, 60, 70])
    with pytest.raises(TrackInputError, match=r"10 or more readable photos for own_references=8, got 3"):
        predict(settings(tmp_path, own_references=8))


@pytest.mark.parametrize("others", [{"shots": 2}, {"references": "good"}])
def test_own_references_beside_others_are_refused(tmp_path, others):
    with pytest.raises(TrackInputError, match=r"own_references=2 without other references, got .*; leave one of them"):
        run_track(config(tmp_path, own_references=2, **others), "few_shot" if "shots" in others else "zero_shot")


def test_from_python_references_come_from_the_photos(brightness):
    model = api.load_model("clip_adapter", own_references=1)
    photos = [PIL.Image.new("RGB", (40, 30), (level,) * 3) for level in range(50, 170, 10)]
    found = api.score(model, photos)
    assert [each.score for each in found[1:]] == pytest.approx([level / 255 for level in range(10, 120, 10)])
    assert found[0].score == pytest.approx(50 / 255), "without itself"


def test_from_python_a_folder_is_the_test_set(model):
    photos = [PIL.Image.new("RGB", (40, 30), (level,) * 3) for level in range(50, 170, 10)]
    found = api.score(model, photos)
    assert model.asked == [12]
    assert [each.score for each in found] == pytest.approx([abs(level - 105) / 255 for level in range(50, 170, 10)])
    assert found[0].anomaly_map.shape == (30, 40)
