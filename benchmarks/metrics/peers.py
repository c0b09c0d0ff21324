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
Part = Callable[[Category], Values]


def _ranked(category: Category, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (0 and 1) and scores of the images (cls) or of all pixels (seg), which share the arrays' memory."""
    if level == "cls":
        return category.labels, category.image_scores
    return category.masks.view(np.uint8).ravel(), category.maps.ravel()


def _best_f1(precision: Any, recall: Any) -> float:
    """The largest F1 along a curve given as arrays or tensors; precision is NaN where nothing is called."""
    precision, recall = np.asarray(precision, dtype=np.float64), np.asarray(recall, dtype=np.float64)
    total = precision + recall
    return float(np.nanmax(2 * precision * recall / np.where(total > 0, total, 1)))


def _by_part(part: Callable[[str, str], Part]) -> dict[str, Part]:
    """AUROC, AP and F1-max of pixels, and all three of images, each timed by itself."""
    return {
        "AUROC": part("auroc", "seg"), "AP": part("ap", "seg"), "F1-max": part("f1", "seg"),
        "image": part("auroc ap f1", "cls"),
    }  # fmt: skip


def _sklearn(names: str, level: str) -> Part:
    def part(category: Category) -> Values:
        from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

        functions = {
            "auroc": roc_auc_score,
            "ap": average_precision_score,
            "f1": lambda *ranked: _best_f1(*precision_recall_curve(*ranked)[:2]),
        }
        ranked = _ranked(category, level)
        return {f"{name}_{level}": float(functions[name](*ranked)) for name in names.split()}

    return part


def _torchmetrics(thresholds: int | None) -> Callable[[str, str], Part]:
    def part_of(names: str, level: str) -> Part:
        def part(category: Category) -> Values:
            import torch
            from torchmetrics.functional import classification

            functions = {
                "auroc": classification.binary_auroc,
                "ap": classification.binary_average_precision,
                "f1": lambda *ranked, **how: _best_f1(
                    *classification.binary_precision_recall_curve(*ranked, **how)[:2]
                ),
            }
            labels, scores = map(torch.from_numpy, _ranked(category, level))
            values = {name: functions[name](scores, labels, thresholds=thresholds) for name in names.split()}
            return {f"{name}_{level}": float(value) for name, value in values.items()}

        return part

    return part_of


def _anomalib(metric: str, id_: str) -> Part:
    """One metric fed in batches, as an anomalib evaluator does."""

    def part(category: Category) -> Values:
        import torch
        from anomalib import metrics

        arrays = (
            {"pred_score": category.image_scores, "gt_label": category.labels} if id_.endswith("_cls")
            else {"anomaly_map": category.maps, "gt_mask": category.masks}
        )  # fmt: skip
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        one = getattr(metrics, metric)(fields=tuple(tensors))
        for start in range(0, len(category), BATCH):
            one.update(SimpleNamespace(**{name: each[start : start + BATCH] for name, each in tensors.items()}))
        return {id_: float(one.compute())}

    return part


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
        "p_auroc": "auroc_seg", "p_aupr": "ap_seg", "p_aupro": "pro_seg", "i_auroc": "auroc_cls", "i_aupr": "ap_cls",
    }  # fmt: skip
    return {ours: float(found[theirs]) for theirs, ours in names.items()}


SCIKIT_LEARN = _by_part(_sklearn)
TORCHMETRICS, TORCHMETRICS_BINNED = _by_part(_torchmetrics(None)), _by_part(_torchmetrics(200))
_ANOMALIB_NAMES = {"AUROC": "auroc", "AUPR": "ap", "F1Max": "f1"}
ANOMALIB = {
    **{name: _anomalib(name, f"{id_}_seg") for name, id_ in {**_ANOMALIB_NAMES, "AUPRO": "pro"}.items()},
    **{f"image {name}": _anomalib(name, f"{id_}_cls") for name, id_ in _ANOMALIB_NAMES.items()},
}
ADEVAL = {"all but F1": _adeval}
