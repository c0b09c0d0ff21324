"""PatchCore, PaDiM and SPADE: their formulas re-derived, planted defects found, the timm backbones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.baselines.spade import SPADE
from models.baselines.subspace_ad import SubspaceAD
from models.errors import ModelInputError
from models.imagenet.backbone import load_timm_backbone
from models.maps import upsampled
from tests.support.baseline_stand_ins import small_resnet


@pytest.fixture(scope="module")
def resnet():
    return small_resnet(96)


def planted(count, size=96, defect=False):
    """Smooth random pictures; the last carries a checkered square."""
    generator = torch.Generator().manual_seed(3)
    base = torch.nn.functional.interpolate(torch.randn(1, 3, 6, 6, generator=generator), (size, size), mode="bicubic")
    images = base + 0.05 * torch.randn(count, 3, size, size, generator=generator)
    if defect:
        y = torch.arange(24)
        images[-1, :, 40:64, 16:40] = 4.0 * ((y[:, None] // 4 + y // 4) % 2) - 2
    return images


BUILT = {
    "patchcore": lambda backbone: PatchCore(backbone),
    "padim": lambda backbone: PaDiM(backbone, num_channels=100),
    "spade": lambda backbone: SPADE(backbone),
    "subspace_ad": lambda backbone: SubspaceAD(backbone, rotations=0),
}


@pytest.mark.parametrize("name", BUILT)
def test_a_planted_defect_is_where_the_map_is_highest(name, resnet):
    model = BUILT[name](resnet)
    images = planted(6, defect=True)
    model.fit(images[:4], "nut")
    prediction = model.predict(images[4:], ["nut", "nut"])
    y, x = divmod(int(prediction.anomaly_maps[1].argmax()), 96)
    assert 36 <= y < 68
    assert 12 <= x < 44
    assert prediction.image_scores[1] > 1.5 * prediction.image_scores[0]
    assert prediction.image_scores[1] > 1.5 * model.reference_prediction("nut").image_scores.max()


def test_padim_draws_its_channels_by_seed(resnet):
    models = [PaDiM(resnet, num_channels=30, seed=seed) for seed in (0, 0, 1)]
    channels = [model.channels.tolist() for model in models]
    assert channels[0] == channels[1] != channels[2]
    assert len(set(channels[0])) == 30
    assert PaDiM(resnet, num_channels=10**6).num_channels == sum(resnet.stage_widths[:3])


def test_spades_map_and_score_are_those_of_a_loop(resnet):
    model = SPADE(resnet, stages=[3], num_images=2, num_patches=1, sigma=0)
    images = planted(5, defect=True)
    model.fit(images[:4], "nut")
    got = model.predict(images[4:], ["nut"])
    seen, known = resnet.encode_image(images[4:]), resnet.encode_image(images[:4])
    apart = (known.embedding - seen.embedding).norm(dim=1)
    two = apart.argsort()[:2]
    assert_close(got.image_scores[0], apart[two].square().mean(), rtol=1e-4, atol=1e-5)
    places = known.stages[2][two].flatten(0, 1)
    distances = torch.stack([(places - place).norm(dim=1).min() for place in seen.stages[2][0]])
    assert_close(got.anomaly_maps, upsampled(distances[None], seen.grids[2], 96, 0), rtol=1e-4, atol=1e-4)


def test_patchcores_coreset_keeps_the_share_and_scores_no_lower(resnet):
    images = planted(5, defect=True)
    whole, reduced = PatchCore(resnet, sigma=0), PatchCore(resnet, coreset=0.1, sigma=0)
    for model in (whole, reduced):
        model.fit(images[:4], "nut")
    assert len(reduced._states["nut"]["bank"]) == round(0.1 * len(whole._states["nut"]["bank"]))
    maps = [model.predict(images[4:], ["nut"]).anomaly_maps for model in (whole, reduced)]
    assert (maps[1] >= maps[0] - 1e-4).all()


@pytest.mark.parametrize(
    ("name", "widths"), [("wide_resnet50_2", (256, 512, 1024, 2048)), ("resnet18", (64, 128, 256, 512))]
)
def test_the_published_architectures_build_with_random_weights_and_see_one_image(name, widths):
    backbone = load_timm_backbone(name, weights="random:0", image_size=64)
    features = backbone.encode_image(torch.randn(1, 3, 64, 64))
    assert backbone.stage_widths == widths
    assert features.grids == ((16, 16), (8, 8), (4, 4), (2, 2))
    assert features.embedding.shape == (1, widths[-1])
    assert [stage.shape[2] for stage in features.stages] == list(widths)


@pytest.mark.parametrize("deepest", [1, 3])
def test_stages_that_are_not_needed_are_not_computed(resnet, deepest):
    images, ran = planted(2), []
    hook = resnet.net["layer4"].register_forward_hook(lambda *_: ran.append("layer4"))
    whole, part = resnet.encode_image(images), resnet.encode_image(images, deepest=deepest)
    model = PatchCore(resnet)
    model.fit(images, "nut")
    model.predict(images, ["nut", "nut"])
    hook.remove()
    assert ran == ["layer4"]
    assert part.grids == whole.grids[:deepest]
    assert len(part.stages) == deepest
    for some, every in zip(part.stages, whole.stages, strict=False):
        assert torch.equal(some, every)
    assert_close(part.embedding, whole.stages[deepest - 1].mean(dim=1))


def test_random_weights_are_those_of_the_seed():
    a, b, c = (next(load_timm_backbone("resnet10t", weights=f"random:{seed}").parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_classifiers_file_is_read_without_its_head(tmp_path, suffix):
    source = load_timm_backbone("resnet10t", weights="random:5", image_size=64)
    state = {**source.net.state_dict(), "fc.weight": torch.zeros(3, 512)}
    path = tmp_path / f"net{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_timm_backbone("resnet10t", weights=str(path), image_size=64)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.encode_image(image).embedding, source.encode_image(image).embedding)


def test_wrong_names_files_and_images_are_refused_in_a_sentence(tmp_path, resnet):
    with pytest.raises(ModelInputError, match=r"expected timm to build .*wide_resnet50_2 or resnet18"):
        load_timm_backbone("resnet_of_mine", weights="random:0")
    with pytest.raises(ModelInputError, match="whole number as seed"):
        load_timm_backbone("resnet18", weights="random:x")
    Path(tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ModelInputError, match=r"bad\.pth to hold the weights of resnet10t, .*text: 'no weights'"):
        load_timm_backbone("resnet10t", weights=str(tmp_path / "bad.pth"))
    with pytest.raises(ModelInputError, match="multiple of 32"):
        load_timm_backbone("resnet10t", weights="random:0", image_size=70)
    with pytest.raises(ModelInputError, match=r"\(B, 3, 96, 96\), got \(1, 3, 64, 64\)"):
        PatchCore(resnet).fit(torch.zeros(1, 3, 64, 64), "nut")
    with pytest.raises(ModelInputError, match=r"multiples of 32, got \(1, 3, 60, 64\)"):
        resnet.encode_image(torch.zeros(1, 3, 60, 64))


@pytest.mark.parametrize("model", [PatchCore, PaDiM, SPADE])
def test_weights_without_an_encoder_are_refused(model):
    with pytest.raises(ModelInputError, match=r"choose weights that have one \(weights=tiny"):
        model(None)
