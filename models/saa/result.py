"""An image score that one image has by itself: how confident its best region is, and how unusual its oddest part."""

import torch
from torch import Tensor

from models.maps import hill

TOP_SHARE = 0.01
"""Share of the most salient pixels whose mean counts."""
EXPONENT = 4.0
"""k of m^k / (m^k + mu^k): the saliency's part of a few-shot score, mu being the references' typical m."""


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
