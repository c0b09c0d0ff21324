"""The memory of places: distances against a plain loop, leaving out, moving; how its map joins the adapter's."""

import math

import pytest
import torch
from torch.testing import assert_close

from models.clip_adapter.features import ImageFeatures
from models.clip_adapter.place_memory import PlaceMemory
from models.errors import ModelInputError
from models.maps import upsampled
from tests.unit.clip_stand_ins import random_images, small_model

GRIDS = ((4, 6), (2, 3))
MIXED = {"memory_kind": "place", "memory_calibrated": True, "memory_weight": 0.3, "memory_score_map": "memory"}


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
    expected = plain_distances(references, image).float().flatten()[None]
    got = PlaceMemory(references, (0, 1), 24).maps(image)
    assert_close(got, upsampled(expected, GRIDS[0], 24, 4.0), rtol=1e-4, atol=1e-4)


def test_a_reference_is_left_out_and_a_single_one_meets_its_mirror_image():
    references, mirrored = features_of(3, 0), features_of(1, 2)
    left_out = PlaceMemory(references, (0, 1), 24).left_out(references)[0]
    for i, others in enumerate(([1, 2], [0, 2], [0, 1])):
        assert_close(left_out[i : i + 1], PlaceMemory(references[others], (0, 1), 24).maps(references[[i]]))
    single = PlaceMemory(references[:1], (0, 1), 24, mirrored)
    assert_close(single.maps(references[:1]), torch.zeros(1, 24, 24), rtol=0, atol=1e-2)
    assert_close(single.left_out(references[:1])[0], PlaceMemory(mirrored, (0, 1), 24).maps(references[:1]))


def test_many_references_are_left_out_in_parts():
    references = features_of(17, 0)
    left_out = PlaceMemory(references, (0, 1), 24).left_out(references)[0]
    first = PlaceMemory(references[slice(3, None)], (0, 1), 24).maps(references[slice(3)])  # parts of 3, the last of 2
    last = PlaceMemory(references[slice(15)], (0, 1), 24).maps(references[slice(15, None)])
    assert_close(left_out[:3], first)
    assert_close(left_out[15:], last)


def test_one_stage_alone_reads_that_stage():
    references, image = features_of(2, 0), features_of(1, 1)
    changed = ImageFeatures(image.embedding, (image.stages[0] + 1, image.stages[1]), GRIDS)
    memory = PlaceMemory(references, (1,), 24)
    assert_close(memory.maps(changed), memory.maps(image))
    assert memory.maps(image).shape == (1, 24, 24)


@pytest.mark.parametrize("kind", ["nearest", "place"])
@pytest.mark.parametrize("shots", [1, 3])
def test_a_calibrated_map_joins_by_its_share(kind, shots):
    references, images = random_images(shots, 96, seed=1), random_images(2, 96)
    model = small_model("resnet", **{**MIXED, "memory_kind": kind, "memory_score_weight": 0.25})
    zero_shot = model.predict(images, ["nut"] * 2)
    model.fit(references, "nut")
    fitted, features = model._fitted["nut"], model.backbone.encode_image(images)
    memory, known = fitted.memory.maps(features), model.backbone.encode_image(references)
    left_out = fitted.memory.left_out(known)
    left_out, most = (left_out, 0.3) if kind == "nearest" else (left_out[0], min(0.3, left_out[1]))
    mu = left_out.amax(dim=(1, 2)).mean()
    got = model.predict(images, ["nut"] * 2)
    calibrated = 3 * memory**2 / (memory**2 + mu**2)
    assert_close(got.anomaly_maps, (1 - most) * zero_shot.anomaly_maps + most * calibrated, rtol=1e-4, atol=1e-5)
    m = memory.amax(dim=(1, 2))
    assert_close(got.image_scores, 0.75 * zero_shot.image_scores + 0.25 * m**4 / (m**4 + mu**4), rtol=1e-4, atol=1e-5)
    assert got.anomaly_maps.max() <= model.protocol["few_shot_map_bound"] == 3
    assert ("references' alignment" in model.protocol["few_shot_map"]) == (kind == "place")


def test_alignment_tells_parts_that_lie_alike_from_textures():
    generator = torch.Generator().manual_seed(0)
    part, noise = torch.randn(1, 24, 8, generator=generator), torch.randn(4, 24, 8, generator=generator)

    def alignment(tokens, mirrored=None):
        embedding = torch.zeros(len(tokens), 2)
        features = ImageFeatures(embedding, (tokens,), ((4, 6),))
        other = None if mirrored is None else ImageFeatures(embedding, (mirrored,), ((4, 6),))
        return PlaceMemory(features, (0,), 24, other).left_out(features)[1]

    assert alignment(part.repeat(4, 1, 1)) == pytest.approx(1, abs=0.01)
    assert alignment(noise) < 0.1
    assert 0.5 < alignment(part + 0.2 * noise) < 0.95
    assert alignment(part, part) == pytest.approx(1, abs=0.01)
    assert alignment(noise[:1], noise[1:2]) < 0.1
    flat = torch.ones(3, 24, 8)
    assert alignment(flat) == 0


def test_the_protocol_says_what_is_measured_and_gives_no_bound_that_is_none():
    added = small_model("resnet", memory_kind="place")
    assert "few_shot_map_bound" not in added.protocol
    assert "same place, stages 1 2 3" in added.protocol["few_shot_map"]
    assert "mirror image" in added.protocol["few_shot_calibration"]
    assert small_model("resnet").protocol["few_shot_map_bound"] == 6
    assert small_model("resnet", memory_weight=0.0).protocol["few_shot_map_bound"] == 3


@pytest.mark.parametrize("other", [{"memory_weight": 1.5}, {"memory_score_map": "combined"}])
def test_a_calibrated_map_needs_a_share_and_its_own_maximum(other):
    with pytest.raises(ModelInputError, match=r"memory_weight at most 1 and memory_score_map .memory."):
        small_model("resnet", **{**MIXED, **other})
