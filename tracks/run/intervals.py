"""Uncertainty of a run's metrics, from its store: what another draw of the test images would have given.

To put intervals beside the metrics of `tracks.run.scoring`, keep the scorer of each category::

    scorer = scorer_of(rows, category, store, image_score)
    metrics, drawn[category] = scorer.compute().metrics, resample_rows(scorer, rows, category, store, image_score)
    intervals = drawn[category].intervals()     # {metric: [low, high] or None}
    ...
    of_the_means = mean_over(drawn).intervals()
"""

import zlib
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from eval.scorer import Scorer
from eval.uncertainty.bootstrap import Resampled, resample
from eval.uncertainty.image_counts import ImageCounts, choose_groups, level_groups, levels
from tracks.run.scoring import WholeScores, image_scores, scorer_of
from tracks.run.store import PredictionStore, Row


def resample_rows(
    scorer: Scorer | WholeScores, rows: Sequence[Row], category: str, store: PredictionStore,
    image_score: str = "model", resamples: int = 1000, seed: int = 0,
) -> Resampled:  # fmt: skip
    """All metrics of a category on draws of its images; `scorer` was given the same rows.

    The draws follow from the seed, the category's name, the labels and the order of the rows alone: two runs whose rows
    stand in one order get the same ones. The maps are read once more; no more than small counts of them are kept.

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


def category_intervals(
    store: PredictionStore, category: str, image_score: str = "model", resamples: int = 1000, seed: int = 0,
    level: float = 0.95,
) -> dict[str, list[float] | None]:  # fmt: skip
    """[low, high] of each metric of one category of a store, None where there is none.

    Raises:
        TrackInputError: a map or mask of the store is missing or broken.
        ScoringInputError: a map is not finite, or disagrees with its mask or label.
    """
    rows = store.rows(category)
    scorer = scorer_of(rows, category, store, image_score)
    return resample_rows(scorer, rows, category, store, image_score, resamples, seed).intervals(level)
