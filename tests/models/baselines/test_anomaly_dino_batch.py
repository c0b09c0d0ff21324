"""Batched AnomalyDINO against an obvious slow version: all distances at once, sorted."""

import pytest
import torch
from torch.testing import assert_close

from models.baselines.anomaly_dino_batch import AnomalyDINOBatch
from models.contract import together
from models.errors import ModelInputError
from models.maps import top_mean
from models.mutual import lowest_means
from tests.models.baselines.test_anomaly_dino import image, tokens_of
from tests.support.baseline_stand_ins import small_vit

SIZES = [(60, 70), (70, 60), (56, 56), (60, 110), (64, 64)]


def model(**options) -> AnomalyDINOBatch:
    return AnomalyDINOBatch(small_vit(final_norm=True), **{"map_size": 40, "share": 0.1, **options})


def expected_means(patches: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    means = []
    for i, own in enumerate(patches):
        others = torch.cat([each for j, each in enumerate(patches) if j != i])
        distances = (1 - own @ others.T).sort(dim=1).values
        rows = []
        for row in distances:
            below = row[row < row[max(1, int(share * len(others))) - 1]]
            rows.append(below.mean() if len(below) else row[0])
        means.append(torch.stack(rows))
    return means


def test_the_means_below_the_quantile_are_those_of_all_distances_whatever_the_block():
    generator = torch.Generator().manual_seed(0)
    patches = [torch.randn(count, 8, generator=generator, dtype=torch.float64) for count in (5, 9, 7, 1, 12)]
    patches = [torch.nn.functional.normalize(each, dim=1) for each in patches]
    patches[1][:3] = patches[0][:3]  # ties
    for share in (0.01, 0.1, 0.5, 1.0):
        for max_elements in (1, 30, 150, 10**6):
            found = lowest_means(patches, share, device=torch.device("cpu"), max_elements=max_elements)
            for one, other in zip(found, expected_means(patches, share), strict=True):
                assert_close(one, other)


@pytest.mark.parametrize("options", [{}, {"memory_mb": 0, "max_elements": 100}])
def test_maps_and_scores_of_images_of_unlike_sizes_follow_from_the_means(options):
    built = model(side=84, **options)
    images = [image(*size, seed) for seed, size in enumerate(SIZES)]
    tokens = [tokens_of(built.one, each) for each in images]
    means = expected_means([each.flatten(0, 1) for each in tokens], 0.1)
    found = together(built, images, at_once=2)
    for i, (mean, each) in enumerate(zip(means, tokens, strict=True)):
        assert_close(found.image_scores[i], top_mean(mean[None], 0.01)[0], rtol=1e-4, atol=1e-6)
        grid = (each.shape[0], each.shape[1])
        anomaly_map, _ = built.one._assessed(mean, grid, SIZES[i])
        assert_close(found.anomaly_maps[i], anomaly_map, rtol=1e-4, atol=1e-6)
    assert found.image_scores.std() > 0


def test_masked_patches_are_0_and_what_is_no_share_is_said():
    built = model(masking=["nut"])
    built.one._mask = lambda tokens, grid, category: torch.zeros(len(tokens), dtype=torch.bool)
    assert together(built, [image(60, 60, 1), image(60, 60, 2)]).anomaly_maps.abs().max() == 0
    for share in (0, 1.5):
        with pytest.raises(ModelInputError, match="share"):
            model(share=share)
