"""The loss against a slow re-derivation, by hand and at its edges."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from train.adapters.losses import adapter_loss, dice_loss, focal_loss


def random_case(batch: int, size: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 2, size, size, generator=generator, dtype=torch.float64)
    masks = torch.rand(batch, size, size, generator=generator) > 0.7
    return logits.softmax(dim=1), masks


def slow_focal(probabilities: np.ndarray, masks: np.ndarray) -> float:
    """Pixel by pixel, with the clamped one-hot written out."""
    total, count = 0.0, 0
    for image, mask in zip(probabilities, masks, strict=True):
        for y, x in np.ndindex(mask.shape):
            one_hot = np.clip(np.eye(2)[int(mask[y, x])], 1e-5, 1 - 1e-5)
            p = float((one_hot * image[:, y, x]).sum()) + 1e-5
            total += -((1 - p) ** 2) * math.log(p)
            count += 1
    return total / count


def slow_dice(abnormal: np.ndarray, masks: np.ndarray) -> list[float]:
    return [
        1 - (2 * float((p * g).sum()) + 1) / (float(p.sum()) + float(g.sum()) + 1)
        for p, g in zip(abnormal, masks, strict=True)
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_focal_equals_the_slow_one(batch):
    probabilities, masks = random_case(batch)
    expected = slow_focal(probabilities.numpy(), masks.numpy())
    assert focal_loss(probabilities, masks).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
def test_dice_equals_the_slow_one(batch):
    probabilities, masks = random_case(batch)
    expected = np.mean(slow_dice(probabilities[:, 1].numpy(), masks.numpy()))
    assert dice_loss(probabilities[:, 1], masks).item() == pytest.approx(expected, rel=1e-9)


def test_focal_by_hand():
    probabilities = torch.tensor([[[[0.25]], [[0.75]]]], dtype=torch.float64)
    masks = torch.tensor([[[True]]])
    p = 0.75 * (1 - 1e-5) + 0.25e-5 + 1e-5
    assert focal_loss(probabilities, masks).item() == pytest.approx(0.0625 * -math.log(0.75), rel=1e-3)
    assert focal_loss(probabilities, masks).item() == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-12)


def test_focal_is_finite_where_the_truth_has_no_probability():
    probabilities = torch.tensor([[[[1.0]], [[0.0]]]], requires_grad=True)
    loss = focal_loss(probabilities, torch.tensor([[[True]]]))
    assert loss.item() == pytest.approx(-math.log(2e-5), rel=1e-3)
    loss.backward()
    assert torch.isfinite(probabilities.grad).all()


def test_dice_of_a_perfect_map_is_0_and_of_its_inverse_nearly_1():
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[:, :20] = True
    assert dice_loss(masks.double(), masks).item() == pytest.approx(0.0, abs=1e-12)
    assert dice_loss((~masks).double(), masks).item() == pytest.approx(1 - 1 / 1601)


def test_dice_is_per_image_then_the_mean():
    """One small and one large defect weigh the same; pooled pixels would give another number."""
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[1] = True
    abnormal = torch.stack([torch.zeros(10, 10), torch.ones(10, 10)]).double()
    assert dice_loss(abnormal, masks).item() == pytest.approx((0.5 + 0.0) / 2)


def test_a_batch_of_one_is_the_image_of_a_larger_batch():
    probabilities, masks = random_case(4)
    singles = [dice_loss(probabilities[i : i + 1, 1], masks[i : i + 1]) for i in range(4)]
    assert_close(dice_loss(probabilities[:, 1], masks), torch.stack(singles).mean())


def test_dice_on_normal_false_leaves_defect_free_images_out():
    probabilities, masks = random_case(3)
    masks[1] = False
    expected = (dice_loss(probabilities[:1, 1], masks[:1]) + dice_loss(probabilities[2:, 1], masks[2:])) / 2
    assert_close(dice_loss(probabilities[:, 1], masks, on_normal=False), expected)
    assert dice_loss(probabilities[:, 1], masks) > expected


def test_dice_on_normal_false_of_a_batch_without_a_defect_is_0_and_differentiable():
    abnormal = torch.full((2, 4, 4), 0.5, requires_grad=True)
    loss = dice_loss(abnormal, torch.zeros(2, 4, 4, dtype=torch.bool), on_normal=False)
    assert loss.item() == 0
    loss.backward()
    assert_close(abnormal.grad, torch.zeros(2, 4, 4))


def test_total_is_the_sum_over_stages_of_both():
    stages = [random_case(2, seed=seed)[0] for seed in range(3)]
    masks = random_case(2)[1]
    expected = sum(
        slow_focal(stage.numpy(), masks.numpy()) + np.mean(slow_dice(stage[:, 1].numpy(), masks.numpy()))
        for stage in stages
    )
    assert adapter_loss(stages, masks).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_pulls_towards_the_truth():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1, 1] = True
    adapter_loss([logits.softmax(dim=1)], masks).backward()
    assert (logits.grad[0, 1][masks[0]] < 0).all()
    assert (logits.grad[0, 1][~masks[0]] > 0).all()
