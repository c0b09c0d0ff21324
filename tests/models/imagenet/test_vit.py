"""Vision transformers of timm as backbones, on tiny random nets, also on pictures that are not square."""

import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from models.baselines.padim import PaDiM
from models.baselines.patchcore import PatchCore
from models.baselines.spade import SPADE
from models.contract import batch, fitted, pictures
from models.errors import ModelInputError
from models.imagenet.backbone import load_timm_backbone
from models.imagenet.vit import load_vit
from models.images import AspectPreprocess
from models.weights import catalogue
from tests.support.baseline_stand_ins import SMALL_VITS, small_vit
from tests.support.clip_stand_ins import small_backbone

CLASSLESS = "vit_base_patch16_siglip_224"


def images(backbone, high: int = 3, wide: int = 5, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, high * backbone.stride, wide * backbone.stride, generator=generator)


@pytest.mark.parametrize("name", SMALL_VITS)
@pytest.mark.parametrize("final_norm", [False, True])
def test_tokens_are_those_of_timms_own_blocks(name, final_norm):
    backbone = small_vit(name, stages=[1, 3], final_norm=final_norm)
    given = images(backbone)
    outputs = []
    hooks = [block.register_forward_hook(lambda *args: outputs.append(args[2])) for block in backbone.net.blocks]
    last = backbone.net.forward_features(given)
    for hook in hooks:
        hook.remove()
    got = backbone.encode_image(given)
    assert got.grids == ((3, 5), (3, 5))
    for tokens, expected in zip(got.stages, (outputs[0], outputs[2]), strict=True):
        expected = backbone.net.norm(expected) if final_norm else expected
        assert_close(tokens, expected[:, -15:])  # class token and registers come first
    assert_close(got.embedding, backbone.net.attn_pool(last) if name == CLASSLESS else last[:, 0])
    assert backbone.stage_widths == tuple(tokens.shape[2] for tokens in got.stages)


@pytest.mark.parametrize("name", SMALL_VITS)
def test_later_blocks_need_not_be_computed(name):
    backbone = small_vit(name, stages=[1, 3])
    given = images(backbone)
    part = backbone.encode_image(given, deepest=1)
    assert len(part.stages) == 1
    assert_close(part.stages[0], backbone.encode_image(given).stages[0])
    assert not torch.equal(part.embedding, backbone.encode_image(given).embedding)


@pytest.mark.parametrize("name", SMALL_VITS)
def test_where_a_picture_lies_matters_and_a_batch_does_not(name):
    backbone = small_vit(name)
    given = images(backbone)
    both, alone = backbone.encode_image(given), backbone.encode_image(given[1:])
    assert_close(both.stages[0][1:], alone.stages[0])
    flipped = backbone.encode_image(given.flip(3)).stages[0].unflatten(1, (3, 5)).flip(2).flatten(1, 2)
    assert (flipped - both.stages[0]).abs().max() > 1e-3


def test_dinov2_positions_are_resized_as_its_authors_do():
    """Bicubic of a = -0.75 at (i + 0.5) * side / (n + 0.1) - 0.5, not antialiased; worked out by hand."""
    backbone = small_vit("vit_small_patch14_dinov2")
    own = backbone.net.pos_embed[0, 1:].detach().double().numpy().reshape(4, 4, -1)

    def weights(new: int) -> np.ndarray:
        found = np.zeros((new, 4))
        for i in range(new):
            at = (i + 0.5) * 4 / (new + 0.1) - 0.5
            for j in range(math.floor(at) - 1, math.floor(at) + 3):
                d = abs(at - j)
                near = 1.25 * d**3 - 2.25 * d**2 + 1
                far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
                found[i, min(max(j, 0), 3)] += near if d <= 1 else far
        return found

    expected = np.einsum("ia,jb,abc->ijc", weights(3), weights(5), own).reshape(15, -1)
    zeros = torch.zeros(1, 3, 5, own.shape[2])
    got = backbone.net._pos_embed(zeros)[0, 1:]
    assert_close(got.double().detach(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    square = backbone.net._pos_embed(torch.zeros(1, 4, 4, own.shape[2]))
    assert torch.equal(square[0, 1:], backbone.net.pos_embed[0, 1:])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_float32(precision):
    whole, half = (small_vit(stages=[3], precision=each) for each in ("float32", precision))
    given = images(whole)
    expected, got = whole.encode_image(given).stages[0], half.encode_image(given).stages[0]
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().mean() < 0.05 * expected.std()


@pytest.mark.parametrize("name", SMALL_VITS)
def test_weights_come_from_a_file_and_damage_is_named(name, tmp_path):
    source = small_vit(name, seed=4)
    file = tmp_path / "net.safetensors"
    state = {key: tensor.contiguous().clone() for key, tensor in source.net.state_dict().items()}
    save_file(state, file)
    loaded = small_vit(name, weights=str(file))
    given = images(source)
    assert torch.equal(loaded.encode_image(given).stages[0], source.encode_image(given).stages[0])
    save_file(dict(list(state.items())[:-2]), file)
    with pytest.raises(ModelInputError, match=r"weights of vit_.*does not fit"):
        small_vit(name, weights=str(file))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "vit_tiny_nothing"}, "expected timm to build the ViT"),
        ({"name": "resnet18"}, "expected timm to build the ViT"),
        ({"stages": [4]}, "between 1 and 3"),
        ({"image_size": 60}, "multiple of 14 pixels, got 60; use 56 or 70"),
        ({"weights": "nowhere.pth"}, "weights file or a name of the weights catalogue"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ModelInputError, match=said):
        small_vit(**settings)


