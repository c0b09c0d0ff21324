"""Other packages, each called as its documentation says; they are imported by the functions that call them.

All of them pool the pixels of the category's images and rank the images by the maximum of their map.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.metrics.workload import Category

BATCH = 32

Values = Mapping[str, float]


def _sklearn_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    return _best_f1(*precision_recall_curve(labels, scores)[:2])


def _best_f1(precision: Any, recall: Any) -> float:
    """The largest F1 along a curve given as arrays or tensors; precision is NaN where nothing is called."""
    precision, recall = np.asarray(precision, dtype=np.float64), np.asarray(recall, dtype=np.float64)
    total = precision + recall
    return float(np.nanmax(2 * precision * recall / np.where(total > 0, total, 1)))


def _sklearn(metric: str, id_: str) -> Callable[[Category], Values]:
    def part(category: Category) -> Values:
        from sklearn import metrics

        return {id_: float(getattr(metrics, metric)(category.masks.ravel(), category.maps.ravel()))}

    return part


def _sklearn_image(category: Category) -> Values:
    from sklearn.metrics import average_precision_score, roc_auc_score

    one = category.labels, category.image_scores
    return {
        "auroc_cls": float(roc_auc_score(*one)),
        "ap_cls": float(average_precision_score(*one)),
        "f1_cls": _sklearn_f1(*one),
    }


SCIKIT_LEARN = {
    "AUROC": _sklearn("roc_auc_score", "auroc_seg"),
    "AP": _sklearn("average_precision_score", "ap_seg"),
    "F1-max": lambda category: {"f1_seg": _sklearn_f1(category.masks.ravel(), category.maps.ravel())},
    "image": _sklearn_image,
}


def _pixels(category: Category) -> tuple[Any, Any]:
    """Scores and labels of all pixels as flat tensors that share the arrays' memory."""
    import torch

    return torch.from_numpy(category.maps).ravel(), torch.from_numpy(category.masks.view(np.uint8)).ravel()


def _torch_values(scores: Any, labels: Any, level: str, metrics: str, thresholds: int | None) -> Values:
    from torchmetrics.functional import classification as functional

    values = {}
    if "auroc" in metrics:
        values["auroc"] = float(functional.binary_auroc(scores, labels, thresholds=thresholds))
    if "ap" in metrics:
        values["ap"] = float(functional.binary_average_precision(scores, labels, thresholds=thresholds))
    if "f1" in metrics:
        curve = functional.binary_precision_recall_curve(scores, labels, thresholds=thresholds)
        values["f1"] = _best_f1(*curve[:2])
    return {f"{metric}_{level}": value for metric, value in values.items()}


def _torch_part(metric: str, thresholds: int | None) -> Callable[[Category], Values]:
    return lambda category: _torch_values(*_pixels(category), "seg", metric, thresholds)


def _torch_image(category: Category, thresholds: int | None) -> Values:
    import torch

    one = torch.from_numpy(category.image_scores), torch.from_numpy(category.labels)
    return _torch_values(*one, "cls", "auroc ap f1", thresholds)


def _torchmetrics(thresholds: int | None) -> dict[str, Callable[[Category], Values]]:
    return {
        "AUROC": _torch_part("auroc", thresholds),
        "AP": _torch_part("ap", thresholds),
        "F1-max": _torch_part("f1", thresholds),
        "image": lambda category: _torch_image(category, thresholds),
    }


TORCHMETRICS = _torchmetrics(None)
TORCHMETRICS_BINNED = _torchmetrics(200)


def _anomalib(metric: str, id_: str, fields: tuple[str, str]) -> Callable[[Category], Values]:
    """One metric fed in batches, as an anomalib evaluator does."""

    def part(category: Category) -> Values:
        import torch
        from anomalib import metrics

        tensors = {
            "anomaly_map": torch.from_numpy(category.maps),
            "gt_mask": torch.from_numpy(category.masks),
            "pred_score": torch.from_numpy(category.image_scores),
            "gt_label": torch.from_numpy(category.labels),
        }
        one = getattr(metrics, metric)(fields=fields)
        for start in range(0, len(category), BATCH):
            one.update(SimpleNamespace(**{key: tensors[key][start : start + BATCH] for key in fields}))
        return {id_: float(one.compute())}

    return part


PIXELS, IMAGES = ("anomaly_map", "gt_mask"), ("pred_score", "gt_label")

ANOMALIB = {
    "AUROC": _anomalib("AUROC", "auroc_seg", PIXELS),
    "AUPR": _anomalib("AUPR", "ap_seg", PIXELS),
    "F1Max": _anomalib("F1Max", "f1_seg", PIXELS),
    "AUPRO": _anomalib("AUPRO", "pro_seg", PIXELS),
    "image AUROC": _anomalib("AUROC", "auroc_cls", IMAGES),
    "image AUPR": _anomalib("AUPR", "ap_cls", IMAGES),
    "image F1Max": _anomalib("F1Max", "f1_cls", IMAGES),
}


def _adeval(category: Category) -> Values:
    """Its streaming form. Bounds of the scores must be given: 0 and 1, as they are here."""
    vars(np).setdefault("trapz", np.trapezoid)  # a name gone from NumPy 2.4 that the package still uses
    from adeval import EvalAccumulator

    accumulator = EvalAccumulator(0.0, 1.0)
    accumulator.add_anomap_batch(category.maps, category.masks.view(np.uint8))
    accumulator.add_image(category.image_scores, category.labels)
    accumulator.add_sample(category.image_scores, category.labels)
    found = accumulator.summary()
    names = {
        "p_auroc": "auroc_seg",
        "p_aupr": "ap_seg",
        "p_aupro": "pro_seg",
        "i_auroc": "auroc_cls",
        "i_aupr": "ap_cls",
    }
    return {ours: float(found[theirs]) for theirs, ours in names.items()}


ADEVAL = {"all but F1": _adeval}
