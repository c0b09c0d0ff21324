"""The frozen encoder: raw stages, activation in both towers, position grids, files, errors."""

import contextlib
import pickle
import warnings

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from models.clip.backbone import ClipBackbone, load_backbone
from models.clip.weights import ClipHeader, save_clip
from models.errors import ModelInputError
from models.features import ImageFeatures
from models.images import Preprocess
from tests.support.clip_stand_ins import SIZES, STAGES, VIT, random_clip, random_images, small_backbone, write_config

KINDS = ("vit", "resnet", "timm")


def activations(clip: open_clip.CLIP) -> set[type]:
    return {type(m) for m in clip.modules() if isinstance(m, torch.nn.GELU | QuickGELU)}


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_the_raw_outputs_of_their_blocks(kind):
    """Seen by hooks, so independent of how the backbone asks for them."""
    backbone = small_backbone(kind)
    visual = backbone.clip.visual
    if kind == "timm":
        blocks = [visual.trunk.get_submodule(each["module"]) for each in visual.trunk.feature_info[1:]]
    elif kind == "resnet":
        blocks = [getattr(visual, f"layer{n}") for n in range(1, 5)]
    else:
        blocks = list(visual.transformer.resblocks)
    seen: dict[int, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for number, block in enumerate(blocks, start=1):
            hook = block.register_forward_hook(
                lambda _, __, output, number=number: seen.__setitem__(number, output.clone())
            )
            stack.callback(hook.remove)
        features = backbone.encode_image(random_images(2, SIZES[kind]))
    assert len(features.stages) == len(STAGES[kind])
    for stage, tokens, grid, width in zip(
        STAGES[kind], features.stages, features.grids, backbone.stage_widths, strict=True
    ):
        raw = seen[stage][:, 1:] if kind == "vit" else seen[stage].flatten(2).transpose(1, 2)
        assert_close(tokens, raw)
        assert tokens.shape == (2, grid[0] * grid[1], width)
    assert features.grids == (((6, 6),) * 3 if kind == "vit" else ((24, 24), (12, 12), (6, 6)))
    with torch.no_grad():
        assert_close(features.embedding, visual(random_images(2, SIZES[kind])))
    assert features.embedding.shape == (2, backbone.embed_dim)


def test_a_resnet_without_its_last_layer_still_gives_the_embedding():
    """open_clip 3.3 leaves out the layers after the last one asked for, and then pools the wrong tensor."""
    clip = random_clip("resnet", 96)
    backbone = ClipBackbone(clip, name="resnet", stages=(1,), activation="gelu")
    with torch.no_grad():
        expected = clip.visual(random_images(1, 96))
    assert_close(backbone.encode_image(random_images(1, 96)).embedding, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_frozen_and_stays_in_evaluation_mode(kind):
    backbone = small_backbone(kind)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.train()
    torch.nn.Sequential(backbone).train()
    backbone.encode_image(random_images(3, SIZES[kind]))
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, tensor in backbone.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(("activation", "expected"), [("gelu", torch.nn.GELU), ("quick_gelu", QuickGELU)])
def test_activation_goes_to_both_towers_whatever_the_name_says(name, activation, expected, monkeypatch):
    config = {**VIT, "quick_gelu": name.endswith("quickgelu")}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: config)
    backbone = load_backbone(name, weights="random:0", image_size=32, stages=[4], activation=activation)
    towers = (backbone.clip.visual.transformer, backbone.clip.transformer)
    assert [type(block.mlp.gelu) for tower in towers for block in tower.resblocks] == [expected] * 6
    assert backbone.name == "ViT-B-32"
    assert backbone.activation == activation


def test_the_two_activations_give_different_features():
    gelu, quick = (small_backbone("vit", activation) for activation in ("gelu", "quick_gelu"))
    images = random_images(1, SIZES["vit"])
    assert (gelu.encode_image(images).embedding - quick.encode_image(images).embedding).abs().max() > 1e-3
    assert (gelu.encode_text(["a nut"]) - quick.encode_text(["a nut"])).abs().max() > 1e-3


def test_what_open_clip_itself_does_with_openai_weights(monkeypatch, tmp_path):
    """Why the switch is ours: by itself open_clip 3.3 runs them on plain GELU and only warns."""
    file = tmp_path / "openai.pt"
    torch.save(random_clip("vit").state_dict(), file)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(file))
    monkeypatch.setattr("open_clip.factory.get_model_config", lambda _: {**VIT, "vision_cfg": dict(VIT["vision_cfg"])})
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        by_tag = open_clip.create_model("ViT-B-32", pretrained="openai")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        forced = open_clip.create_model("ViT-B-32", pretrained="openai", force_quick_gelu=True)
    assert activations(by_tag) == {torch.nn.GELU}
    assert activations(forced) == {QuickGELU}


