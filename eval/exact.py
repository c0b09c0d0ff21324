"""The metrics of a category from its maps as they are, float32 or float64, without rounding.

Two passes. The first takes note of the defect pixels, which are few; the second counts how many of all pixels equal
each of their values or lie between two of them, which is all that AUROC, AP, F1-max and PRO depend on. The maps may be
any sequence, such as one that reads a file each time it is asked, so that none has to stay in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TypeVar

import numpy as np

from eval.category import CategoryCounts, CategoryScores, DefectRecord
from eval.compiled import falling_order
from eval.images import CheckedImage, CheckedImages, ImageFacts, not_finite
from eval.ranking.counting import CHUNK_PIXELS, DefectValues
from eval.regions.components import component_changes, label_regions
from eval.regions.hits import hit_changes
from eval.regions.pro import add_covered_shares, check_fpr_limit
from eval.regions.region_f1 import LEAST_IOU, RegionCurve, region_curve

_NOTHING = np.zeros(0)
_Steps = tuple[np.ndarray, np.ndarray]
"""Scores at which a number changes, and by how much; (E,) each."""
_NO_STEPS = (_NOTHING, np.zeros(0, dtype=np.int64))
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _FirstLook:
    """What the first look at an image keeps: values and regions of its M defect pixels, and where components change."""

    image: CheckedImage
    num_pixels: int = 0
    values: np.ndarray = field(default_factory=lambda: _NOTHING)
    regions: np.ndarray = field(default_factory=lambda: _NOTHING)
    num_regions: int = 0
    components: _Steps = _NO_STEPS
    hits: _Steps = _NO_STEPS


def score_arrays(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    image_scores: Sequence[float],
    labels: Sequence[int | None] | None = None,
    *,
    names: Sequence[str] | None = None,
    defect_types: Sequence[str] | None = None,
    pro_fpr_limit: float = 0.3,
    region_f1: bool = True,
    threads: int = 1,
) -> CategoryScores:
    """Score one category, N of each, without rounding the maps: the reference for `Scorer`.

    Each image is as `Scorer.update` takes it; float16 maps count as float32, and all maps as float64 if one is. Memory
    beyond the maps: 32 MB a thread and about 60 bytes a defect pixel. The result does not depend on the number of
    threads.

    Raises:
        ScoringInputError: as `Scorer.update`; values may be as large as their type allows.
    """
    images = CheckedImages(maps, masks, image_scores, labels, names, defect_types)
    return count_exactly(images, pro_fpr_limit, region_f1, threads).compute()


def f1_above(images: CheckedImages, threshold: float) -> float | None:
    """The F1 of calling all pixels above a threshold defects, pixels of all images pooled, in [0, 1].

    The threshold is one known before (SegF1 of MVTec AD 2 takes it from normal images), not the best one. Images whose
    mask is not known do not count; None without a defect pixel. Each map is asked for once.
    """
    called = hits = defects = 0
    for i in range(len(images)):
        image = images[i][0]
        if image.mask is not None:
            above = image.anomaly_map > threshold
            called += int(np.count_nonzero(above))
            hits += int(np.count_nonzero(above & image.mask))
            defects += int(np.count_nonzero(image.mask))
    return 2 * hits / (called + defects) if defects else None


def count_exactly(
    images: CheckedImages, pro_fpr_limit: float = 0.3, region_f1: bool = True, threads: int = 1
) -> CategoryCounts:
    """What `score_arrays` computes its metrics from, which has the curves too."""
    check_fpr_limit(pro_fpr_limit)
    looks = _in_threads(lambda i: _first_look(*images[i], region_f1), range(len(images)), threads)
    facts = ImageFacts()
    for look in looks:
        facts.add(look.image)
    kind = np.result_type(np.float32, *{look.values.dtype for look in looks if look.num_pixels})
    values = np.concatenate([_NOTHING.astype(kind), *(look.values for look in looks)], dtype=kind)
    order = falling_order(values)
    in_order = values[order] + kind.type(0)
    is_new = np.append(True, in_order[1:] != in_order[:-1])[: values.size]
    borders = DefectValues(in_order[is_new][::-1])
    normal, anomalous = (_count(images.maps, looks, label, borders, threads) for label in (0, 1))
    ranks = np.empty(values.size, dtype=np.int32)
    ranks[order] = 2 * np.cumsum(is_new) - 1  # of the bins, descending
    positives = np.bincount(ranks, minlength=borders.num_bins).astype(np.int32)
    del values, in_order, is_new
    negatives = np.subtract(np.add(anomalous, normal, out=anomalous), positives, out=anomalous)
    return CategoryCounts(
        facts, borders.thresholds()[::-1], positives, negatives, normal,
        _shares(looks, ranks, order, borders.num_bins), list(_records(looks, ranks)),
        _region_curve(looks) if region_f1 else None, pro_fpr_limit,
    )  # fmt: skip


def _first_look(image: CheckedImage, name: str, region_f1: bool) -> _FirstLook:
    """The first look at one image.

    Raises:
        ScoringInputError: for NaN or inf.
    """
    scores = _in_one_piece(image.anomaly_map)
    if error := not_finite(scores, name):
        raise error
    mask, image = image.mask, replace(image, anomaly_map=_NOTHING, mask=None if image.mask is None else _NOTHING)
    if mask is None:
        return _FirstLook(image)
    flat, pixels = scores.ravel(), np.flatnonzero(mask)
    labels, num_regions = label_regions(mask)
    look = _FirstLook(image, flat.size, flat[pixels], labels.ravel()[pixels], num_regions)
    if not region_f1:
        return look
    components = component_changes(scores)
    look = replace(look, components=(flat[components.pixels], components.steps))
    if not num_regions:
        return look
    hits = hit_changes(scores, labels, LEAST_IOU)
    return replace(look, hits=(flat[hits.pixels], hits.steps))


def _in_one_piece(anomaly_map: np.ndarray) -> np.ndarray:
    """A map of any layout and byte order as compiled loops take it: contiguous, native, of 64 bits at most."""
    return np.ascontiguousarray(anomaly_map, dtype=f"=f{min(anomaly_map.dtype.itemsize, 8)}")


def _count(
    maps: Sequence[np.ndarray], looks: Sequence[_FirstLook], label: int, borders: DefectValues, threads: int
) -> np.ndarray:
    """How many pixels of the normal (0) or anomalous (1) images lie in each bin, descending; int64."""
    chosen = [i for i, look in enumerate(looks) if look.image.label == label and look.image.mask is not None]
    total = sum(looks[i].num_pixels for i in chosen)
    parts = max(1, threads) * -(-total // (max(1, threads) * CHUNK_PIXELS))
    chunks = _cut(chosen, [looks[i].num_pixels for i in chosen], total / max(1, parts))
    bins, lock = np.zeros(borders.num_bins, dtype=np.int64), Lock()

    def add(chunk: Sequence[int]) -> None:
        part = borders.count([_flat(maps[i], borders) for i in chunk])
        with lock:
            np.add(bins, part, out=bins)

    _in_threads(add, chunks, threads)
    return bins[::-1]


def _flat(anomaly_map: np.ndarray, borders: DefectValues) -> np.ndarray:
    return np.ascontiguousarray(anomaly_map, dtype=borders.values.dtype).ravel()


def _cut(images: Sequence[int], sizes: Sequence[int], most: float) -> list[list[int]]:
    """Runs of neighbours of about `most` pixels, one image at least."""
    runs: list[list[int]] = []
    pixels = most
    for image, size in zip(images, sizes, strict=True):
        if pixels >= most:
            runs.append([])
            pixels = 0
        runs[-1].append(image)
        pixels += size
    return runs


def _shares(looks: Sequence[_FirstLook], ranks: np.ndarray, order: np.ndarray, num_bins: int) -> np.ndarray:
    """What share of the regions is newly covered in each bin, descending."""
    offsets = np.cumsum([0] + [look.num_regions for look in looks])
    regions = [look.regions + offset for look, offset in zip(looks, offsets, strict=False) if look.regions.size]
    shares = np.zeros(num_bins, dtype=np.int64)
    if regions:
        add_covered_shares(ranks, np.concatenate(regions), order, shares)
    return shares


def _records(looks: Sequence[_FirstLook], ranks: np.ndarray) -> Iterable[DefectRecord]:
    end = 0
    for look in looks:
        begin, end = end, end + look.values.size
        if end > begin:
            ones = np.broadcast_to(np.int64(1), (end - begin,))
            yield DefectRecord(look.image.defect_type, ranks[begin:end], ones, look.num_regions, *look.hits)


def _region_curve(looks: Sequence[_FirstLook]) -> RegionCurve:
    values, components = _joined([look.components for look in looks])
    hit_values, hits = _joined([look.hits for look in looks])
    return region_curve(values, components, hit_values, hits, sum(look.num_regions for look in looks))


def _joined(parts: Sequence[_Steps]) -> _Steps:
    values, steps = zip(_NO_STEPS, *parts, strict=True)
    return np.concatenate(values), np.concatenate(steps)


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """The results of a function for each item, in order."""
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
