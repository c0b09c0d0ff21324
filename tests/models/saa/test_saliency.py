"""Eq. 5 and the published code's saliency against plain re-derivations; few-shot; features; what must never fail."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from models.errors import ModelInputError
from models.images import Preprocess, resized
from models.saa.saliency import distances
from models.saa.saliency.features import ClipFeatures, load_wide_resnet
from models.saa.saliency.prompt import Saliency, shrunk
from tests.support.clip_stand_ins import small_backbone
from tests.support.sam_stand_ins import picture

GRID = (7, 9)


@pytest.fixture(scope="module")
def wide_resnet():
    return load_wide_resnet("random:1")


class GivenFeatures:
    """Features by image: the same picture always gives the same ones."""

    stage_widths = (4, 6)
    protocol = {"saliency_features": "given", "saliency_weights": "none"}  # noqa: RUF012

    def __init__(self, grid=GRID, positive=True):
        self.grid, self.positive, self.sizes = grid, positive, []

    def features(self, images, size):
        self.sizes.append(size)
        seed = int(images.long().sum()) % 2**31
        maps = torch.randn(1, 10, *self.grid, generator=torch.Generator().manual_seed(seed))
        return maps.relu() + 0.01 if self.positive else maps


def rows_of(net, image):
    maps = net.features(image[None], 0)[0].double().flatten(1).t()
    return (maps / maps.norm(dim=1, keepdim=True)).numpy()


def slow_single(rows, count, farthest, scale):
    """Row after row: all distances, sorted, the first `count` averaged."""
    out = np.zeros(len(rows))
    for i, row in enumerate(rows):
        distances = sorted(scale * (1 - rows[j] @ row) for j in range(len(rows)) if j != i)
        out[i] = np.mean((distances[::-1] if farthest else distances)[:count])
    return out


def slow_several(rows, members):
    """The published code's way: an instance's own features are zeroed, then it is compared with all others."""
    out = np.zeros(len(rows))
    for own in range(len(members)):
        left = np.where(members[own][:, None], 0, rows)
        others = np.concatenate([left[members[other]] for other in range(len(members)) if other != own])
        for patch in np.flatnonzero(members[own]):
            out[patch] = max(out[patch], 0.5 * (1 - max(others @ rows[patch])))
    return out


def at_grid(saliency, image, **arguments):
    """Saliency of an image of the grid's own size, which upsampling leaves alone."""
    assert tuple(image.shape[1:]) == GRID
    return saliency(image, **arguments).double().flatten().numpy()


@pytest.mark.parametrize(("rule", "farthest", "scale"), [("paper", False, 1.0), ("released", True, 0.5)])
@pytest.mark.parametrize(("count", "max_elements"), [(1, 1), (10, 500), (61, 2**24), (62, 2**24), (400, 500)])
def test_single_instance_is_the_mean_over_the_sorted_distances(rule, farthest, scale, count, max_elements, monkeypatch):
    monkeypatch.setattr(distances, "MAX_ELEMENTS", max_elements)
    net, image = GivenFeatures(), picture(*GRID)
    got = at_grid(Saliency(net, rule=rule, num_neighbours=count), image)
    np.testing.assert_allclose(got, slow_single(rows_of(net, image), count, farthest, scale), atol=1e-6)


def test_either_half_of_a_rule_can_be_exchanged():
    net, image = GivenFeatures(), picture(*GRID)
    mixed = Saliency(net, rule="paper", num_neighbours=10, neighbours="farthest", scale=0.5)
    published = Saliency(net, rule="released", num_neighbours=10)
    assert np.array_equal(at_grid(mixed, image), at_grid(published, image))
    assert (mixed.highest, published.highest, Saliency(net).highest) == (0.5, 0.5, 1.0)


