"""Finished runs: which are read, which are found, and the metrics that only their stores give."""

import json
import shutil

import numpy as np
import pytest

from eval.legacy import legacy_pro, legacy_region_f1
from tracks.comparison.finished import find_run, read_run, signature
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row

NAMES = ["auroc_cls", "legacy_pro", "legacy_region_f1", "legacy_minmax_auroc_cls"]


@pytest.fixture
def stored_run(tmp_path):
    """A run of one category with maps, masks and the two scalars of the legacy image score."""
    generator = np.random.default_rng(0)
    store = PredictionStore.create(tmp_path / "stored", {"categories": ["candle"], "data": "visa"})
    for number in range(6):
        mask = np.zeros((24, 24), dtype=bool)
        if number >= 3:
            mask[4:12, 5 + number : 14] = True
        anomaly_map = (generator.random((24, 24)) + 0.7 * mask).astype(np.float16)
        scalars = {"text_score": float(generator.random()), "map_max": float(anomaly_map.max())}
        name = f"{number}.png"
        row = Row(
            name, "candle", int(number >= 3), "bad", 0.5, 24, 24, store.map_file("candle", name), True, "", scalars
        )
        store.add(row, anomaly_map, mask)
    results = {"data": "visa", "shots": 1, "seed": 0, "categories": {"candle": {"auroc_cls": 0.75}}}
    (store.folder / "results.json").write_text(json.dumps(results))
    return store


def test_legacy_metrics_come_from_the_store(stored_run):
    run = read_run(stored_run.folder)
    rows = stored_run.rows("candle")
    maps, masks = [stored_run.read_map(row) for row in rows], [stored_run.read_mask(row) for row in rows]
    maxima = [row.scalars["map_max"] for row in rows]
    mixed = [
        (r.scalars["text_score"] + (m - min(maxima)) / (max(maxima) - min(maxima))) / 2
        for r, m in zip(rows, maxima, strict=True)
    ]
    won = [(bad > good) + 0.5 * (bad == good) for bad in mixed[3:] for good in mixed[:3]]
    expected = [0.75, legacy_pro(maps, masks), legacy_region_f1(maps, masks).value, sum(won) / 9]
    assert run.scores(NAMES)["visa/candle"] == pytest.approx(dict(zip(NAMES, expected, strict=True)))
    assert run.notes == []


def test_what_a_run_cannot_give_is_noted_once(stored_run, tmp_path):
    alone = tmp_path / "alone" / "results.json"
    alone.parent.mkdir()
    shutil.copy(stored_run.folder / "results.json", alone)
    run = read_run(alone)
    assert run.scores(["auroc_cls", "legacy_pro", "f1_cls"]) == {
        "visa/candle": {"auroc_cls": 0.75, "legacy_pro": None, "f1_cls": None}
    }
    assert run.notes == ["no legacy_pro: they need the maps, and only results.json is here"]
    shutil.rmtree(stored_run.folder / "predictions" / "candle")
    broken = read_run(stored_run.folder)
    assert broken.scores(["legacy_pro"]) == broken.scores(["legacy_pro"]) == {"visa/candle": {"legacy_pro": None}}
    assert [note.partition(":")[0] for note in broken.notes] == ["no legacy_pro of candle"]


def test_a_file_that_is_no_result_is_refused(tmp_path):
    for content, said in ((None, r"results\.json"), ("{}", "without categories, data, seed, shots"), ("{", "again")):
        if content:
            (tmp_path / "results.json").write_text(content)
        with pytest.raises(TrackInputError, match=said):
            read_run(tmp_path)


def test_a_finished_run_is_found_wherever_its_data_lay(tmp_path):
    config = {"model": {"a": 1}, "data": {"name": "visa", "root": "/there", "categories": []}}
    made = {"config": config, "shots": 0, "seed": 0, "protocol": {"resolution": "518 x 518"}}
    for name in ("old", "unfinished"):
        PredictionStore.create(tmp_path / name, made)
    (tmp_path / "old/results.json").write_text(json.dumps({"data": "visa", "shots": 0, "seed": 0, "categories": {}}))
    (tmp_path / "latest").symlink_to("old")

    def found(protocol=(), model=1, **changed):
        here = {"model": {"a": model}, "data": {"name": "visa", "root": "/here", "categories": None}}
        protocol = {"resolution": "518 x 518", **dict(protocol)}
        return find_run(tmp_path, signature({**made, "config": here, "protocol": protocol, **changed}))

    assert found().folder == tmp_path / "old"
    for other in ({"resolution": "256 x 256"}, {"map_precision": "float32"}, {"mask_resize": "nearest"}):
        assert found(other) is None
    assert found(model=2) is found(seed=1) is found(image_score="legacy_minmax") is None
    assert found(chosen_categories=["candle"]) is None
