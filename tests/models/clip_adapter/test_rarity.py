"""How rare a patch is in its image, beside a plain version; and what it adds to maps and scores."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.clip_adapter.model import ClipAdapter
from models.clip_adapter.rarity import LEAST, rarity
from models.errors import ModelInputError
from models.features import ImageFeatures
from models.maps import interpolated
from tests.support.clip_stand_ins import PROMPTS, predicted, random_images, small_adapter, small_backbone

BACKBONE = small_backbone("resnet")
OPTIONS = {"memory_weight": 0.0, "memory_score_map": "memory"}


def features_of(*stages):
    """Of stages (B, C, h, w)."""
    tokens = tuple(stage.flatten(2).transpose(1, 2) for stage in stages)
    return ImageFeatures(torch.zeros(len(stages[0]), 4), tokens, tuple(tuple(stage.shape[2:]) for stage in stages))


@pytest.mark.parametrize("sides", [((6, 4), (6, 4)), ((28, 10), (14, 10))])
def test_it_is_the_mean_distance_to_the_nearest_quarter_of_the_other_patches(sides):
    (height, width), grid = sides
    random = torch.Generator().manual_seed(0)
    fine, coarse = (
        torch.randn(2, 5, height, width, generator=random),
        torch.randn(2, 7, grid[0] // 2, grid[1] // 2, generator=random),
    )
    found = rarity(features_of(torch.randn(2, 3, 12, 8, generator=random), fine, coarse), [1, 2])
    assert found.shape == (2, 1, *grid)
    for image in range(2):
        unit = fine[image] / fine[image].norm(dim=0)
        unit = unit if grid == (height, width) else F.adaptive_avg_pool2d(unit, grid)
        larger = (coarse[image] / coarse[image].norm(dim=0)).repeat_interleave(2, 1).repeat_interleave(2, 2)
        rows = torch.cat([unit, larger]).flatten(1).T.double().numpy()
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        plain = []
        for i, row in enumerate(rows):
            distances = sorted(1 - row @ other for j, other in enumerate(rows) if j != i)
            plain.append(np.mean(distances[: round(0.25 * len(distances))]))
        np.testing.assert_allclose(found[image, 0].flatten(), plain, atol=1e-5)


def test_the_odd_patch_is_the_rarest_and_a_single_one_is_no_error():
    stage = torch.ones(1, 4, 5, 5)
    stage[0, :, 3, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = rarity(features_of(stage), [0])
    assert int(found.argmax()) == 3 * 5 + 1
    assert found.min() >= -1e-5
    assert torch.isfinite(rarity(features_of(torch.ones(1, 4, 1, 1)), [0])).all()


@pytest.mark.parametrize("kind", ["linear", "context"])
@pytest.mark.parametrize("shots", [0, 2])
def test_its_logarithm_is_added_to_log_odds_unless_references_are_compared(kind, shots):
    images, adapter = random_images(4, BACKBONE.image_size), small_adapter(kind, BACKBONE)
    settings = {"rarity_weight": 2.0, "rarity_score_weight": 3.0, "rarity_stages": [1, 2], "rarity_usual": (0.4, 0.7)}
    without = predicted(BACKBONE, adapter, images, shots, **OPTIONS)
    found = predicted(BACKBONE, adapter, images, shots, **settings, **OPTIONS)
    if shots and kind == "context":
        assert_close(found.anomaly_maps, without.anomaly_maps, rtol=0, atol=0)
        assert_close(found.image_scores, without.image_scores, rtol=0, atol=0)
        return
    logs = (rarity(BACKBONE.encode_image(images), [0, 1]) + LEAST).log()
    size = (BACKBONE.image_size,) * 2
    added = 2 * interpolated(logs - math.log(0.4), size)[:, 0]
    highest = adapter.num_maps
    expected = highest * ((without.anomaly_maps / highest).logit(1e-6) + added).sigmoid()
    assert_close(found.anomaly_maps, expected, rtol=1e-4, atol=1e-5)
    if kind == "context":
        odds = without.image_scores.logit() + 3 * (logs.amax(dim=(1, 2, 3)) - math.log(0.7))
        assert_close(found.image_scores, odds.sigmoid(), rtol=1e-4, atol=1e-5)
    else:
        assert_close(found.image_scores, without.image_scores, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{"rarity_weight": -1}, {"rarity_score_weight": -1}, {"rarity_usual": (0.5,)}, {"rarity_stages": [9]}]
)
def test_wrong_settings_are_refused_by_name(options):
    with pytest.raises(ModelInputError, match=next(iter(options))):
        ClipAdapter(BACKBONE, small_adapter("linear", BACKBONE), PROMPTS, **options)