def blocks(*corners):
    """Masks at the grid: (top, left, bottom, right) each."""
    masks = torch.zeros(len(corners), *GRID, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


SEVERAL = {
    "apart": blocks((0, 0, 3, 3), (4, 4, 7, 9), (0, 5, 2, 9)),
    "overlapping": blocks((0, 0, 5, 5), (2, 2, 7, 7), (4, 5, 7, 9)),
    "the same twice": blocks((0, 0, 3, 3), (0, 0, 3, 3), (4, 4, 7, 9)),
    "one in another": blocks((0, 0, 6, 6), (1, 1, 3, 3)),
    "nothing but the same": blocks((0, 0, 3, 3), (0, 0, 3, 3)),
}


@pytest.mark.parametrize("masks", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("max_elements", [1, 200, 2**24])
def test_several_instances_are_compared_with_each_other(masks, max_elements, monkeypatch):
    monkeypatch.setattr(distances, "MAX_ELEMENTS", max_elements)
    net, image = GivenFeatures(), picture(*GRID)
    got = at_grid(Saliency(net, rule="released"), image, objects=masks)
    np.testing.assert_allclose(got, slow_several(rows_of(net, image), masks.flatten(1).numpy()), atol=1e-6)
    in_parts = at_grid(Saliency(net, rule="released"), image, objects=iter(masks.split(2)))
    assert np.array_equal(in_parts, got)
    assert (got[~masks.any(dim=0).flatten().numpy()] == 0).all()


def test_several_instances_are_seen_at_a_larger_size():
    net, image = GivenFeatures(), picture(*GRID)
    saliency = Saliency(net, size=64, several_size=128)
    saliency(image)
    saliency(image, objects=SEVERAL["apart"])
    assert net.sizes == [64, 128]


@pytest.mark.parametrize(("sides", "seen"), [((40, 100), 100), ((200, 90), 128), ((9, 8), 32)])
def test_a_smaller_picture_is_not_enlarged_where_that_is_not_wanted(sides, seen):
    net = GivenFeatures()
    Saliency(net, size=128, several_size=128, enlarge=False)(picture(*sides))
    assert net.sizes == [seen]


def test_an_odd_patch_is_the_most_salient_where_it_lies():
    class Stripes:
        stage_widths, protocol = (2,), {}

        def features(self, images, size):
            maps = torch.zeros(1, 2, 16, 32)
            maps[:, 0] = 1
            maps[:, :, 10:12, 4:8] = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
            return maps

    for rule in ("paper", "released"):
        got = Saliency(Stripes(), rule=rule, num_neighbours=20)(picture(160, 320))
        row, column = divmod(int(got.argmax()), 320)
        assert 100 <= row < 120
        assert 40 <= column < 80
        assert got[20, 250] < 0.5 * got.max()


def test_stages_can_be_normalised():
    net, image = GivenFeatures(), picture(*GRID)
    raw = net.features(image[None], 0)
    stages = torch.cat([F.normalize(raw[:, :4], dim=1), F.normalize(raw[:, 4:], dim=1)], dim=1)
    rows = F.normalize(stages[0].double().flatten(1).t(), dim=1).numpy()
    saliency = Saliency(net, num_neighbours=7, normalise_stages=True)
    np.testing.assert_allclose(at_grid(saliency, image), slow_single(rows, 7, False, 1.0), atol=1e-6)
    assert saliency.protocol["saliency_options"] == "stages normalised"
    assert Saliency(net).protocol["saliency_options"] == "none"


@pytest.mark.parametrize("grid", [(7, 9), (64, 64), (1, 1)])
def test_masks_shrink_as_opencv_shrinks_them(grid):
    masks = torch.rand(3, 50, 77, generator=torch.Generator().manual_seed(0)) > 0.5
    expected = [
        cv2.resize(mask.numpy().astype(np.uint8), grid[::-1], interpolation=cv2.INTER_NEAREST) for mask in masks
    ]
    assert np.array_equal(shrunk(masks, grid).numpy(), np.stack(expected).astype(bool))


# Few-shot.

REFERENCES = [picture(*GRID, seed=seed) for seed in range(3)]


def test_references_replace_the_image_itself():
    net, image = GivenFeatures(), picture(*GRID, seed=9)
    saliency = Saliency(net, rule="released")
    before = at_grid(saliency, image)
    saliency.fit(REFERENCES, "nut")
    rows, bank = rows_of(net, image), np.concatenate([rows_of(net, each) for each in REFERENCES])
    expected = [0.5 * (1 - max(bank @ row)) for row in rows]
    np.testing.assert_allclose(at_grid(saliency, image, category="nut"), expected, atol=1e-6)
    np.testing.assert_allclose(at_grid(saliency, REFERENCES[1], category="nut"), 0, atol=1e-6)
    assert np.array_equal(at_grid(saliency, image), before)


def test_each_reference_is_scored_as_if_it_were_not_among_them():
    saliency = Saliency(GivenFeatures())
    saliency.fit(REFERENCES, "nut")
    for number, got in enumerate(saliency.reference_maps("nut")):
        other = Saliency(GivenFeatures())
        other.fit([each for i, each in enumerate(REFERENCES) if i != number], "nut")
        torch.testing.assert_close(got, other(REFERENCES[number], category="nut"))


def test_one_reference_is_compared_with_its_own_patches_farther_away():
    net, image = GivenFeatures(), picture(*GRID)
    saliency = Saliency(net, own_window=0.3)  # radius round(0.3 * 7 / 2) = 1
    saliency.fit([image], "nut")
    rows = rows_of(net, image)
    patch = [divmod(i, GRID[1]) for i in range(len(rows))]
    for i, value in enumerate(saliency.reference_maps("nut")[0].flatten().tolist()):
        far = [j for j, p in enumerate(patch) if max(abs(p[0] - patch[i][0]), abs(p[1] - patch[i][1])) > 1]
        assert value == pytest.approx(0.5 * (1 - max(rows[far] @ rows[i])), abs=1e-6)


def test_references_of_unlike_sizes_and_categories_by_themselves(wide_resnet):
    images = [picture(30, 40), picture(40, 30, seed=1), picture(8, 80, seed=2)]
    saliency = Saliency(wide_resnet, size=64)
    saliency.fit(images, "nut")
    before = saliency(images[0], category="nut")
    saliency.fit([picture(20, 20, seed=5)], "bolt")
    assert torch.equal(saliency(images[0], category="nut"), before)
    assert [tuple(each.shape) for each in saliency.reference_maps("nut")] == [(30, 40), (40, 30), (8, 80)]
    assert saliency(images[2], category="nut").max() < 1e-4 < saliency(picture(8, 80, seed=3), category="nut").max()
    saliency.fit(images[:1], "bolt")
    torch.testing.assert_close(saliency(images[0], category="bolt"), torch.zeros(30, 40), atol=1e-5, rtol=0)


def test_references_move_with_the_model():
    saliency, image = Saliency(GivenFeatures()), picture(*GRID, seed=9)
    saliency.fit(REFERENCES, "nut")
    before = saliency(image, category="nut")
    assert torch.equal(saliency.double().cpu()(image, category="nut"), before)
    saliency.to("meta")
    assert saliency._banks["nut"].references[0].tokens.is_meta


def test_unknown_categories_are_named_once_there_are_references():
    saliency, image = Saliency(GivenFeatures()), picture(*GRID)
    assert torch.equal(saliency(image, category="nut"), saliency(image))
    saliency.fit(REFERENCES, "nut")
    with pytest.raises(KeyError, match=r"bolt.*nut"):
        saliency(image, category="bolt")
    with pytest.raises(ModelInputError, match="at least one reference"):
        saliency.fit([], "nut")


# What must never fail.


@pytest.mark.parametrize("rule", ["paper", "released"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (40, 400)])
@pytest.mark.parametrize("level", [0, "noise"])
def test_any_image_gives_finite_saliency_of_its_size(rule, size, level):
    image = picture(*size) if level == "noise" else torch.full((3, *size), level, dtype=torch.uint8)
    saliency = Saliency(ClipFeatures(small_backbone("resnet")), rule=rule, size=64, several_size=64)
    half = torch.zeros(2, *size, dtype=torch.bool)
    half[0, :, : size[1] // 2], half[1, :, size[1] // 2 :] = True, True
    for got in (saliency(image), saliency(image, objects=half)):
        assert got.shape == size
        assert got.isfinite().all()
        assert (got >= 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_instances_give_zeros_and_a_log_line(count, caplog):
    image = picture(60, 80)
    with caplog.at_level(logging.WARNING):
        got = Saliency(GivenFeatures(), rule="released")(image, objects=torch.ones(count, 60, 80, dtype=torch.bool))
    assert torch.equal(got, torch.zeros(60, 80))
    assert f"{count} found" in caplog.text


def test_instances_too_small_to_see_are_left_out_with_a_log_line(caplog):
    image, masks = (
        picture(*(50 * side for side in GRID)),
        torch.zeros(3, *(50 * side for side in GRID), dtype=torch.bool),
    )
    masks[0, :100, :100], masks[1, 200:, 200:], masks[2, 1:3, 1:3] = True, True, True
    saliency = Saliency(GivenFeatures(), rule="released")
    with caplog.at_level(logging.WARNING):
        got = saliency(image, objects=masks)
    assert "1 of 3 are too small" in caplog.text
    assert torch.equal(got, saliency(image, objects=masks[:2]))
    assert got.max() > 0
    assert torch.equal(saliency(image, objects=masks[1:]), torch.zeros_like(got))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": torch.zeros(3, 9, 9)}, "uint8 RGB image"),
        ({"image": picture(9, 9), "objects": torch.ones(2, 8, 8, dtype=torch.bool)}, "objects"),
        ({"image": picture(9, 9), "objects": torch.ones(2, 9, 9)}, "objects"),
        ({"image": picture(9, 9), "objects": torch.ones(9, 9, dtype=torch.bool)}, "objects"),
    ],
    ids=["float", "size", "dtype", "axes"],
)
def test_wrong_images_and_masks_are_refused(arguments, words):
    with pytest.raises(ModelInputError, match=words):
        Saliency(GivenFeatures())(**arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "other"}, {"num_neighbours": 0}, {"neighbours": "all"}, {"scale": 0.0}, {"size": 16},
        {"several_size": 16}, {"own_window": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options_are_refused_by_name(options):
    with pytest.raises(ModelInputError, match=next(iter(options))):
        Saliency(GivenFeatures(), **options)


# Features.


def test_wide_resnet_features_are_its_joined_stages(wide_resnet):
    image = picture(50, 90)
    got = wide_resnet.features(image[None], 64)
    small = cv2.resize(image.permute(1, 2, 0).numpy(), (64, 64), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(small).float().permute(2, 0, 1)
    assert (resized(image[None], 64, antialias=False)[0] - pixels).abs().max() <= 1
    pixels = resized(image[None], 64, antialias=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    stages = wide_resnet.net((pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    expected = [stage.repeat_interleave(2**i, 2).repeat_interleave(2**i, 3) for i, stage in enumerate(stages)]
    assert got.shape == (1, 1792, 16, 16)
    assert wide_resnet.stage_widths == (256, 512, 1024)
    torch.testing.assert_close(got, torch.cat(expected, dim=1))


def test_wide_resnet_loads_a_classifiers_file_without_its_later_stages(wide_resnet, tmp_path):
    state = {**wide_resnet.net.state_dict(), "layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    save_file(state, tmp_path / "net.safetensors")
    loaded = load_wide_resnet(str(tmp_path / "net.safetensors"))
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    image = picture(40, 40)[None]
    assert torch.equal(loaded.features(image, 64), wide_resnet.features(image, 64))
    assert not loaded.train().training


def test_no_hub_is_asked_unless_named(monkeypatch):
    asked, net = [], torch.nn.ReLU()
    net.feature_info = SimpleNamespace(reduction=lambda: [4, 8, 16])
    monkeypatch.setattr(timm, "create_model", lambda *_, pretrained, **__: asked.append(pretrained) or net)
    load_wide_resnet("random:0")
    load_wide_resnet("timm")
    assert asked == [False, True]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_clip_features_are_the_towers_stages(kind):
    backbone = small_backbone(kind)
    net, image = ClipFeatures(backbone), picture(backbone.image_size, backbone.image_size)
    statistics: Preprocess = backbone.preprocess
    mean, std = torch.tensor(statistics.mean).view(3, 1, 1), torch.tensor(statistics.std).view(3, 1, 1)
    features = backbone.encode_image((image[None].float() / 255 - mean) / std)
    got = net.features(image[None], backbone.image_size)
    assert got.shape[1] == sum(net.stage_widths) == sum(backbone.stage_widths)
    for part, stage, grid in zip(got.split(list(net.stage_widths), 1), features.stages, features.grids, strict=True):
        maps = stage.transpose(1, 2).unflatten(2, grid)
        torch.testing.assert_close(part, F.interpolate(maps, got.shape[2:], mode="nearest"))


def test_clip_resnets_read_any_size_and_vits_their_own():
    resnet, vit = ClipFeatures(small_backbone("resnet"), stages=(1, 2)), ClipFeatures(small_backbone("vit"))
    assert resnet.features(picture(30, 50)[None], 64).shape == (1, sum(resnet.stage_widths), 16, 16)
    assert vit.features(picture(30, 50)[None], 256).shape[2:] == (6, 6)
    assert "always at 48 px" in str(vit.protocol["saliency_features"])
    with pytest.raises(ModelInputError, match="stages"):
        ClipFeatures(small_backbone("vit"), stages=(9,))


def test_the_protocol_says_what_was_computed():
    protocol = Saliency(ClipFeatures(small_backbone("resnet")), rule="released", num_neighbours=33).protocol
    assert "0.5 (1 - cosine) to the 33 farthest" in str(protocol["saliency"])
    assert "CLIP resnet" in str(protocol["saliency_features"])


def test_released_rules_show_the_net_what_opencv_would():
    net = ClipFeatures(small_backbone("resnet"), antialias=False)
    seen = []
    features = net.features
    net.features = lambda images, size: seen.append(images) or features(images, size)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 70), dtype=np.uint8))
    for rule in ("released", "paper"):
        Saliency(net, rule=rule, size=64, num_neighbours=5)(image)
    shown = cv2.resize(image.permute(1, 2, 0).numpy(), (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(seen[0][0].permute(1, 2, 0).numpy(), shown)
    assert seen[1].shape == (1, 3, 90, 70)
    labels = [Saliency(net, rule=rule).protocol["saliency_resize"] for rule in ("released", "paper")]
    assert labels == ["8 bits, as OpenCV's INTER_LINEAR", "as the features say"]
    averaging = ClipFeatures(small_backbone("resnet"), antialias=True)
    assert not Saliency(averaging, rule="released").opencv_resize
