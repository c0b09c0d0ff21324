"""The Gaussian of all fine patches: against plain NumPy; left out; of an image's own; how its map joins the others."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.features import ImageFeatures
from models.frozen import one_graph
from models.maps import interpolated
from models.texture import LEAST_MAX, REGULARISATION, Texture, fine_patches, own_texture
from tests.support.clip_stand_ins import PROMPTS, predicted, random_images, small_adapter, small_backbone

GRID = (16, 24)
BACKBONE = small_backbone("timm")


def features_of(count, seed, apart=0.0, grid=GRID):
    """Noise on a constant; the left half of each image is so far apart from the right one."""
    fine = torch.randn(count, 5, *grid, generator=torch.Generator().manual_seed(seed)) + 2
    fine[:, 0, :, : grid[1] // 2] += apart
    return ImageFeatures(torch.zeros(count, 2), (), (), fine)


def plain_patches(features):
    """(K, h, w, C): the mean of each cell, of length 1, and of its neighbours; at the border that of the third one."""
    cells = features.fine.double().numpy()
    cells = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    h, w = GRID
    around = [
        [cells[:, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean(axis=(2, 3)) for x in range(w)]
        for y in range(h)
    ]
    means = np.array(around).transpose(2, 0, 1, 3)
    return np.pad(means[:, 2:-2, 2:-2], ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")


def plain_distance(image, known):
    """(h, w) of (h, w, C) to the Gaussian of (K, h, w, C)."""
    rows = known.reshape(-1, known.shape[-1])
    covariance = np.cov(rows, rowvar=False, bias=True) + REGULARISATION * np.eye(rows.shape[1])
    apart = image - rows.mean(axis=0)
    return torch.from_numpy(np.sqrt(np.einsum("hwi,ij,hwj->hw", apart, np.linalg.inv(covariance), apart)))


def test_patches_are_means_of_nine_cells_of_length_one():
    features = features_of(2, 0)
    assert_close(fine_patches(features).permute(0, 2, 3, 1).numpy(), plain_patches(features).astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_map_is_that_of_the_mahalanobis_distance_and_references_are_left_out_of_each_other(count):
    references, image = features_of(count, 0), features_of(1, 1)
    texture = Texture(references, 48)
    known = plain_patches(references)
    others = [[n for n in range(count) if n != k] or [k] for k in range(count)]
    left_out = torch.stack([plain_distance(known[k], known[rest]) for k, rest in enumerate(others)])
    mu = left_out.amax(dim=(1, 2)).mean().clamp(min=LEAST_MAX)

    def mapped(found):
        return interpolated((found**4 / (found**4 + mu**4))[:, None].float(), (48, 48))[:, 0]

    assert texture.typical_max.item() == pytest.approx(mu.item(), rel=1e-4)
    assert_close(texture.left_out, mapped(left_out), rtol=1e-3, atol=1e-5)
    assert_close(
        texture.maps(image), mapped(plain_distance(plain_patches(image)[0], known)[None]), rtol=1e-3, atol=1e-5
    )


def test_the_distance_within_an_image_is_the_same_in_one_graph():
    features = features_of(3, 0, apart=4.0)
    found, evenness = own_texture(features)
    patches = plain_patches(features)
    expected = torch.stack([plain_distance(each, each[None]) for each in patches])
    assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)
    with one_graph():
        again, other = own_texture(features)
    assert_close(again, found, rtol=1e-4, atol=1e-5)
    assert_close(other, evenness, rtol=1e-5, atol=1e-6)


def test_materials_are_even_and_parts_are_not():
    material, part = features_of(2, 0, grid=(96, 96)), features_of(2, 0, apart=4.0, grid=(96, 96))
    assert Texture(material, 48).evenness > 0.6
    assert Texture(part, 48).evenness == 0
    assert (own_texture(material)[1] > 0.6).all()
    assert (own_texture(part)[1] == 0).all()


def test_a_picture_of_one_colour_has_nothing_odd():
    flat = ImageFeatures(torch.zeros(2, 2), (), (), torch.ones(2, 5, *GRID))
    found, evenness = own_texture(flat)
    assert found.amax() < 1e-3
    assert torch.isfinite(evenness).all()
    noise = 0.01 * torch.randn(flat.fine.shape, generator=torch.Generator().manual_seed(0))
    assert Texture(flat, 48).maps(ImageFeatures(flat.embedding, (), (), flat.fine + noise)).amax() < 0.01


def test_what_is_kept_gives_the_same_maps_to_the_bit():
    texture, image = Texture(features_of(3, 0), 48), features_of(2, 1)
    assert torch.equal(Texture.of_tensors(texture.tensors(), 48).maps(image), texture.maps(image))


@pytest.mark.parametrize("kind", ["linear", "context"])
def test_it_has_a_share_of_the_map_as_far_as_references_are_even(kind):
    adapter = small_adapter(kind, BACKBONE)
    references, images = random_images(3, BACKBONE.image_size, seed=1), random_images(2, BACKBONE.image_size)
    options = {"memory_score_map": "memory", "gaussian_weight": 0.5, "neighbourhood_weight": 0.25}
    without = ClipAdapter(BACKBONE, adapter, PROMPTS, **options).eval()
    model = ClipAdapter(BACKBONE, adapter, PROMPTS, texture_weight=0.6, **options).eval()
    for each in (without, model):
        each.fit(references, "nut")
    texture = model._fitted["nut"].texture
    share = 0.6 * texture.evenness.item()
    assert share > 0.1
    highest = adapter.num_maps + len(model.memory_stages)
    got, plain = model.predict(images, ["nut"] * 2), without.predict(images, ["nut"] * 2)
    seen = texture.maps(BACKBONE.encode_image(images))
    assert_close(got.anomaly_maps, (1 - share) * plain.anomaly_maps + share * highest * seen, rtol=1e-4, atol=1e-5)
    assert_close(got.image_scores, plain.image_scores, rtol=1e-5, atol=1e-6)
    known, known_plain = (each.reference_prediction("nut").anomaly_maps for each in (model, without))
    assert_close(known, (1 - share) * known_plain + share * highest * texture.left_out, rtol=1e-4, atol=1e-5)
    again = ClipAdapter(BACKBONE, adapter, PROMPTS, texture_weight=0.6, **options).eval()
    again.load_state(model.state("nut"), "nut", references)
    assert torch.equal(again.predict(images, ["nut"] * 2).anomaly_maps, got.anomaly_maps)
    again.load_state(without.state("nut"), "nut", references)  # of a file that knows no texture
    assert torch.equal(again.predict(images, ["nut"] * 2).anomaly_maps, plain.anomaly_maps)


@pytest.mark.parametrize("kind", ["linear", "context"])
@pytest.mark.parametrize("shots", [0, 2])
def test_its_logarithm_within_the_image_is_added_unless_references_are_compared(kind, shots):
    adapter, images = small_adapter(kind, BACKBONE), random_images(4, BACKBONE.image_size)
    options = {"memory_weight": 0.0, "memory_score_weight": 0.0}
    settings = {"own_texture_weight": 0.5, "own_texture_even": 2.0, "own_texture_usual": 3.0}
    without = predicted(BACKBONE, adapter, images, shots, **options)
    found = predicted(BACKBONE, adapter, images, shots, **settings, **options)
    assert_close(found.image_scores, without.image_scores, rtol=0, atol=0)
    if shots and kind == "context":
        assert_close(found.anomaly_maps, without.anomaly_maps, rtol=0, atol=0)
        return
    apart, evenness = own_texture(BACKBONE.encode_image(images))
    logs = (apart + 1e-6).log() - math.log(3.0)
    added = (0.5 + 2 * evenness)[:, None, None] * interpolated(logs[:, None], (BACKBONE.image_size,) * 2)[:, 0]
    highest = adapter.num_maps
    expected = highest * ((without.anomaly_maps / highest).logit(1e-6) + added).sigmoid()
    assert_close(found.anomaly_maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"texture_weight": 1.5}, {"own_texture_weight": -1}, {"own_texture_even": -1}, {"own_texture_usual": 0}],
)
def test_wrong_settings_are_refused_by_name(options):
    with pytest.raises(ModelInputError, match=next(iter(options))):
        ClipAdapter(BACKBONE, small_adapter("linear", BACKBONE), PROMPTS, **options)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("name", ["texture_weight", "own_texture_weight", "own_texture_even"])
def test_nets_without_fine_maps_are_refused(kind, name):
    backbone = small_backbone(kind)
    assert backbone.encode_image(random_images(1, backbone.image_size)).fine is None
    with pytest.raises(ModelInputError, match=f"{name} to be 0 with {kind}"):
        ClipAdapter(backbone, small_adapter("linear", backbone), PROMPTS, **{name: 0.5})
