"""From the regions that count to the answer: the map (SAA+ Eq. 9) and an image score of the image's own.

Departs from the paper: by a switch, the published code divides by 1 more than Eq. 9 does; the saliency below the
regions, the choice among sources of prompts and the image score are our own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base import Prediction
from models.errors import ModelInputError
from models.maps import hill
from models.saa.confidence import TopRegions

TOP_SHARE = 0.01
"""Share of the most salient pixels whose mean counts."""
EXPONENT = 4.0
"""k of m^k / (m^k + mu^k): the saliency's part of a few-shot score, mu being the references' typical m."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """What is said of one image: its map (S, S) and score, and the highest rescored confidence of a region."""

    anomaly_map: Tensor
    image_score: Tensor
    confidence: Tensor


def assess(
    regions: TopRegions, region_map: Tensor, saliency: Tensor | None, *, map_size: int, highest: float, dense: float,
    share: float, typical: Tensor | None,
) -> Assessment:  # fmt: skip
    """What is said of an image by its regions and their map (H, W).

    Args:
        regions: that count.
        region_map: of Eq. 9.
        saliency: (H, W), or None.
        map_size: side in pixels that the map is resized to.
        highest: that a saliency can be.
        dense: weight of the saliency under the regions of the map; 0 for none.
        share: of the saliency in the image score.
        typical: as for `image_score`.
    """
    if dense and saliency is not None:
        region_map = with_dense_saliency(region_map, saliency, highest=highest, weight=dense)
    resized = F.interpolate(region_map[None, None], (map_size, map_size), mode="bilinear")[0, 0]
    confidence = regions.scores.max() if len(regions.scores) else region_map.new_zeros(())
    return Assessment(resized, image_score(confidence, saliency, highest, share, typical), confidence)


def prediction(assessed: Sequence[Assessment]) -> Prediction:
    """Assessments of images as one prediction; the scalars are the highest confidence and the map's maximum."""
    maps, scores, confidences = (
        torch.stack([getattr(each, name) for each in assessed]).float()
        for name in ("anomaly_map", "image_score", "confidence")
    )
    return Prediction(maps, scores, {"region_confidence": confidences, "map_max": maps.amax(dim=(1, 2))})


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
    2 `weight`, half that value replaces `weight`. Nor do regions whose values differ by more than `weight` change
    their order. `highest` is the largest saliency there can be, so that the sum means the same in every image.

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


def most_agreed(maps: Sequence[Tensor], saliency: Tensor | None) -> int:
    """Which of two or more maps (H, W), one per source of prompts, agrees best with the others and with the saliency.

    By mean correlation, within one image, so that a choice stays inductive. Of equals the first; a constant map agrees
    with nothing. `saliency` (H, W), which no words went into, may be None.
    """
    everything = [*maps, *([] if saliency is None else [saliency])]
    rows = torch.stack([each.flatten() for each in everything]).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    rows = torch.where(lengths > 1e-12, rows / lengths.clamp(min=1e-12), 0.0)
    agreement = rows @ rows.t()
    agreement.fill_diagonal_(0)
    return int(agreement[: len(maps)].mean(dim=1).argmax())


def image_score(
    confidence: Tensor, saliency: Tensor | None, highest: float, share: float, typical: Tensor | None = None
) -> Tensor:
    """Score in [0, 1): (1 - share) x / (1 + x) + share u.

    Args:
        confidence: x >= 0, the highest rescored confidence of a region; 0 without any.
        saliency: (H, W); None counts as none of it.
        highest: that a saliency can be.
        share: of the saliency.
        typical: mean `top` of the references' own saliency, each left out of them; None without references.

    u is the top of the saliency as a share of the highest, or calibrated on the references: 0.5 where it is theirs.
    """
    score = confidence / (1 + confidence)
    if saliency is None or share == 0:
        return score
    unusual = top(saliency)
    part = (unusual / highest).clamp(0, 1) if typical is None else hill(unusual, typical.to(unusual), EXPONENT)
    return torch.lerp(score, part.to(score), share)


def top(saliency: Tensor) -> Tensor:
    """Mean of the most salient share of pixels, ()."""
    pixels = saliency.flatten()
    return pixels.topk(max(1, round(TOP_SHARE * len(pixels)))).values.mean()


def score_label(share: float) -> str:
    """How the score is made, for a run's protocol."""
    confident = "x / (1 + x), x the highest rescored confidence"
    if not share:
        return confident
    return (
        f"{1 - share:g} {confident} + {share:g} saliency of the top {TOP_SHARE:g} of pixels, of the highest there is; "
        f"with references m^{EXPONENT:g} / (m^{EXPONENT:g} + mu^{EXPONENT:g}), mu their own mean, each left out"
    )