def test_attention_is_fused_and_the_switch_put_back():
    backbone = small_backbone("vit")
    images = random_images(1, SIZES["vit"])
    before = torch.backends.mha.get_fastpath_enabled()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        backbone.encode_image(images)
    names = {event.key for event in seen.key_averages()}
    assert "aten::scaled_dot_product_attention" in names
    assert "aten::_native_multi_head_attention" not in names
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_bfloat16_is_close_and_comes_back_as_float32():
    exact, half = (small_backbone("vit", precision=precision) for precision in ("float32", "bfloat16"))
    images = random_images(2, SIZES["vit"])
    a, b = exact.encode_image(images), half.encode_image(images)
    assert b.embedding.dtype == torch.float32
    assert all(stage.dtype == torch.float32 for stage in b.stages)
    assert 0 < (a.stages[2] - b.stages[2]).abs().max() < 0.1 * a.stages[2].abs().max()
    assert_close(exact.encode_text(["a nut"]), half.encode_text(["a nut"]), rtol=0, atol=0)


def test_text_is_that_of_open_clip_though_padding_is_left_out():
    backbone = small_backbone("vit")
    sentences = ["a photo of a nut.", "a", "a very long photograph, indeed! of the metal nut in the scene"] * 30
    with torch.no_grad():
        expected = backbone.clip.encode_text(open_clip.tokenize(sentences))
    assert_close(backbone.encode_text(sentences), expected, rtol=1e-4, atol=1e-5)


def test_a_sentence_that_would_be_cut_off_is_refused():
    backbone = small_backbone("vit")
    assert backbone.encode_text(["nut " * 75]).shape == (1, 24)
    with pytest.raises(ModelInputError, match="at most 77 tokens, got 78"):
        backbone.encode_text(["nut " * 76])


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 3, 32, 32), (1, 1, 48, 48), (1, 3, 48, 40)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ModelInputError, match=r"\(B, 3, 48, 48\)"):
        small_backbone("vit").encode_image(torch.zeros(shape))


def test_integer_images_are_refused():
    with pytest.raises(ModelInputError, match="uint8"):
        small_backbone("vit").encode_image(torch.zeros(1, 3, 48, 48, dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_from_a_file_at_another_size(kind, suffix, tmp_path):
    """Blocks as saved; the position grid as an independent bicubic resize of the saved one."""
    native = random_clip(kind, seed=3)
    config = write_config(tmp_path, kind)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(native.state_dict(), file)
    else:
        from safetensors.torch import save_file

        save_file(native.state_dict(), file)
    loaded = load_backbone(
        str(config), weights=str(file), image_size=SIZES[kind], stages=STAGES[kind], activation="gelu"
    )
    key = "visual.positional_embedding" if kind == "vit" else "visual.attnpool.positional_embedding"
    saved, got = native.state_dict(), loaded.clip.state_dict()
    old, new = {"vit": (4, 6), "resnet": (2, 3)}[kind]
    grid = saved[key][1:].T.unflatten(1, (old, old))[None]
    resized = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    assert_close(got[key], torch.cat([saved[key][:1], resized[0].flatten(1).T]))
    for name in saved.keys() - {key}:
        assert_close(got[name], saved[name], rtol=0, atol=0)
    assert loaded.name == kind
    assert loaded.weights == "weights"


def test_a_torchscript_archive_as_openai_publishes_it(tmp_path):
    clip = random_clip("vit", seed=5)
    expected = clip.state_dict()
    archive = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.nn.Module()
        for name, tensor in expected.items():
            owner = module
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_buffer(leaf, tensor.half())
        module.register_buffer("input_resolution", torch.tensor(32))
        torch.jit.save(torch.jit.script(module), archive)
        loaded = load_backbone(
            str(write_config(tmp_path, "vit")), weights=str(archive), image_size=32, stages=[4], activation="quick_gelu"
        )
    assert_close(loaded.clip.state_dict()["ln_final.bias"], expected["ln_final.bias"].half().float(), rtol=0, atol=0)
    assert {tensor.dtype for tensor in loaded.clip.state_dict().values()} == {torch.float32}


def header(**changes) -> ClipHeader:
    facts = {"backbone": "vit", "stages": (1, 2, 4), "image_size": 48, "activation": "quick_gelu", "trained_on": ("x",)}
    return ClipHeader(**{**facts, **changes})


def test_a_file_of_ours_says_how_it_is_used(tmp_path):
    clip = random_clip("vit", 48, "quick_gelu")
    save_clip(tmp_path / "vit.safetensors", clip.state_dict(), VIT, header())
    backbone = load_backbone(str(tmp_path / "vit.json"), weights=str(tmp_path / "vit.safetensors"))
    assert (backbone.image_size, backbone.stages, backbone.activation) == (48, (1, 2, 4), "quick_gelu")
    saved, loaded = clip.state_dict(), backbone.clip.state_dict()
    assert loaded["visual.proj"].dtype == torch.float32
    assert_close(loaded["visual.proj"], saved["visual.proj"].half().float(), rtol=0, atol=0)
    assert_close(loaded["ln_final.weight"], saved["ln_final.weight"], rtol=0, atol=0)  # vectors keep their precision
    size = (tmp_path / "vit.safetensors").stat().st_size
    assert size < 1.1 * 2 * sum(tensor.numel() for tensor in saved.values())


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({"backbone": "other"}, {}, "header of .* says other"),
        ({}, {"activation": "gelu"}, "expected activation=quick_gelu, with which .* was trained, got gelu"),
    ],
)
def test_a_file_of_ours_is_not_used_as_something_else(tmp_path, changes, asked, message):
    save_clip(tmp_path / "vit.safetensors", random_clip("vit", 48).state_dict(), VIT, header(**changes))
    with pytest.raises(ModelInputError, match=message):
        load_backbone(str(tmp_path / "vit.json"), weights=str(tmp_path / "vit.safetensors"), **asked)


