"""What an adapter is taught by: focal and dice, at every stage, all weights 1 (APRIL-GAN, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

FOCAL_GAMMA = 2.0
ONE_HOT_CLAMP = 1e-5
DICE_SMOOTH = 1.0


def adapter_loss(
    stage_probabilities: Sequence[Tensor], masks: Tensor, *, dice_on_normal: bool = True,
    shares: tuple[Tensor | float, Tensor | float] = (1.0, 1.0),
) -> Tensor:  # fmt: skip
    """Sum of focal and dice over the stages, each supervised alone; a scalar.

    `stage_probabilities` holds one (B, 2, H, W) per stage, softmax over (normal, abnormal);
    `masks` is (B, H, W) bool, True where abnormal. Nothing supervises the sum of the stages or the image score.
    Where these are only part of a batch, `shares` are what they are of its images and of those that dice counts: the
    losses of the parts then add up to that of the batch.
    """
    focal_share, dice_share = shares
    losses = [
        focal_share * focal_loss(probabilities, masks)
        + dice_share * dice_loss(probabilities[:, 1], masks, on_normal=dice_on_normal)
        for probabilities in stage_probabilities
    ]
    return torch.stack(losses).sum()


def focal_loss(probabilities: Tensor, masks: Tensor, *, gamma: float = FOCAL_GAMMA) -> Tensor:
    """Mean over all pixels of -(1 - p)^gamma log p, p being the probability of the true channel; a scalar.

    `probabilities` is (B, 2, H, W), `masks` (B, H, W) bool. No class is weighted. The one-hot truth is clamped to
    [1e-5, 1 - 1e-5] and 1e-5 is added to p, so that p may exceed 1 by 1e-5 and the loss stays finite at p = 0.
    """
    normal, abnormal = probabilities.unbind(dim=1)
    of_truth = torch.where(masks, abnormal, normal)
    of_other = torch.where(masks, normal, abnormal)
    p = of_truth * (1 - ONE_HOT_CLAMP) + of_other * ONE_HOT_CLAMP + ONE_HOT_CLAMP
    return -((1 - p) ** gamma * p.log()).mean()


def dice_loss(abnormal: Tensor, masks: Tensor, *, on_normal: bool = True) -> Tensor:
    """1 - (2 sum(p g) + 1) / (sum p + sum g + 1) per image, then the mean; a scalar in [0, 1).

    `abnormal` is the abnormal channel (B, H, W) in [0, 1], `masks` (B, H, W) bool. For an image without a defect the
    term is almost exactly 1 with hardly a gradient until its map is almost empty.

    Departs from the paper where `on_normal` is False: such images are left out of the mean
    (a batch of nothing else gives 0).
    """
    truth = masks.to(abnormal.dtype)
    overlap = (abnormal * truth).sum(dim=(1, 2))
    truth_size = truth.sum(dim=(1, 2))
    size = abnormal.sum(dim=(1, 2)) + truth_size
    per_image = 1 - (2 * overlap + DICE_SMOOTH) / (size + DICE_SMOOTH)
    if on_normal:
        return per_image.mean()
    has_defect = (truth_size > 0).to(per_image.dtype)
    return (per_image * has_defect).sum() / has_defect.sum().clamp(min=1)
