"""Thresholds of a run: kept with it, had again without the model, and judged by counts that are re-derived here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import Prediction
from tests.support.fakes import BrightnessModel, FakeDataset
from tests.tracks.run.test_runner import config
from tracks.decide.decision import NOT_KEPT, KeptThresholds, decision_lines, decision_table, decisions
from tracks.decide.threshold import UNCHECKED, Threshold
from tracks.decide.threshold_fit import fit_threshold
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row
from tracks.run.track import run_track
from tracks.score import score_run

LEFT_OUT = {"bolt": [0.10, 0.12, 0.11], "nut": [0.7, 0.9, 0.8]}


@pytest.fixture
def scored_references(monkeypatch):
    """Lets the model score its references as `LEFT_OUT` says; lists the categories that it was asked for."""
    asked = []

    def left_out(self, category):
        asked.append(category)
        scores = torch.tensor(LEFT_OUT[category])
        return Prediction(torch.zeros(len(scores), 4, 4), scores)

    monkeypatch.setattr(BrightnessModel, "reference_prediction", left_out)
    return asked


def store_of(folder, images, categories=("nut",)):
    """A store of (label, score, mask) triples in the first category; label or mask may be None."""
    store = PredictionStore.create(folder, {"categories": list(categories), "shots": 0})
    for number, (label, score, mask) in enumerate(images):
        name = f"{number}.png"
        row = Row(
            name, categories[0], label, "", score, 4, 4, store.map_file(categories[0], name), mask is not None, ""
        )
        store.add(row, np.zeros((4, 4)), None if mask is None else np.full((4, 4), mask))
    return store


def test_counts_are_those_at_or_above_the_threshold_and_unlabelled_images_do_not_count(tmp_path):
    images = [
        (0, 0.2, None), (0, 0.5, None), (0, 0.6, None), (0, 0.4, False),  # at 0.5 and above: two of four
        (1, 0.5, True), (1, 0.49, True), (1, 0.9, True),  # two of three
        (None, 0.9, None), (None, 0.1, None),  # not counted
        (None, 0.8, False), (None, 0.8, True),  # labelled by their masks: one more of either
    ]  # fmt: skip
    store = store_of(tmp_path / "run", images)
    KeptThresholds(store.folder).keep_known("nut", Threshold(0.5, "planted"))
    found = decisions(store)
    assert found["target_rate"] is None
    expected = {
        "normal": 5, "false_alarms": 3, "anomalous": 4, "found": 3, "undecided": 0,
        "false_alarm_rate": 0.6, "recall": 0.75,
    }  # fmt: skip
    entry = found["categories"]["nut"]
    assert {key: entry[key] for key in expected} == expected
    assert (entry["threshold"], entry["source"]) == (0.5, "planted")
    assert found["pooled"] == {"categories": 1, **expected}
    only_some = decisions(store, {"nut": store.rows("nut")[:2]})["pooled"]
    assert (only_some["normal"], only_some["false_alarms"], only_some["recall"]) == (2, 1, None)


def test_each_category_is_judged_by_its_own_threshold_and_the_counts_are_pooled(tmp_path, scored_references):
    results = run_track(config(tmp_path, overlays=0, shots=3, false_alarm_rate=0.1), "few_shot")
    decision = results["decision"]
    assert decision["target_rate"] == 0.1
    store = PredictionStore(results["folder"])
    called = {0: 0, 1: 0}
    for name, scores in LEFT_OUT.items():
        fitted = fit_threshold(np.float32(scores), 0.1)
        entry = decision["categories"][name]
        assert (entry["threshold"], entry["source"]) == (fitted.value, fitted.source)
        assert entry["expected_false_alarm_rate"] == fitted.false_alarm_rate
        for label, key in ((0, "false_alarms"), (1, "found")):
            count = sum(fitted.is_defect(row.image_score) for row in store.rows(name) if row.label == label)
            assert entry[key] == count
            called[label] += count
    total = decision["pooled"]
    assert (total["normal"], total["anomalous"]) == (10, 10)
    assert (total["false_alarms"], total["found"]) == (called[0], called[1])
    assert total["recall"] == called[1] / 10
    assert 0 < total["found"] < 10, "the planted thresholds lie on either side of the defects' scores"


def test_it_is_printed_and_written(tmp_path, scored_references, capsys):
    results = run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    printed = capsys.readouterr().out
    total = results["decision"]["pooled"]
    alarms = total["false_alarms"]
    assert f"false alarms {10 * alarms:.1f}% ({alarms} of 10 normal images; target 5.0%)" in printed
    assert f"recall {10 * total['found']:.1f}% ({total['found']} of 10 anomalous images)" in printed
    assert printed.count("of 3 references as logarithms") == 2, "one rule, two spreads"
    folder = tmp_path / "outputs/few_shot/latest"
    assert json.loads((folder / "results.json").read_text())["decision"] == results["decision"]
    assert decision_table(results["decision"]) in (folder / "results.md").read_text()


def test_the_table_has_a_row_for_each_category_and_pooled(tmp_path):
    store = store_of(tmp_path / "run", [(0, 0.2, None), (0, 0.6, None), (1, 0.9, None)], ("a|b", "never fitted"))
    KeptThresholds(store.folder).keep_known("a|b", Threshold(0.5, "planted"))
    lines = decision_table(decisions(store)).splitlines()
    assert lines[2:] == [
        "| a\\|b | 0.5000 | 1 | 2 | 50.0 | 1 | 1 | 100.0 | 0 |",
        "| never fitted |  |  |  |  |  |  |  |  |",
        "| pooled |  | 1 | 2 | 50.0 | 1 | 1 | 100.0 | 0 |",
    ]
    assert f"no threshold for never fitted: {NOT_KEPT}" in decision_lines(decisions(store))


def test_without_the_model_a_run_that_is_scored_again_decides_the_same(
    tmp_path, scored_references, monkeypatch, capsys
):
    results = run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    monkeypatch.setattr(BrightnessModel, "__init__", lambda self: pytest.fail("a model was made"))
    out = tmp_path / "again"
    capsys.readouterr()
    again = score_run(tmp_path / "outputs/few_shot/latest", "model", out, 1)
    assert again["decision"] == results["decision"]
    assert json.loads((out / "results.json").read_text())["decision"] == results["decision"]
    assert decision_lines(results["decision"]) in capsys.readouterr().out
    legacy = score_run(tmp_path / "outputs/few_shot/latest", "legacy_minmax", out, 1)
    assert legacy["decision"] == results["decision"], "a threshold of the model's score judges no other score"


def test_another_target_rate_needs_neither_fit_nor_prediction(tmp_path, scored_references, monkeypatch):
    first = run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    assert scored_references == ["bolt", "nut"]
    for name in ("fit", "predict"):
        monkeypatch.setattr(BrightnessModel, name, lambda *_: pytest.fail("done again"))
    second = run_track(config(tmp_path, overlays=0, shots=3, false_alarm_rate=0.25), "few_shot")
    assert second["folder"] != first["folder"]
    assert [each["decision"]["target_rate"] for each in (first, second)] == [0.05, 0.25]
    for name, scores in LEFT_OUT.items():
        assert second["decision"]["categories"][name]["threshold"] == fit_threshold(np.float32(scores), 0.25).value
    for each in (first, second):
        assert score_run(Path(each["folder"]), "model", tmp_path / "again", 1)["decision"] == each["decision"]


def test_what_a_threshold_rests_on_is_on_disk_before_the_first_prediction(tmp_path, scored_references, monkeypatch):
    def killed(self, images, categories):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BrightnessModel, "predict", killed)
        with pytest.raises(KeyboardInterrupt):
            run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    (folder,) = (tmp_path / "outputs/few_shot").iterdir()
    assert not list(folder.rglob("*.jsonl"))
    kept = json.loads((folder / "thresholds.json").read_text())
    basis = kept["categories"].pop("bolt")
    names = [sample.name for sample in FakeDataset().train("bolt")]
    assert len(set(names) & set(basis.pop("names"))) == 3
    scores = np.float32(LEFT_OUT["bolt"]).tolist()
    assert basis == {"reference_scores": scores, "probabilities": False, "odd_references": []}
    assert kept == {"target_rate": 0.05, "categories": {}}
    resumed = run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    whole = run_track(config(tmp_path / "whole", shots=3), "few_shot")
    assert resumed["decision"] == whole["decision"]


def test_a_run_from_before_gets_its_thresholds_without_predicting_again(tmp_path, scored_references, monkeypatch):
    first = run_track(config(tmp_path, overlays=0, shots=3), "few_shot")
    (tmp_path / "outputs/few_shot/latest/thresholds.json").unlink()
    alone = decisions(PredictionStore(first["folder"]))
    assert {entry["none_because"] for entry in alone["categories"].values()} == {NOT_KEPT}
    monkeypatch.setattr(BrightnessModel, "predict", lambda *_: pytest.fail("predicted again"))
    assert run_track(config(tmp_path, overlays=0, shots=3), "few_shot")["decision"] == first["decision"]


def test_a_model_that_cannot_score_its_references_is_named_and_nothing_stops(tmp_path, capsys):
    results = run_track(config(tmp_path, overlays=0, shots=2), "few_shot")
    for entry in results["decision"]["categories"].values():
        assert entry["threshold"] is entry["normal"] is entry["false_alarm_rate"] is None
        assert "BrightnessModel does not" in entry["none_because"]
    assert results["decision"]["pooled"]["categories"] == results["decision"]["pooled"]["normal"] == 0
    assert "no threshold for bolt, nut: expected a model that scores" in capsys.readouterr().out


@pytest.mark.parametrize("scores", [[float("nan"), 0.1], [float("inf")], []])
def test_reference_scores_without_a_meaning_give_a_reason(tmp_path, scored_references, monkeypatch, scores):
    monkeypatch.setitem(LEFT_OUT, "bolt", scores)
    entry = run_track(config(tmp_path, overlays=0, shots=2), "few_shot")["decision"]["categories"]["bolt"]
    assert "finite scores of one or more references" in entry["none_because"]


def test_zero_shot_takes_the_threshold_of_the_weights_or_says_that_it_is_a_convention(tmp_path, monkeypatch, capsys):
    convention = run_track(config(tmp_path), "zero_shot")["decision"]
    assert convention["target_rate"] is None
    assert {entry["threshold"] for entry in convention["categories"].values()} == {0.5}
    assert "threshold 0.5000: 0.5, a convention" in capsys.readouterr().out
    assert convention["pooled"]["recall"] == 1.0, "defects are 220 of 255 bright"
    assert convention["pooled"]["false_alarms"] == 0
    monkeypatch.setattr(BrightnessModel, "image_threshold", 0.2, raising=False)
    monkeypatch.setattr(BrightnessModel, "threshold_source", "F1-max on others", raising=False)
    stated = run_track(config(tmp_path), "zero_shot")["decision"]
    assert {entry["source"] for entry in stated["categories"].values()} == {
        f"from the weights: F1-max on others; {UNCHECKED}"
    }
    assert stated["pooled"]["false_alarm_rate"] == 1.0, "normal images are 60 of 255 bright or more"


@pytest.mark.parametrize("rate", [0, 1, -0.5, 2])
def test_a_target_rate_that_is_no_rate_is_refused(tmp_path, rate):
    with pytest.raises(TrackInputError, match="false_alarm_rate between 0 and 1"):
        run_track(config(tmp_path, overlays=0, shots=2, false_alarm_rate=rate), "few_shot")


@pytest.mark.parametrize("content", ["{", "[]", '{"categories": {}}', '{"target_rate": 0.05, "categories": 3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(TrackInputError, match=r"thresholds\.json.*delete the file"):
        KeptThresholds(tmp_path)


def test_a_threshold_comes_back_as_it_was_kept(tmp_path):
    known = Threshold(0.1 + 0.2, "from somewhere", 1 / 3, None, ("a.png",), "no reason", (0.1, 0.2))
    KeptThresholds(tmp_path, 0.05).keep_known('ü|"', known)
    again = KeptThresholds(tmp_path)
    assert again.threshold('ü|"') == known
    assert again.target_rate == 0.05
    assert "other" not in again
    assert again.threshold("other") == NOT_KEPT


def test_a_run_says_which_reference_is_odd_and_what_its_threshold_cannot_find(tmp_path):
    store = store_of(tmp_path / "run", [(0, 0.3 + number / 100, None) for number in range(20)])
    kept = KeptThresholds(store.folder, 0.05)
    basis = {"probabilities": True, "names": ["a.png", "b.png", "c.png", "normal-14.jpg"]}

    def remarks(scores):
        kept._keep("nut", {"reference_scores": scores, **basis})
        decision = decisions(store)
        assert decision["categories"]["nut"]["remarks"] == [
            line.removeprefix("nut: ") for line in decision_lines(decision).splitlines() if line.startswith("nut: ")
        ]
        return decision["categories"]["nut"]

    odd = remarks([0.33, 0.36, 0.4, 0.96])
    assert odd["odd_references"] == ["normal-14.jpg"]
    assert odd["remarks"] == ["normal-14.jpg scores like a defect: look at it or leave it out"]
    (blind,) = remarks([0.59, 0.66, 0.7, 0.75])["remarks"]
    assert "this threshold finds nothing" in blind
    assert remarks([0.33, 0.36, 0.4, 0.41])["remarks"] == []


def test_the_kept_file_names_the_odd_reference_and_keeps_whose_score_each_is(tmp_path):
    class Viewing(BrightnessModel):
        def reference_prediction(self, category):
            scores = torch.tensor([0.33, 0.36, 0.4, 0.96, 0.34, 0.35, 0.41, 0.95])
            owners = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
            return Prediction(torch.zeros(8, 2, 2), scores, {"reference": owners})

    names = ["a.png", "b.png", "c.png", "normal-14.jpg"]
    KeptThresholds(tmp_path, 0.05).keep_fitted("nut", Viewing(), names)
    basis = json.loads((tmp_path / "thresholds.json").read_text())["categories"]["nut"]
    assert basis["odd_references"] == ["normal-14.jpg"]
    assert basis["references"] == [0, 1, 2, 3, 0, 1, 2, 3]
    expected = fit_threshold(basis["reference_scores"], 0.05, references=basis["references"], names=names)
    assert KeptThresholds(tmp_path).threshold("nut") == expected
