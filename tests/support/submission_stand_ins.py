"""Finished runs made in a moment, for the submission formats."""

import numpy as np

from tracks.run.store import PredictionStore, Row


def make_run(folder, images, protocol, *, shots=0, seed=0, weights="stand-in"):
    """A finished run; `images` maps a category to {name: (score, map)}."""
    settings = {"shots": shots, "seed": seed, "weights": weights, "categories": list(images), "protocol": protocol}
    store = PredictionStore.create(folder, settings)
    for category, by_name in images.items():
        for name, (score, anomaly_map) in by_name.items():
            values = np.asarray(anomaly_map, dtype=np.float32)
            where, kind = store.map_file(category, name), name.split("/")[-2] if "/" in name else ""
            store.add(Row(name, category, None, kind, score, *values.shape, where, False, "1"), values, None)
    (store.folder / "results.json").write_text("{}")
    return store
