"""Scoring a store: the same numbers in one process and in several, and errors that reach the user from either."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from eval.errors import ScoringInputError
from eval.scorer import Scorer, score_arrays
from tests.support.report_stand_ins import finished_run
from tests.support.rows import row as row_of
from tracks.decide.decision import THRESHOLDS_FILE
from tracks.errors import TrackInputError
from tracks.run import scoring
from tracks.run.scoring import resample_rows, score_category, scorer_of, transductive_image_scores
from tracks.run.store import PredictionStore, Row
from tracks.score import score_run


@pytest.fixture
def store(tmp_path) -> PredictionStore:
    """Twelve images of 20 x 30, every second with a defect of one of two types, the last one unlabelled."""
    store = PredictionStore.create(tmp_path / "run", {"categories": ["nut"]})
    rng = np.random.default_rng(0)
    for i in range(13):
        mask = np.zeros((20, 30), dtype=bool)
        if i % 2:
            mask[3:8, i : i + 6] = True
        anomaly_map = (rng.random((20, 30)) + 0.5 * mask).astype(np.float16)
        known = i < 12
        row = Row(
            name=f"{i}.png", category="nut", label=i % 2 if known else None,
            defect_type=("", "dent", "", "crack")[i % 4], image_score=float(anomaly_map.max()), height=20, width=30,
            map_file=store.map_file("nut", f"{i}.png"), has_mask=known, fingerprint="",
        )  # fmt: skip
        store.add(row, anomaly_map, mask if known else None)
    return store


def test_a_store_is_scored_as_its_arrays_are(store):
    rows = store.rows("nut")
    table = score_category(None, "nut", store)
    expected = score_arrays(
        [store.read_map(row) for row in rows], [store.read_mask(row) for row in rows],
        [row.image_score for row in rows], [row.label for row in rows],
        defect_types=[row.defect_type for row in rows],
    )  # fmt: skip
    assert {id: table[id] for id in expected.metrics} == pytest.approx(expected.metrics, abs=1e-12)
    assert table["recall_by_type"] == expected.recall_by_type
    assert set(table["recall_by_type"]) == {"crack", "dent"}
    assert table["blank_because"].keys() == {"aupimo_seg"}
    assert (table["images"], table["anomalous"]) == (13, 6)


def test_the_f1_at_a_threshold_that_the_model_learnt(store):
    assert "f1_seg_learnt" not in score_category(None, "nut", store)
    kept = {"target_rate": 0.05, "categories": {"nut": {"reference_scores": [0.1], "map_threshold": 0.9}}}
    (store.folder / THRESHOLDS_FILE).write_text(json.dumps(kept))
    rows = [row for row in store.rows("nut") if row.has_mask]
    truth, values = (np.concatenate([read(r).ravel() for r in rows]) for read in (store.read_mask, store.read_map))
    found = score_category(None, "nut", store)["f1_seg_learnt"]
    assert found == pytest.approx(f1_score(truth, values > 0.9))
    assert 0.1 < found < 1


def test_several_processes_give_the_same_to_the_bit(store, monkeypatch, tmp_path):
    rows = store.rows("nut")
    scorer_of(rows, "nut", store).save(tmp_path / "one.npz")
    monkeypatch.setattr(scoring, "SHARD_PIXELS", 20 * 30 * 3)
    scorer_of(rows, "nut", store, processes=4).save(tmp_path / "four.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "four.npz").read_bytes()
    assert Scorer.load(tmp_path / "four.npz").compute() == scorer_of(rows, "nut", store).compute()


def test_small_stores_start_no_process(store, monkeypatch):
    monkeypatch.setattr(scoring, "Parallel", lambda *_, **__: pytest.fail("a process was started"))
    score_category(None, "nut", store, processes=8)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_map_is_named(store, monkeypatch, processes):
    monkeypatch.setattr(scoring, "SHARD_PIXELS", 20 * 30 * 3)
    row = store.rows("nut")[8]
    spoilt = store.read_map(row)
    spoilt[2, 2] = np.nan
    store.add(row, spoilt, store.read_mask(row))
    with pytest.raises(ScoringInputError, match=r"nut/8\.png: expected a finite anomaly map, got 1 of 600"):
        score_category(None, "nut", store, processes=processes)


@pytest.fixture
def distorted(tmp_path) -> PredictionStore:
    """A float32 store of maps whose ranking float16 cannot hold, as some models give them: small steps on 1000."""
    settings = {"categories": ["nut"], "protocol": {"map_precision": "float32"}}
    store = PredictionStore.create(tmp_path / "whole", settings)
    rng = np.random.default_rng(1)
    for i in range(12):
        mask = np.zeros((30, 20), dtype=bool)
        mask[4 : 4 + i, 3:9] = i % 2
        anomaly_map = (1000 + rng.random((30, 20)) + 0.4 * mask).astype(np.float32)
        row = Row(
            f"{i}.png", "nut", i % 2, "dent" if i % 2 else "", float(anomaly_map.max()), 30, 20,
            store.map_file("nut", f"{i}.png"), True, "",
        )  # fmt: skip
        store.add(row, anomaly_map, mask)
    return store


@pytest.mark.parametrize("processes", [1, 3])
def test_float32_maps_are_scored_as_they_are(distorted, processes):
    rows = distorted.rows("nut")
    maps, masks = [distorted.read_map(row) for row in rows], [distorted.read_mask(row) for row in rows]
    assert maps[0].dtype == np.float32
    table = score_category(None, "nut", distorted, processes=processes)
    labels, values = np.concatenate([mask.ravel() for mask in masks]), np.concatenate([each.ravel() for each in maps])
    assert table["ap_seg"] == pytest.approx(average_precision_score(labels, values), abs=1e-9)
    assert table["auroc_seg"] == pytest.approx(roc_auc_score(labels, values), abs=1e-9)
    rounded = values.astype(np.float16)
    assert table["ap_seg"] > average_precision_score(labels, rounded) + 0.1, "float16 would not do here"
    assert scorer_of(rows, "nut", distorted).compute().metrics["pro_seg"] == table["pro_seg"]


def test_intervals_of_float32_maps_surround_their_metrics(distorted):
    table = score_category(None, "nut", distorted)
    rows = distorted.rows("nut")
    intervals = resample_rows(scorer_of(rows, "nut", distorted), rows, "nut", distorted, resamples=200).intervals()
    for metric in ("auroc_seg", "ap_seg", "f1_seg", "pro_seg"):
        low, high = intervals[metric]
        assert low <= table[metric] + 0.001
        assert high >= table[metric] - 0.001
        assert 0 < high - low < 0.5


def test_too_few_images_for_intervals_are_said_below_the_table(tmp_path, capsys):
    finished_run(tmp_path / "run")
    results = score_run(tmp_path / "run", "model", tmp_path / "out", 1, bootstrap=100)
    few = "3 anomalous and 4 normal images, an interval needs 5 of each"
    assert set(results["categories"]["bolt"]["intervals_blank_because"].values()) == {few}
    printed = capsys.readouterr().out
    ranked = "AUROC cls, F1-max cls, AP cls, AUROC seg, F1-max seg, AP seg, PRO seg, F1-max region, F1 harmonic"
    assert f"\nbolt: no interval of {ranked}: {few}.\n" in printed
    assert "\nmean: no interval of AUROC cls" in printed
    assert "too few images in bolt" in printed
    assert "good only: no interval of AUROC cls, F1-max cls, AP cls: no anomalous image among 3." in printed


def test_the_legacy_score_is_the_mean_of_text_score_and_scaled_map_maximum():
    scalars = ((0.2, 1.0), (0.4, 3.0), (0.6, 2.0))
    rows = [row_of(name, text_score=text, map_max=top) for name, (text, top) in zip("abc", scalars, strict=True)]
    assert transductive_image_scores(rows) == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.55})
    with pytest.raises(TrackInputError, match="different map maxima"):
        transductive_image_scores([row_of("a", text_score=0.2, map_max=1.0), row_of("b", text_score=0.4, map_max=1.0)])
    with pytest.raises(TrackInputError, match="text_score and map_max"):
        transductive_image_scores([row_of("a")])
