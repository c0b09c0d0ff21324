"""Scores out of a prediction store, in one process or several that add up to the same; and their uncertainty."""

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from eval.category import LOW_FPR, CategoryCounts, CategoryScores
from eval.exact import count_exactly, f1_above
from eval.images import CheckedImages
from eval.regions.pro import FPR_RANGE
from eval.regions.region_f1 import LEAST_IOU
from eval.scorer import Scorer
from eval.uncertainty.bootstrap import Resampled, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups, level_groups, levels
from tracks.datasets.sample import Sample
from tracks.decide.decision import KeptThresholds
from tracks.errors import TrackInputError
from tracks.run.store import PredictionStore, Row

log = logging.getLogger(__name__)
RULES = {
    "pro": f"exact, FPR <= {Scorer().pro_fpr_limit:g}, interpolated at the limit, 8-connected regions",
    "region_f1": f"8-connected components, one-to-one, intersection over union >= {LEAST_IOU:g}, every threshold",
    "auroc_low_fpr": f"FPR <= {LOW_FPR:g}, on a scale on which chance has 0.5",
    "aupimo": "exact, FPR of normal images {:.0e} to {:.0e} on a logarithmic axis, without interpolation".format(
        *FPR_RANGE
    ).replace("e-0", "e-"),
}
"""Labels of how a store is scored."""
IMAGE_SCORES = ("model", "legacy_minmax")
LEGACY_IMAGE_SCORE = "legacy, transductive: mean of the text score and the map maximum scaled over the test set"
SHARD_PIXELS = 100_000_000
"""A shard has at least so many pixels: they take about as long to score as a further process takes to start."""


def counted_rows(samples: Sequence[Sample] | None, category: str, store: PredictionStore) -> list[Row]:
    """The rows of a category that count: those of `samples`, in their order, or all if None."""
    rows = {row.name: row for row in store.rows(category)}
    return list(rows.values()) if samples is None else [rows[sample.name] for sample in samples]


def score_category(
    samples: Sequence[Sample] | None, category: str, store: PredictionStore, image_score: str = "model",
    processes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Score a category from the store alone; `samples` fixes which images count (all rows if None).

    The result does not depend on the number of processes. Returns the metrics by id, `images`, `anomalous`,
    `recall_by_type`, and `blank_because` where a metric has no meaning.

    Raises:
        TrackInputError: a map or mask of the store is missing or broken.
        ScoringInputError: a map is not finite, or disagrees with its mask or label.
    """
    rows = counted_rows(samples, category, store)
    result = scorer_of(rows, category, store, image_score, processes).compute()
    return as_table(category, with_learnt_threshold(result, rows, category, store))


def with_learnt_threshold(
    result: CategoryScores, rows: Sequence[Row], category: str, store: PredictionStore
) -> CategoryScores:
    """The pixel F1 at the threshold that the model learnt of a category's references, `f1_seg_learnt`, if it did."""
    threshold = KeptThresholds(store.folder).map_threshold(category)
    if threshold is None or result.metrics["f1_seg"] is None:
        return result
    f1 = f1_above(_images_of(rows, [row.image_score for row in rows], store), threshold)
    return replace(result, metrics={**result.metrics, "f1_seg_learnt": f1})


def as_table(category: str, result: CategoryScores) -> dict[str, Any]:
    """A category's entry in results.json; warns of what is blank and why."""
    for reason in dict.fromkeys(result.reasons.values()):
        metrics = [metric for metric, why in result.reasons.items() if why == reason]
        log.warning("%s: no %s, %s", category, ", ".join(metrics), reason)
    return {
        **result.metrics,
        "images": result.num_images,
        "anomalous": result.num_anomalous,
        "recall_by_type": result.recall_by_type,
        "blank_because": result.reasons,
    }


def scorer_of(
    rows: Sequence[Row], category: str, store: PredictionStore, image_score: str = "model", processes: int = 1
) -> Scorer | CategoryCounts:
    """A scorer that was given all of the rows, which are of one category; see `score_category`."""
    scores = image_scores(rows, image_score)
    if store.map_type is not np.float16:
        return _score_whole(rows, scores, store, processes)
    shards = _shards(list(zip(rows, scores, strict=True)), processes)
    scorer = Scorer()
    with tqdm(total=len(rows), desc=f"{category}: score", unit="image", leave=False) as bar:
        if len(shards) == 1:
            return _add(scorer, shards[0], store, bar)
        with parallel_config("loky", n_jobs=len(shards), inner_max_num_threads=1):
            parts = Parallel(return_as="generator")(delayed(_add)(Scorer(), shard, store) for shard in shards)
        for shard, part in zip(shards, parts, strict=True):
            scorer.merge(part)
            bar.update(len(shard))
    return scorer


def _score_whole(rows: Sequence[Row], scores: Sequence[float], store: PredictionStore, threads: int) -> CategoryCounts:
    """Score maps as they are: each file is read when it is its turn, twice in all."""
    return count_exactly(_images_of(rows, scores, store), threads=threads)


def _images_of(rows: Sequence[Row], scores: Sequence[float], store: PredictionStore) -> CheckedImages:
    """The maps and masks of rows, each read whenever it is asked for."""
    maps, masks = _Read(rows, store.read_map), _Read(rows, store.read_mask)
    names, types = [f"{row.category}/{row.name}" for row in rows], [row.defect_type for row in rows]
    return CheckedImages(maps, masks, scores, [row.label for row in rows], names, types)


class _Read(Sequence[Any]):
    """A file of each row, read whenever it is asked for."""

    def __init__(self, rows: Sequence[Row], read: Callable[[Row], Any]) -> None:
        self._rows, self._read = rows, read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._rows[index])


