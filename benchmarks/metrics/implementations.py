"""Who is compared: us, other packages, and plain re-derivations of what has no package.

Each implementation is one or more parts, timed one by one, from a category to values by metric id. A package that is
not installed is imported by nobody else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.metrics import peers, plain
from benchmarks.metrics.workload import Category
from eval.exact import score_arrays
from eval.legacy import legacy_pro, legacy_region_f1
from eval.scorer import Scorer

COLUMNS = {
    "auroc_seg": "AUROC",
    "ap_seg": "AP",
    "f1_seg": "F1-max",
    "pro_seg": "PRO@0.3",
    "f1_region": "region F1",
    "auroc_cls": "AUROC image",
    "ap_cls": "AP image",
    "f1_cls": "F1-max image",
}
"""The values compared; the first five are of pixels and regions."""

Part = Callable[[Category], Mapping[str, float | None]]


def _as_it_is(category: Category) -> Category:
    return category


@dataclass(frozen=True)
class Implementation:
    """One row of the table.

    Attributes:
        name: how the row is called.
        computes: what is particular about what it computes.
        parts: by the name shown, what is timed; each takes what `prepare` returns.
        package: what must be installed, as it is imported; empty if nothing beyond our own needs.
        prepare: brings the category into the form that is scored, neither timed nor counted as extra memory.
    """

    name: str
    computes: str
    parts: Mapping[str, Part]
    package: str = ""
    prepare: Callable[[Category], Category] = _as_it_is


def _score(category: Category, threads: int, region_f1: bool) -> Mapping[str, float | None]:
    maps, masks = list(category.maps), list(category.masks)
    return score_arrays(maps, masks, list(category.image_scores), threads=threads, region_f1=region_f1).metrics


def _stream(category: Category, region_f1: bool) -> Mapping[str, float | None]:
    scorer = Scorer(region_f1=region_f1)
    for one in zip(category.maps, category.masks, category.image_scores, strict=True):
        scorer.update(*one)
    return scorer.compute().metrics


def _half(category: Category) -> Category:
    return Category(category.maps.astype(np.float16), category.masks, category.image_scores)


def _ours() -> list[Implementation]:
    rows = []
    for region_f1, what in ((False, "all but region F1"), (True, "all, with region F1")):
        for threads in (1, 2):
            part = partial(_score, threads=threads, region_f1=region_f1)
            name = f"vandkit, float32, {threads} thread{'s' * (threads > 1)}"
            rows.append(Implementation(name, f"{what}; exact", {what: part}))
        part = partial(_stream, region_f1=region_f1)
        name = "vandkit, float16, one image at a time"
        rows.append(Implementation(name, f"{what}; exact for float16 maps", {what: part}, prepare=_half))
    return rows


def _plain(name: str, computes: str, metric: str, function: Callable[..., float]) -> Implementation:
    return Implementation(name, computes, {"all": lambda category: {metric: function(category.maps, category.masks)}})


STRETCHED = "PRO of the APRIL-GAN code: 200 thresholds, stretched; not PRO"
JOINT_BOX = "region F1 of the SAA code: 200 thresholds, joint boxes; may exceed 1"

IMPLEMENTATIONS = [
    *_ours(),
    Implementation("scikit-learn", "exact", peers.SCIKIT_LEARN, "sklearn"),
    Implementation("torchmetrics", "exact for scores in [0, 1]", peers.TORCHMETRICS, "torchmetrics"),
    Implementation("torchmetrics, binned", "200 thresholds", peers.TORCHMETRICS_BINNED, "torchmetrics"),
    Implementation("anomalib", "AP is the area by trapezoids", peers.ANOMALIB, "anomalib"),
    Implementation("ADEval", "1000 bins between given bounds; AP by trapezoids", peers.ADEVAL, "adeval"),
    _plain("PRO by sorting all pixels, plain", "exact", "pro_seg", plain.sorted_pro),
    _plain("legacy PRO, plain", STRETCHED, "pro_seg", plain.stretched_pro),
    _plain("legacy PRO, vandkit", STRETCHED, "pro_seg", legacy_pro),
    _plain("legacy region F1, plain", JOINT_BOX, "f1_region", plain.joint_box_f1),
    _plain("legacy region F1, vandkit", JOINT_BOX, "f1_region", lambda *one: legacy_region_f1(*one).value),
]
