"""The scorer against scikit-learn, on image scores and on pooled pixels; rankings alone: test_eval_property.py."""

import numpy as np
import pytest

from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import ranking_metrics


def maps_and_masks() -> tuple[np.ndarray, np.ndarray]:
    """(12, 40, 50) float32 maps and bool masks; the last four images are normal."""
    rng = np.random.default_rng(11)
    masks = np.zeros((12, 40, 50), dtype=bool)
    for mask in masks[:8]:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 7, x : x + 4] = True
    return (rng.random(masks.shape) + 0.3 * masks).astype(np.float32), masks


def expected_metrics(maps: np.ndarray, masks: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    images = ranking_metrics("cls", masks.any(axis=(1, 2)), scores)
    metrics = images | ranking_metrics("seg", masks.ravel(), maps.ravel().astype(np.float64))
    return metrics | {"f1_harmonic": 2 / (1 / metrics["f1_cls"] + 1 / metrics["f1_seg"])}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_arrays_in_memory_are_scored_unrounded(dtype: type, threads: int) -> None:
    maps, masks = maps_and_masks()
    maps = (maps + np.random.default_rng(3).random(maps.shape) / 1e9).astype(dtype)  # differences that float32 drops
    scores = maps.max(axis=(1, 2)).astype(np.float64)
    metrics = score_arrays(list(maps), list(masks), list(scores), threads=threads).metrics
    for metric, expected in expected_metrics(maps, masks, scores).items():
        assert metrics[metric] == pytest.approx(expected, abs=1e-9), metric


def test_scorer_counts_float16() -> None:
    maps, masks = maps_and_masks()
    scores = maps.mean(axis=(1, 2)).astype(np.float64)
    scorer = Scorer()
    for anomaly_map, mask, score in zip(maps, masks, scores, strict=True):
        scorer.update(anomaly_map, mask, score)
    metrics = scorer.compute().metrics
    for metric, expected in expected_metrics(maps.astype(np.float16), masks, scores).items():
        assert metrics[metric] == pytest.approx(expected, abs=1e-9), metric
    for metric, expected in expected_metrics(maps, masks, scores).items():
        assert metrics[metric] == pytest.approx(expected, abs=2e-3), metric
