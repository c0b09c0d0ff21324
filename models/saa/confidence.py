"""Saliency and confidence prompts on regions: which regions count, SAA+ Eq. 6 to 8.

A region's score s becomes s exp(f m), m the mean saliency in its mask (Eq. 6, 7; f = 1); the K best count (Eq. 8).
Outlining a region costs most, so regions are outlined in descending s and no more of them than can matter:
s exp(f max m) bounds what is still to come. The result is that of outlining all.

Departs from the paper by a switch: the published code takes f = 3 (on a saliency of half the distance). Merging
duplicates is our own.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from models.errors import ModelInputError, checked

Masks = Callable[[Tensor], Tensor]
"""(n, 4) boxes to (n, H, W) bool masks: an outliner's `masks`."""
KeepRegions = Callable[[Tensor], Tensor]
"""(n, H, W) bool masks to (n,) bool, which regions are kept. Sees each mask by itself."""

MAX_ELEMENTS = 2**24
"""Largest stack of masks outlined at a time, in pixels."""
AT_ONCE = 16
"""Boxes outlined at a time, at the most."""
SLACK = 1e-6
"""Relative; more than rounding can add to a score, so that a bound is never too low."""


@dataclass(frozen=True, eq=False)
class PackedMask:
    """An (H, W) mask kept small: as bits, row by row, of the rectangle around what is set."""

    rows: slice
    columns: slice
    bits: np.ndarray
    area: int

    @classmethod
    def pack(cls, masks: Tensor) -> list[Self]:
        """(N, H, W) bool masks of any device; only their rectangles leave it."""
        packed = []
        for mask, down, across in zip(masks, masks.any(dim=2).cpu(), masks.any(dim=1).cpu(), strict=True):
            rows, columns = _extent(down), _extent(across)
            cut = mask[rows, columns].cpu().numpy()
            packed.append(cls(rows, columns, np.packbits(cut), int(cut.sum())))
        return packed

    @property
    def rectangle(self) -> np.ndarray:
        """(h, w) bool: the mask within its rectangle."""
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return np.unpackbits(self.bits, count=height * width).view(bool).reshape(height, width)

    def overlap(self, other: "PackedMask") -> float:
        """Intersection over union with a mask of the same image; 0 where both are empty."""
        rows, columns = (
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in ((self.rows, other.rows), (self.columns, other.columns))
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return 0.0
        shared = int((self._part(rows, columns) & other._part(rows, columns)).sum())
        return shared / (self.area + other.area - shared)

    def _part(self, rows: slice, columns: slice) -> np.ndarray:
        top, left = self.rows.start, self.columns.start
        return self.rectangle[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _extent(used: Tensor) -> slice:
    """(L,) bool: from the first to behind the last that is set; an empty slice where none is."""
    found = used.nonzero().flatten()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


@dataclass(frozen=True, eq=False)
class TopRegions:
    """The regions that count, in descending score; of equal scores the earlier proposal first."""

    size: tuple[int, int]
    packed: tuple[PackedMask, ...]
    scores: Tensor
    """(k,) float32, with the saliency prompt (Eq. 7)."""
    proposals: Tensor
    """(k,) int64, which of the proposed boxes each region comes from."""
    num_outlined: int
    """How many boxes had to be outlined to know."""


_Region = tuple[float, int, PackedMask]
"""(-score, proposal, mask): in ascending order the best comes first, of equals the earlier proposal."""


def top_regions(
    masks: Masks, boxes: Tensor, scores: Tensor, size: tuple[int, int], *, saliency: Tensor | None = None,
    factor: float = 1.0, top_k: int | None = 5, keep: KeepRegions | None = None, merge_overlap: float | None = None,
) -> TopRegions:  # fmt: skip
    """The `top_k` regions of highest rescored confidence (Eq. 6 to 8).

    Args:
        masks: outlines boxes; called with a few at a time, in descending score.
        boxes: (N, 4), in whatever form `masks` takes.
        scores: (N,) >= 0.
        size: (H, W) of the image.
        saliency: (H, W) >= 0; None for no rescoring (without P^S). An empty mask keeps its score.
        factor: of the mean saliency in the exponent: 1 in the paper, 3 in the published code.
        top_k: K; None for all regions (without P^C).
        keep: drops regions by their masks (Eq. 4) before they are ranked.
        merge_overlap: regions are gone through in descending rescored score, and one whose intersection over union
            with a region kept before it is this or more is its duplicate and dropped; then the first K count. What
            becomes of a region is settled by those ranked before it alone, so this is exact, lazily too. None for off.

    Raises:
        ModelInputError: negative or not finite scores or saliency, shapes that do not fit, a wrong option.
    """
    _check(boxes, scores, size, saliency, factor, top_k, merge_overlap)
    ranking = _Ranking(top_k, merge_overlap)
    at_once = max(1, min(AT_ONCE, MAX_ELEMENTS // (size[0] * size[1])))
    given, order = torch.sort(scores.detach().cpu(), descending=True, stable=True)
    highest = float(saliency.max()) if saliency is not None else 0.0
    bounds = given.double() * math.exp(factor * highest) * (1 + SLACK)
    num_outlined = 0
    for part in order.split(at_once):
        outlined = masks(boxes[part.to(boxes.device)])
        rescored = _rescored(outlined, given[num_outlined : num_outlined + len(part)], saliency, highest, factor)
        kept = torch.ones(len(part), dtype=torch.bool) if keep is None else keep(outlined).cpu()
        ranking.add(rescored[kept], part[kept], PackedMask.pack(outlined[kept.to(outlined.device)]))
        num_outlined += len(part)
        if num_outlined < len(boxes) and ranking.settle(float(bounds[num_outlined])):
            break
    ranking.settle(-math.inf)
    settled = ranking.settled
    return TopRegions(
        size, tuple(mask for _, _, mask in settled),
        torch.tensor([-negative for negative, _, _ in settled], dtype=torch.float32, device=scores.device),
        torch.tensor([proposal for _, proposal, _ in settled], dtype=torch.int64, device=scores.device), num_outlined,
    )  # fmt: skip


class _Ranking:
    """Regions in descending order: those that are settled, and those that a region still to come may yet precede."""

    def __init__(self, top_k: int | None, merge_overlap: float | None):
        self._top_k = math.inf if top_k is None else top_k
        self._merge_overlap = merge_overlap
        self.settled: list[_Region] = []
        self._waiting: list[_Region] = []

    def add(self, scores: Tensor, proposals: Tensor, masks: Sequence[PackedMask]) -> None:
        """Rank some more regions."""
        for score, proposal, mask in zip(scores.tolist(), proposals.tolist(), masks, strict=True):
            heapq.heappush(self._waiting, (-score, proposal, mask))
        if self._merge_overlap is None and len(self._waiting) > self._top_k:  # the rest can never count
            self._waiting = heapq.nsmallest(int(self._top_k), self._waiting)

    def settle(self, bound: float) -> bool:
        """Settle what scores above anything still to come; whether that makes K."""
        while self._waiting and len(self.settled) < self._top_k and -self._waiting[0][0] > bound:
            region = heapq.heappop(self._waiting)
            if not self._is_duplicate(region[2]):
                self.settled.append(region)
        return len(self.settled) >= self._top_k

    def _is_duplicate(self, mask: PackedMask) -> bool:
        limit = self._merge_overlap
        return limit is not None and any(mask.overlap(kept) >= limit for _, _, kept in self.settled)


def _rescored(masks: Tensor, scores: Tensor, saliency: Tensor | None, highest: float, factor: float) -> Tensor:
    """(n,) float32 on the CPU: Eq. 6 and 7, the means as one matrix product where the masks are.

    Summed in double precision and then rounded, so that a score does not depend on what it is computed along with.
    """
    if saliency is None:
        return scores
    exact = torch.float32 if masks.device.type == "mps" else torch.float64  # which has no double precision
    pixels = masks.flatten(1)
    total = (pixels.to(exact) @ saliency.flatten().to(masks.device, exact)).double().cpu()
    area = pixels.sum(dim=1).cpu()
    mean = torch.where(area > 0, total / area.clamp(min=1), 0.0).clamp(max=highest)
    return (scores.double() * torch.exp(factor * mean)).float()


def _check(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], saliency: Tensor | None, factor: float, top_k: int | None,
    merge_overlap: float | None,
) -> None:  # fmt: skip
    if scores.shape != (len(boxes),) or not (scores.isfinite() & (scores >= 0)).all():
        raise ModelInputError(f"expected a finite score >= 0 for each of {len(boxes)} boxes, got {scores.tolist()[:5]}")
    if saliency is not None and (tuple(saliency.shape) != size or not (saliency.isfinite() & (saliency >= 0)).all()):
        raise ModelInputError(f"expected a finite saliency >= 0 of shape {size}, got {tuple(saliency.shape)}")
    checked("factor", factor, factor >= 0, "at least 0")
    checked("top_k", top_k, top_k is None or top_k >= 1, "at least 1, or null")
    share = merge_overlap is None or 0 < merge_overlap <= 1
    checked("merge_overlap", merge_overlap, share, "above 0 and up to 1, or null")
