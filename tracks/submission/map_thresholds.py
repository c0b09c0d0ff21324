"""The threshold of each category's binary maps: as given, as the model learnt it, or of a run on normal images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tracks.decide.decision import KeptThresholds
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore
from tracks.submission.runs import StoredImage, check_finite, check_same_method, stored_images

MODEL = "model"
"""In place of a threshold: the one that the model learnt of the references of each category."""


def map_thresholds(
    method: PredictionStore, categories: Sequence[str], threshold: float | str | None, run: str | None, stds: float
) -> dict[str, float]:
    """Of each category `threshold`; the model's own of the run `method`; or mean + `stds` of the run on normal images.

    Raises:
        TrackInputError: the model learnt none; a run of another method, on test images, or without a category.
    """
    if threshold == MODEL:
        return {name: _learnt(method, name) for name in categories}
    if threshold is not None:
        return dict.fromkeys(categories, float(threshold))
    store = PredictionStore(Path(str(run)).expanduser())
    check_same_method([method, store])
    split = store.settings["protocol"].get("split")
    if split != "validation":
        raise TrackInputError(
            f"expected mvtec_ad2.threshold_run to be a run on normal images (data.split=validation), got "
            f"{store.folder} with split {split}; a threshold taken from test images would see what it is to judge"
        )
    lacking = [category for category in categories if category not in store.categories]
    if lacking:
        raise TrackInputError(
            f"expected normal images of {', '.join(lacking)} in {store.folder}, got those of "
            f"{', '.join(store.categories)}; run the track on data.split=validation with all categories"
        )
    statistic = partial(mean_plus_stds, stds=stds)
    images = stored_images([store], lambda _, row: f"{row.category}/{row.name}")
    return {name: statistic([i for i in images if i.row.category == name]) for name in categories}


def _learnt(store: PredictionStore, category: str) -> float:
    threshold = KeptThresholds(store.folder).map_threshold(category)
    if threshold is None:
        raise TrackInputError(
            f"expected a threshold of the maps of {category} in {store.folder}, got none; run the track with "
            "references and a model that learns one (superadd), or give mvtec_ad2.threshold_run=folder or a number"
        )
    return threshold


def mean_plus_stds(images: Sequence[StoredImage], stds: float) -> float:
    """Mean + `stds` standard deviations of all pixels of all maps, read one at a time and summed in float64.

    Deviations are summed around the first map's mean, so that a small spread survives a large mean.
    """
    count, total, squares, centre = 0, 0.0, 0.0, None
    for image in images:
        values = image.store.read_map(image.row).astype(np.float64)
        check_finite(values, image, "map")
        centre = float(values.mean()) if centre is None else centre
        values -= centre
        count, total, squares = count + values.size, total + float(values.sum()), squares + float((values**2).sum())
    assert centre is not None, "a finished run has images in every category"
    mean = total / count
    return centre + mean + stds * float(np.sqrt(max(squares / count - mean**2, 0.0)))
