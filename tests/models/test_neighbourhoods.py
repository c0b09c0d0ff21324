"""The neighbourhoods of patches: against plain loops; left out; how their map joins the others."""

import pytest
import torch
from torch.testing import assert_close

from models.features import ImageFeatures
from models.maps import interpolated
from models.neighbourhoods import Neighbourhoods, joined_neighbourhoods
from tests.support.clip_stand_ins import SIZES, random_images, small_model

GRIDS = ((8, 12), (4, 6))


def features_of(count, seed, grids=GRIDS):
    generator = torch.Generator().manual_seed(seed)
    stages = tuple(3 * torch.randn(count, h * w, 5 + h, generator=generator) for h, w in grids)
    return ImageFeatures(torch.zeros(count, 2), stages, grids)


def plain_neighbourhoods(features):
    """(K, h, w, C) on the grid of the second stage, one after the other: 4 x 4 patches of the first, 3 x 3 of it."""
    first, second = (
        stage.unflatten(1, grid).double() for stage, grid in zip(features.stages, features.grids, strict=True)
    )
    h, w = features.grids[1]
    rows = []
    for y in range(h):
        for x in range(w):
            around = (
                first[:, max(0, 2 * y - 1) : 2 * y + 3, max(0, 2 * x - 1) : 2 * x + 3],
                second[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2],
            )
            means = [part.mean(dim=(1, 2)) for part in around]
            joined = torch.cat([mean / mean.norm(dim=1, keepdim=True) for mean in means], dim=1)
            rows.append(joined / joined.norm(dim=1, keepdim=True))
    return torch.stack(rows, dim=1).unflatten(1, (h, w))


def plain_distance(image, known):
    """(h, w) to the nearest of (K, h', w', C)."""
    return 1 - (image @ known.flatten(0, 2).T).amax(dim=2)


def test_neighbourhoods_are_means_of_twice_a_patch():
    features = features_of(2, 0)
    tokens, grid = joined_neighbourhoods(features, (0, 1))
    assert grid == GRIDS[1]
    assert_close(tokens.unflatten(1, grid).double(), plain_neighbourhoods(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_the_distance_is_that_to_the_nearest_of_every_second_one(count):
    references, image = features_of(count, 0), features_of(1, 1)
    memory = Neighbourhoods(references, (0, 1), 24)
    known = plain_neighbourhoods(references)
    thinned = known[:, ::2, ::2]
    left_out = torch.stack(
        [plain_distance(known[i], thinned[[j for j in range(count) if j != i]]) for i in range(count)]
    )
    mu = left_out.amax(dim=(1, 2)).mean()

    def mapped(distance):
        return interpolated((distance**4 / (distance**4 + mu**4))[:, None].float(), (24, 24))[:, 0]

    distance = plain_distance(plain_neighbourhoods(image)[0], thinned)[None]
    assert_close(memory.maps(image), mapped(distance), rtol=1e-4, atol=1e-5)
    assert_close(memory.left_out, mapped(left_out), rtol=1e-4, atol=1e-5)


def test_a_single_reference_is_left_out_by_a_window():
    references = features_of(1, 0)
    memory = Neighbourhoods(references, (1,), 24, own_window=0.9)  # a cell to either side
    known = joined_neighbourhoods(references, (1,))[0][0].unflatten(0, GRIDS[1])
    far = [
        1 - max(float(known[y, x] @ known[v, u]) for v in range(4) for u in range(6) if max(abs(v - y), abs(u - x)) > 1)
        for y in range(4)
        for x in range(6)
    ]
    assert memory.typical_max.item() == pytest.approx(max(far), abs=1e-5)
    assert memory.maps(references).amax() == 0  # nothing is thinned


def test_what_is_kept_gives_the_same_maps_to_the_bit():
    references, image = features_of(3, 0), features_of(2, 1)
    memory = Neighbourhoods(references, (0, 1), 24)
    again = Neighbourhoods.of_tensors(memory.tensors(), (0, 1), 24)
    assert torch.equal(again.maps(image), memory.maps(image))


@pytest.mark.parametrize("gaussian_weight", [0.0, 0.5])
def test_they_have_their_share_of_the_map_less_that_of_the_gaussians(gaussian_weight):
    references, images = random_images(3, SIZES["vit"], seed=1), random_images(2, SIZES["vit"])
    options = {"memory_score_map": "memory", "gaussian_weight": gaussian_weight, "memory_weight": 0.5}
    without, model = small_model("vit", **options), small_model("vit", neighbourhood_weight=0.3, **options)
    for each in (without, model):
        each.fit(references, "nut")
    fitted = model._fitted["nut"]
    share = 0.3
    if gaussian_weight:
        share *= 1 - min(gaussian_weight, fitted.gaussians.alignment.item()) / gaussian_weight
        assert share > 0
    got, plain = model.predict(images, ["nut"] * 2), without.predict(images, ["nut"] * 2)
    highest = model.adapter.num_maps + 0.5 * len(model.memory_stages)
    seen = fitted.neighbourhoods.maps(model.backbone.encode_image(images))
    assert_close(got.anomaly_maps, (1 - share) * plain.anomaly_maps + share * highest * seen, rtol=1e-4, atol=1e-5)
    assert_close(got.image_scores, plain.image_scores, rtol=1e-5, atol=1e-6)
    known, known_plain = (each.reference_prediction("nut").anomaly_maps for each in (model, without))
    assert_close(known, (1 - share) * known_plain + share * highest * fitted.neighbourhoods.left_out)
    assert "neighbourhood" not in without.protocol["few_shot_map"]


def test_each_image_meets_the_neighbourhoods_of_its_own_category():
    model = small_model("vit", neighbourhood_weight=0.5)
    for name, seed in (("nut", 1), ("bolt", 2)):
        model.fit(random_images(2, SIZES["vit"], seed=seed), name)
    images = random_images(3, SIZES["vit"])
    names = ["nut", "bolt", "nut"]
    both = model.predict(images, names).anomaly_maps
    for i, name in enumerate(names):
        assert_close(both[i : i + 1], model.predict(images[i : i + 1], [name]).anomaly_maps, rtol=1e-4, atol=1e-5)