def image_scores(rows: Sequence[Row], image_score: str) -> list[float]:
    """The image score of each row: the model's own, or the legacy one that needs all rows of the category."""
    if image_score == "legacy_minmax":
        legacy = transductive_image_scores(rows)
        return [legacy[row.name] for row in rows]
    return [row.image_score for row in rows]


def transductive_image_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Image score by name as APRIL-GAN's few-shot code makes it, for the rows of one category; for reproduction only.

    The maximum of the combined map is scaled by its minimum and maximum over all test images of
    the category, then averaged with the text score. An image's score so depends on the other images.

    Raises:
        TrackInputError: the rows lack the two scalars, or all map maxima are equal.
    """
    missing = [row.name for row in rows if not {"text_score", "map_max"} <= row.scalars.keys()]
    if missing:
        raise TrackInputError(
            f"expected rows with text_score and map_max for image_score=legacy_minmax, got none of them for "
            f"{missing[0]}; this model has no such legacy score, use image_score=model"
        )
    maxima = [row.scalars["map_max"] for row in rows]
    low, high = min(maxima), max(maxima)
    if high == low:
        raise TrackInputError(
            f"expected different map maxima to scale by their range, got {len(rows)} images at {low}; "
            "use image_score=model"
        )
    return {row.name: (row.scalars["text_score"] + (row.scalars["map_max"] - low) / (high - low)) / 2 for row in rows}


def resample_rows(
    scorer: Scorer | CategoryCounts, rows: Sequence[Row], category: str, store: PredictionStore,
    image_score: str = "model", resamples: int = 1000, seed: int = 0,
) -> Resampled:  # fmt: skip
    """All metrics of a category on draws of its images: what another draw of the test images would have given.

    `scorer` was given the same rows. The draws follow from the seed, the category's name, the labels and the order of
    the rows alone: two runs whose rows stand in one order get the same ones. The maps are read once more; no more than
    small counts of them are kept.

    Raises:
        TrackInputError: a map or mask of the store is missing or broken.
    """
    curves = scorer.curves()
    groups, edges = (choose_groups(curves), None) if store.map_type is np.float16 else level_groups(curves)
    counts = ImageCounts(groups, scorer.region_f1)
    scores = image_scores(rows, image_score)
    bar = tqdm(zip(rows, scores, strict=True), f"{category}: resample", len(rows), unit="image", leave=False)
    for row, score in bar:
        values = store.read_map(row) if edges is None else levels(store.read_map(row), edges)
        counts.add(values, store.read_mask(row), score, row.label, f"{row.category}/{row.name}")
    return resample(counts, resamples, (seed, zlib.crc32(category.encode())), scorer.pro_fpr_limit)


def _shards(scored: Sequence[tuple[Row, float]], processes: int) -> list[Sequence[tuple[Row, float]]]:
    """Runs of neighbouring rows, at most one for each process, none smaller than is worth a process."""
    pixels = sum(row.height * row.width for row, _ in scored)
    number = max(1, min(processes, pixels // SHARD_PIXELS, len(scored)))
    bounds = [len(scored) * i // number for i in range(number + 1)]
    return [scored[first:last] for first, last in pairwise(bounds)]


def _add(
    scorer: Scorer, scored: Sequence[tuple[Row, float]], store: PredictionStore, bar: tqdm | None = None
) -> Scorer:
    """Give the scorer the maps and masks of rows, with their image scores; returns it."""
    for row, score in scored:
        scorer.update(
            store.read_map(row), store.read_mask(row), score, row.label, f"{row.category}/{row.name}", row.defect_type
        )
        if bar is not None:
            bar.update()
    return scorer
