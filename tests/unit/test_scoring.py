"""Scoring a store: the same numbers in one process and in several, and errors that reach the user from either."""

import numpy as np
import pytest

from eval.errors import ScoringInputError
from eval.scorer import Scorer, score_arrays
from tracks import scoring
from tracks.scoring import score_category, scorer_of
from tracks.store import PredictionStore, Row


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


def test_several_processes_give_the_same_to_the_bit(store, monkeypatch, tmp_path):
    rows = store.rows("nut")
    scorer_of(rows, "nut", store).save(tmp_path / "one.npz")
    monkeypatch.setattr(scoring, "SHARD_PIXELS", 20 * 30 * 3)
    scorer_of(rows, "nut", store, processes=4).save(tmp_path / "four.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "four.npz").read_bytes()
    assert Scorer.load(tmp_path / "four.npz").compute() == scorer_of(rows, "nut", store).compute()


def test_small_stores_start_no_process(store, monkeypatch):
    monkeypatch.setattr(scoring, "_score_apart", lambda *_: pytest.fail("a process was started"))
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
