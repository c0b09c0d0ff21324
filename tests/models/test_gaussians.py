"""The Gaussians of patches: distances against a plain loop, leaving out, moving; how its map joins the adapter's."""

import math

import pytest
import torch
from torch.testing import assert_close

from models.features import ImageFeatures
from models.gaussians import PatchGaussians
from models.maps import upsampled
from tests.support.clip_stand_ins import random_images, small_model

GRIDS = ((4, 6), (2, 3))


def features_of(count, seed, grids=GRIDS):
    generator = torch.Generator().manual_seed(seed)
    stages = tuple(3 * torch.randn(count, h * w, 5 + h, generator=generator) for h, w in grids)
    return ImageFeatures(torch.zeros(count, 2), stages, grids)


def plain_distances(references, image):
    """(h, w) of the first grid: inverse covariances written out, one place after the other."""
    h, w = GRIDS[0]
    found = torch.empty(h, w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            places = (y * w + x, (y // 2) * (w // 2) + x // 2)  # nearest of the coarser grid

            def vector(features, i, places=places):
                parts = [stage[i, place].double() for stage, place in zip(features.stages, places, strict=True)]
                return torch.cat([part / part.norm() for part in parts])

            known = torch.stack([vector(references, i) for i in range(len(references.embedding))])
            apart = vector(image, 0) - known.mean(dim=0)
            covariance = torch.cov(known.T) if len(known) > 1 else torch.zeros(len(apart), len(apart))
            inverse = torch.linalg.inv(covariance.double() + 0.01 * torch.eye(len(apart), dtype=torch.float64))
            found[y, x] = math.sqrt(apart @ inverse @ apart)
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_the_distance_is_that_to_the_gaussian_of_the_same_place(count):
    references, image = features_of(count, 0), features_of(1, 1)
    memory = PatchGaussians(references, (0, 1), 24, features_of(1, 2) if count == 1 else None)
    distance = upsampled(plain_distances(references, image).float().flatten()[None], GRIDS[0], 24, 4.0)
    if count == 1:
        left_out = [plain_distances(features_of(1, 2), references)]
    else:
        left_out = [plain_distances(references[[j for j in range(3) if j != i]], references[[i]]) for i in range(3)]
    maps = upsampled(torch.stack(left_out).float().flatten(1), GRIDS[0], 24, 4.0)
    mu = maps.amax(dim=(1, 2)).mean()
    assert_close(memory.maps(image), distance**2 / (distance**2 + mu**2), rtol=1e-4, atol=1e-4)
    assert_close(memory.left_out, maps**2 / (maps**2 + mu**2), rtol=1e-4, atol=1e-4)


def test_many_references_are_left_out_in_parts():
    references = features_of(17, 0)  # in parts of 3, the last of 2
    distances = [plain_distances(references[slice(3, None)], references[[i]]) for i in range(3)]
    memory = PatchGaussians(references, (0, 1), 24)
    maps = upsampled(torch.stack(distances).float().flatten(1), GRIDS[0], 24, 4.0)
    odds = memory.left_out[:3] / (1 - memory.left_out[:3])  # (d / mu)^2
    assert_close((odds / maps**2).sqrt(), (1 / memory._typical_max).expand_as(maps), rtol=1e-3, atol=1e-4)


def test_one_stage_alone_reads_that_stage():
    references, image = features_of(2, 0), features_of(1, 1)
    changed = ImageFeatures(image.embedding, (image.stages[0] + 1, image.stages[1]), GRIDS)
    memory = PatchGaussians(references, (1,), 24)
    assert_close(memory.maps(changed), memory.maps(image))
    assert memory.maps(image).shape == (1, 24, 24)


def test_alignment_tells_parts_that_lie_alike_from_textures():
    generator = torch.Generator().manual_seed(0)
    part, noise = torch.randn(1, 24, 8, generator=generator), torch.randn(4, 24, 8, generator=generator)

    def alignment(tokens, flipped=None):
        embedding = torch.zeros(len(tokens), 2)
        features = ImageFeatures(embedding, (tokens,), ((4, 6),))
        other = None if flipped is None else ImageFeatures(embedding, (flipped,), ((4, 6),))
        return PatchGaussians(features, (0,), 24, other).alignment.item()

    assert alignment(part.repeat(4, 1, 1)) == pytest.approx(1, abs=0.01)
    assert alignment(noise) < 0.1
    assert 0.5 < alignment(part + 0.2 * noise) < 0.95
    assert alignment(part, part) == pytest.approx(1, abs=0.01)
    assert alignment(noise[:1], noise[1:2]) < 0.1
    assert alignment(torch.ones(3, 24, 8)) == 0


@pytest.mark.parametrize("memory_weight", [0.0, 0.5])
@pytest.mark.parametrize("shots", [1, 3])
def test_the_gaussians_have_their_share_of_the_map_and_none_of_the_score(memory_weight, shots):
    references, images = random_images(shots, 96, seed=1), random_images(2, 96)
    options = {"memory_weight": memory_weight, "memory_score_map": "memory"}
    without, model = small_model("resnet", **options), small_model("resnet", gaussian_weight=0.3, **options)
    for each in (without, model):
        each.fit(references, "nut")
    gaussians = model._fitted["nut"].gaussians
    share = min(0.3, gaussians.alignment.item())
    got, plain = model.predict(images, ["nut"] * 2), without.predict(images, ["nut"] * 2)
    highest = 3 + 3 * memory_weight
    joined = (1 - share) * plain.anomaly_maps + share * highest * gaussians.maps(model.backbone.encode_image(images))
    assert share > 0
    assert_close(got.anomaly_maps, joined, rtol=1e-4, atol=1e-5)
    assert_close(got.image_scores, plain.image_scores, rtol=1e-5, atol=1e-6)
    known, known_plain = model.reference_prediction("nut"), without.reference_prediction("nut")
    assert_close(known.anomaly_maps, (1 - share) * known_plain.anomaly_maps + share * highest * gaussians.left_out)
    assert "same patch, stages 1 2 3" in model.protocol["few_shot_map"]
    assert "same patch" not in without.protocol["few_shot_map"]


def test_each_image_meets_the_gaussians_of_its_own_category():
    model = small_model("resnet", gaussian_weight=0.5)
    for name, seed in (("nut", 1), ("bolt", 2)):
        model.fit(random_images(2, 96, seed=seed), name)
    images = random_images(2, 96)
    both = model.predict(images, ["nut", "bolt"]).anomaly_maps
    for i, name in enumerate(("nut", "bolt")):
        assert_close(both[i : i + 1], model.predict(images[i : i + 1], [name]).anomaly_maps, rtol=1e-4, atol=1e-5)


def test_what_is_kept_by_stage_gives_the_same_maps_to_the_bit():
    references, image = features_of(3, 0), features_of(1, 1)
    memory, other = PatchGaussians(references, (0, 1), 24), PatchGaussians(features_of(4, 2), (0, 1), 24)
    kept = memory.tensors()
    assert kept["mean1"].shape == (6, 7)
    assert kept["centred1"].shape == (6, 3, 7)
    again = PatchGaussians.of_tensors(kept, (0, 1), 24)
    expected = memory.maps(image)
    assert torch.equal(again.maps(image), expected)
    assert_close(other.by_stage(again.stage_tensors()).maps(image), expected, rtol=1e-5, atol=1e-6)
