"""A run folder with all that a report must cope with: odd names, blanks, nothing labelled, a category never reached."""

import json

import numpy as np

from eval.tables import mean_over_categories, track_score
from tests.support.fakes import FakeSample
from tracks.report_page.choice import Choice
from tracks.report_page.page import PageOptions
from tracks.run.scoring import RULES, score_category
from tracks.run.store import PredictionStore, Row

ODD = '<b>&"'
SIZE = 32
OPTIONS = PageOptions(Choice(2, 2), picture_side=32)


class ReportDataset:
    """The photos of the run of `finished_run`; like a data set, it lists samples by category."""

    name = "fake"
    categories = ("bolt", ODD, "good only", "unlabelled", "never reached")
    protocol = {"masks": "planted"}  # noqa: RUF012

    def train(self, category):
        return []

    def test(self, category):
        labels = {"good only": [0] * 3, "unlabelled": [None] * 3}.get(category, [0, 0, 0, 0, 1, 1, 1])
        return [
            FakeSample(f"test/{ODD if label else 'good'}/{i}.png", category, label, ODD if label else "good", i)
            for i, label in enumerate(labels)
        ]


def planted_map(sample, seed):
    """(32, 32) float16: noise below 0.3, the defect at 0.5 to 0.9 but the one of image 6, which is not seen."""
    values = 0.3 * np.random.default_rng(seed).random((SIZE, SIZE))
    if sample.label and sample.number != 6:
        values[sample.load_mask()] = 0.5 + 0.08 * (sample.number - 1)
    return values.astype(np.float16)


def unfinished_run(folder, **settings):
    """The store of all predictions but those of the last category; no results.json."""
    dataset = ReportDataset()
    said = {
        "track": "few_shot", "model": "m", "weights": "w", "data": "fake", "shots": 2, "seed": 3,
        "categories": list(dataset.categories), "protocol": {"setting": "inductive", "mask_rule": "> 0"},
        "config": {"data": {"_target_": "tests.support.report_stand_ins.ReportDataset"}},
    }  # fmt: skip
    store = PredictionStore.create(folder, {**said, **settings})
    for category in dataset.categories[:-1]:
        for sample in dataset.test(category):
            anomaly_map = planted_map(sample, 10 * dataset.categories.index(category) + sample.number)
            row = Row(
                sample.name, category, sample.label, sample.defect_type, float(anomaly_map.max()), SIZE, SIZE,
                store.map_file(category, sample.name), sample.label is not None, sample.fingerprint,
            )  # fmt: skip
            store.add(row, anomaly_map, None if sample.label is None else sample.load_mask())
    return store


def finished_run(folder, **results):
    """The same with a results.json as a track writes it."""
    store = unfinished_run(folder)
    tables = {category: score_category(None, category, store) for category in store.categories}
    written = {
        "protocol": {**store.settings["protocol"], **RULES}, "images": 20, "seconds": 5.0, "peak_memory_mb": 321,
        "categories": tables, "mean": mean_over_categories(tables), "score": track_score(tables),
    }  # fmt: skip
    (store.folder / "results.json").write_text(json.dumps({**written, **results}))
    return store
