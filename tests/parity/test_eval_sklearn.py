"""The scorer against scikit-learn, on image scores and on pooled pixels, ties included."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.ranking.curves import auroc, average_precision, f1_max
from eval.scorer import Scorer, score_arrays
from tests.support.plain_scores import sklearn_f1_max


def one_dimensional(kind: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    labels = rng.random(4000) < (0.5 if kind == "balanced" else 0.01)
    scores = rng.normal(size=4000) + labels
    if kind == "few levels":
        scores = np.round(scores * 3)
    elif kind == "hot":
        scores[17] = 6e4
    elif kind == "squeezed":
        scores = 1 / (1 + np.exp(-8 * scores))  # near 0 and 1, where float16 ties
    return scores.astype(dtype), labels


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["balanced", "rare", "few levels", "hot", "squeezed"])
def test_curves(kind: str, dtype: type) -> None:
    scores, labels = one_dimensional(kind, dtype)
    wide = scores.astype(np.float64)
    best = f1_max(scores, labels)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, wide), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, wide), abs=1e-12)
    assert (best.value, best.threshold, best.precision, best.recall) == pytest.approx(
        sklearn_f1_max(labels, wide), abs=1e-12
    )


def maps_and_masks() -> tuple[np.ndarray, np.ndarray]:
    """(12, 40, 50) float32 maps and bool masks; the last four images are normal."""
    rng = np.random.default_rng(11)
    masks = np.zeros((12, 40, 50), dtype=bool)
    for mask in masks[:8]:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 7, x : x + 4] = True
    return (rng.random(masks.shape) + 0.3 * masks).astype(np.float32), masks


def expected_metrics(maps: np.ndarray, masks: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    pixels, labels = maps.ravel().astype(np.float64), masks.ravel()
    images = np.array([mask.any() for mask in masks])
    f1_cls, f1_seg = sklearn_f1_max(images, scores), sklearn_f1_max(labels, pixels)
    return {
        "auroc_cls": roc_auc_score(images, scores),
        "ap_cls": average_precision_score(images, scores),
        "f1_cls": f1_cls[0],
        "f1_cls_threshold": f1_cls[1],
        "precision_cls": f1_cls[2],
        "recall_cls": f1_cls[3],
        "auroc_seg": roc_auc_score(labels, pixels),
        "ap_seg": average_precision_score(labels, pixels),
        "f1_seg": f1_seg[0],
        "f1_seg_threshold": f1_seg[1],
        "precision_seg": f1_seg[2],
        "recall_seg": f1_seg[3],
        "f1_harmonic": 2 / (1 / f1_cls[0] + 1 / f1_seg[0]),
    }


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
