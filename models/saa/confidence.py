"""Saliency and confidence prompts on regions, and the map they make: SAA+ Eq. 6 to 9.

A region's score s becomes s exp(f m), m the mean saliency in its mask (Eq. 6, 7; f = 1); the K best make the map
(Eq. 8, 9). Outlining a region costs most, so regions are outlined in descending s and no more of them than can
matter: s exp(f max m) bounds what is still to come. The result is that of outlining all.

Departs from the paper, each by a switch: the published code takes f = 3 (on a saliency of half the distance), and
divides by 1 more than Eq. 9 does. Merging duplicates and the dense saliency below the regions are our own.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import ModelInputError
from models.saa.packed_masks import PackedMask, unpack

Masks = Callable[[Tensor], Tensor]
"""(n, 4) boxes to (n, H, W) bool masks: an outliner's `masks`."""
Rule = Callable[[Tensor], Tensor]
"""(n, H, W) bool masks to (n,) bool, which regions are kept. Sees each mask by itself."""

MAX_ELEMENTS = 2**24
"""Largest stack of masks outlined at a time, in pixels."""
SLACK = 1e-6
"""Relative; more than rounding can add to a score, so that a bound is never too low."""


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

    @property
    def masks(self) -> Tensor:
        """(k, H, W) bool on the CPU."""
        return unpack(self.packed, self.size)


@dataclass(frozen=True, eq=False)
class _Region:
    score: float
    proposal: int
    mask: PackedMask

    def __lt__(self, other: "_Region") -> bool:
        return (-self.score, self.proposal) < (-other.score, other.proposal)


def top_regions(
    masks: Masks, boxes: Tensor, scores: Tensor, size: tuple[int, int], *, saliency: Tensor | None = None,
    factor: float = 1.0, top_k: int | None = 5, keep: Rule | None = None, merge_overlap: float | None = None,
    lazy: bool = True, at_once: int = 16,
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
        lazy: whether to stop as soon as the result is certain.
        at_once: boxes outlined at a time; fewer on large images.

    Raises:
        ModelInputError: negative or not finite scores or saliency, shapes that do not fit, a wrong option.
    """
    _check(boxes, scores, size, saliency, factor, top_k, merge_overlap, at_once)
    ranking = _Ranking(top_k, merge_overlap)
    at_once = max(1, min(at_once, MAX_ELEMENTS // (size[0] * size[1])))
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
        if lazy and num_outlined < len(boxes) and ranking.settle(float(bounds[num_outlined])):
            break
    regions = ranking.finish()
    return TopRegions(
        size, tuple(region.mask for region in regions),
        torch.tensor([region.score for region in regions], dtype=torch.float32, device=scores.device),
        torch.tensor([region.proposal for region in regions], dtype=torch.int64, device=scores.device), num_outlined,
    )  # fmt: skip


def anomaly_map(regions: TopRegions, *, extra_weight: float = 0.0) -> Tensor:
    """Eq. 9: at each pixel sum(r s) / (`extra_weight` + sum(r)) over the regions r that cover it, 0 elsewhere.

    (H, W) float32 on the scores' device. `extra_weight` is 0 in the paper; with the published code's 1 a pixel under
    one region has half its score, and agreement of more raises it.
    """
    total = torch.zeros(regions.size, dtype=torch.float64)
    weight = torch.full(regions.size, extra_weight, dtype=torch.float64)
    for mask, score in zip(regions.packed, regions.scores.tolist(), strict=True):
        covered = torch.from_numpy(mask.rectangle).double()
        total[mask.rows, mask.columns] += covered * score
        weight[mask.rows, mask.columns] += covered
    return torch.where(weight > 0, total / weight.clamp(min=1e-12), 0.0).float().to(regions.scores.device)


def with_dense_saliency(region_map: Tensor, saliency: Tensor, *, highest: float, weight: float) -> Tensor:
    """The region map plus `weight` x saliency / `highest`: ranks the pixels that no region, or the same one, covers.

    No pixel without a region rises to one with a region: where the lowest region value of the image is below
    2 `weight`, half that value takes its place. Nor do regions whose values differ by more than `weight` change
    places. `highest` is the largest saliency there can be, so that the sum means the same in every image.

    Args:
        region_map: (H, W) >= 0.
        saliency: (H, W), counted within [0, `highest`].
        highest: above 0.
        weight: in units of the region map, above 0.

    Raises:
        ModelInputError: shapes that do not fit, or numbers out of range.
    """
    if region_map.shape != saliency.shape or highest <= 0 or weight <= 0:
        raise ModelInputError(
            f"expected a region map and a saliency of one shape, and highest and weight above 0, got "
            f"{tuple(region_map.shape)}, {tuple(saliency.shape)}, {highest} and {weight}"
        )
    covered = region_map[region_map > 0]
    lowest = float(covered.min()) if len(covered) else math.inf
    return region_map + min(weight, lowest / 2) * (saliency / highest).clamp(0, 1)


class _Ranking:
    """Regions in descending order: those that are settled, and those that a region still to come may yet precede."""

    def __init__(self, top_k: int | None, merge_overlap: float | None):
        self._top_k = math.inf if top_k is None else top_k
        self._merge_overlap = merge_overlap
        self._settled: list[_Region] = []
        self._waiting: list[_Region] = []

    def add(self, scores: Tensor, proposals: Tensor, masks: Sequence[PackedMask]) -> None:
        """Rank some more regions."""
        for score, proposal, mask in zip(scores.tolist(), proposals.tolist(), masks, strict=True):
            heapq.heappush(self._waiting, _Region(score, proposal, mask))
        if self._merge_overlap is None and len(self._waiting) > self._top_k:  # the rest can never count
            self._waiting = heapq.nsmallest(int(self._top_k), self._waiting)

    def settle(self, bound: float) -> bool:
        """Settle what scores above anything still to come; whether that makes K."""
        while self._waiting and len(self._settled) < self._top_k and self._waiting[0].score > bound:
            region = heapq.heappop(self._waiting)
            if not self._is_duplicate(region):
                self._settled.append(region)
        return len(self._settled) >= self._top_k

    def finish(self) -> list[_Region]:
        """All that count, nothing being still to come."""
        self.settle(-math.inf)
        return self._settled

    def _is_duplicate(self, region: _Region) -> bool:
        limit = self._merge_overlap
        return limit is not None and any(region.mask.overlap(kept.mask) >= limit for kept in self._settled)


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
    merge_overlap: float | None, at_once: int,
) -> None:  # fmt: skip
    if scores.shape != (len(boxes),) or not (scores.isfinite() & (scores >= 0)).all():
        raise ModelInputError(f"expected a finite score >= 0 for each of {len(boxes)} boxes, got {scores.tolist()[:5]}")
    if saliency is not None and (tuple(saliency.shape) != size or not (saliency.isfinite() & (saliency >= 0)).all()):
        raise ModelInputError(f"expected a finite saliency >= 0 of shape {size}, got {tuple(saliency.shape)}")
    if factor < 0 or (top_k is not None and top_k < 1) or at_once < 1:
        raise ModelInputError(
            f"expected factor of at least 0, top_k and at_once of at least 1, got {factor}, {top_k} and {at_once}"
        )
    if merge_overlap is not None and not 0 < merge_overlap <= 1:
        raise ModelInputError(f"expected merge_overlap above 0 and up to 1, or null, got {merge_overlap}")