SETTINGS = {"weights": "random:0", "image_size": 48, "stages": [1, 4], "activation": "gelu"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "random:x"}, "whole number as seed"),
        ({"weights": "nowhere.pt"}, "got 'nowhere.pt'"),
        ({"image_size": None}, "expected image_size of the backbone vit"),
        ({"image_size": 50}, "multiple of 8 pixels, got 50; use 48 or 56"),
        ({"stages": [0, 4]}, "between 1 and 4"),
        ({"stages": [4, 1]}, "increasing stages"),
        ({"stages": [1, 5]}, "between 1 and 4"),
        ({"stages": []}, "increasing stages"),
        ({"activation": "relu"}, "gelu, quick_gelu, got 'relu'"),
        ({"precision": "float64"}, "float32, bfloat16, float16, got 'float64'"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(ModelInputError, match=message):
        load_backbone(str(write_config(tmp_path, "vit")), **{**SETTINGS, **changes})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14-366", "did you mean 'ViT-L-14-336'"),
        ("coca_ViT-B-32", "coca_ViT-B-32.*which has custom_text"),
        ("roberta-ViT-B-32", "which has hf_model_name"),
        ("no/such.json", "no/such.json"),
    ],
)
def test_architectures_of_another_kind_are_refused(name, message):
    with pytest.raises(ModelInputError, match=message):
        load_backbone(name, **SETTINGS)


def test_a_configuration_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text('{"embed_dim": 3}')
    with pytest.raises(ModelInputError, match=r"bad\.json to be an open_clip configuration"):
        load_backbone(str(tmp_path / "bad.json"), **SETTINGS)


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(random_clip("resnet").state_dict(), tmp_path / "rn.pt")
    settings = {**SETTINGS, "weights": str(tmp_path / "rn.pt")}
    with pytest.raises(ModelInputError, match=r"rn\.pt to hold the weights of vit"):
        load_backbone(str(write_config(tmp_path, "vit")), **settings)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_damaged_weights_are_refused(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelInputError, match=r"w\.pt to hold the tensors of a CLIP, but it cannot be read"):
        load_backbone(str(write_config(tmp_path, "vit")), **{**SETTINGS, "weights": str(tmp_path / "w.pt")})


def test_random_weights_follow_the_seed_and_leave_the_global_stream_alone(tmp_path):
    config = str(write_config(tmp_path, "vit"))
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, again, other = (load_backbone(config, **{**SETTINGS, "weights": f"random:{n}"}) for n in (1, 1, 2))
    assert_close(torch.rand(1), expected, rtol=0, atol=0)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_fingerprint_ignores_the_image_size(tmp_path):
    torch.save(random_clip("vit").state_dict(), tmp_path / "w.pt")
    config, settings = str(write_config(tmp_path, "vit")), {**SETTINGS, "weights": str(tmp_path / "w.pt")}
    prints = {load_backbone(config, **{**settings, "image_size": size}).fingerprint for size in (32, 64)}
    assert len(prints) == 1


def test_preprocess_by_hand():
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 2] = 255, 51
    preprocess = pickle.loads(pickle.dumps(Preprocess(8)))
    tensor = preprocess(PIL.Image.fromarray(pixels))
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711]
    assert_close(tensor, torch.tensor(expected)[:, None, None].expand(3, 8, 8), rtol=1e-5, atol=1e-6)
    ramp = PIL.Image.fromarray(np.arange(64, dtype=np.uint8).repeat(2).reshape(8, 16))
    grey = Preprocess(8, mean=(0.0,) * 3, std=(1.0,) * 3)(ramp)
    resized = np.asarray(ramp.convert("RGB").resize((8, 8), PIL.Image.Resampling.BICUBIC), np.float32) / 255
    assert_close(grey, torch.from_numpy(resized).permute(2, 0, 1))


def test_features_are_cut_and_joined():
    features = small_backbone("resnet").encode_image(random_images(3, 96))
    joined = ImageFeatures.cat([features[:1], features[1:]])
    assert_close(joined.embedding, features.embedding)
    assert [stage.shape for stage in features[1:2].stages] == [(1, *stage.shape[1:]) for stage in features.stages]
    for a, b in zip(joined.stages, features.stages, strict=True):
        assert_close(a, b, rtol=0, atol=0)