@pytest.mark.parametrize("shape", [(1, 3, 56, 60), (1, 1, 56, 56), (3, 56, 56), (1, 3, 0, 56)])
def test_sides_that_are_no_multiples_of_the_patch_are_refused(shape):
    with pytest.raises(ModelInputError, match="multiples of 14"):
        small_vit().encode_image(torch.zeros(shape))


@pytest.mark.parametrize("kind", ["timm", "clip"])
def test_convolutional_nets_take_any_multiple_of_32(kind):
    if kind == "timm":
        backbone = load_timm_backbone("resnet10t", weights="random:0", image_size=64)
    else:
        backbone = small_backbone("timm")
    given = images(backbone)
    features = backbone.encode_image(given)
    assert (backbone.stride, features.grids[0]) == (32, (24, 40))
    assert torch.isfinite(features.embedding).all()
    with pytest.raises(ModelInputError, match="multiples of 32"):
        backbone.encode_image(given[..., :-1])


def test_a_clip_vit_takes_its_own_size_alone():
    backbone = small_backbone("vit")
    assert backbone.image_size % backbone.stride == 0
    with pytest.raises(ModelInputError, match="expected a float batch"):
        backbone.encode_image(images(backbone))


@pytest.mark.parametrize("make", [PatchCore, SPADE, lambda backbone: PaDiM(backbone, num_channels=20)])
def test_models_of_squares_run_on_a_vit_and_refuse_other_sizes(make):
    model = make(small_vit(stages=[2, 3]))
    predicted = fitted(model).predict(batch(model, 2), ["nut", "bolt"])
    assert predicted.anomaly_maps.shape == (2, 56, 56)
    assert predicted.anomaly_maps.std() > 0
    with pytest.raises(ModelInputError, match="expected a float batch"):
        model.predict(images(model.backbone), ["nut", "bolt"])


def test_aspect_is_kept_and_the_rest_is_cropped_at_the_bottom_and_on_the_right():
    prepare = pickle.loads(pickle.dumps(AspectPreprocess(48, 14)))
    picture = pictures(1, size=(70, 50))[0]  # high, wide
    tensor = prepare(picture)
    assert tensor.shape == (3, 56, 42)  # 67 x 48 before it is cropped
    whole = np.asarray(picture.resize((48, 67), 3), np.float32) / 255
    expected = (torch.from_numpy(whole).permute(2, 0, 1) - torch.tensor(prepare.mean).view(3, 1, 1)) / torch.tensor(
        prepare.std
    ).view(3, 1, 1)
    assert_close(tensor, expected[:, :56, :42])
    assert prepare(pictures(1, size=(50, 70))[0]).shape == (3, 42, 56)


def test_a_licence_that_restricts_is_announced_once(caplog, tmp_path, monkeypatch):
    file = tmp_path / "gated.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    entry = (
        "gated:\n  what: x\n  url: http://localhost/gated.safetensors\n  licence: Own\n  source: x\n  restricted: ask\n"
    )
    (tmp_path / "catalogue.yaml").write_text(entry)
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "catalogue.yaml")
    monkeypatch.setattr(catalogue, "weights_folder", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    catalogue.announce.cache_clear()
    for _ in range(2):
        catalogue.weights_path("gated")
    assert caplog.text.count("the weights gated stand under Own: ask") == 1


def test_load_vit_needs_no_settings_but_a_name():
    backbone = load_vit("vit_small_patch14_dinov2", weights="random:0", net={"depth": 1})
    assert (backbone.image_size, backbone.stages, backbone.stride) == (518, (1,), 14)
