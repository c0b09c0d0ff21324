"""Image scores and calibration of ClipAdapter: by hand; caches, options, errors."""

import pytest
import torch
from torch.testing import assert_close

from models.clip.text import PromptEnsemble
from models.clip_adapter.adapter import random_adapter, stage_logits, stage_probabilities
from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.maps import hill
from tests.support.clip_stand_ins import PROMPTS, random_images, small_backbone, small_model

IMAGES = random_images(3, 48)
REFERENCES = random_images(3, 48, seed=1)


def test_logits_by_hand():
    tokens = torch.tensor([[[3.0, 4.0], [0.0, -2.0]]])  # (1, 2, 2)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # normal is the first axis, abnormal the second
    logits = stage_logits(tokens, text, (1, 2))
    assert_close(logits, torch.tensor([[[[60.0, 0.0]], [[80.0, -100.0]]]]))
    for_each = stage_logits(tokens.repeat(2, 1, 1), torch.stack([text, text.flip(1)]), (1, 2))
    assert_close(for_each[1], logits[0].flip(0))


def test_probabilities_are_upsampled_as_logits():
    """In the middle between logits (0, 4) and (0, -2) lies sigmoid(1), not the mean of two sigmoids."""
    angle = torch.tensor([0.04, -0.02]).asin()
    tokens = torch.stack([angle.cos(), angle.sin()], dim=1)[None]
    text = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    got = stage_probabilities(tokens, text, (1, 2), 3)
    assert got.shape == (1, 2, 3, 3)
    assert_close(got[0, 1, 0], torch.tensor([4.0, 1.0, -2.0]).sigmoid())
    assert_close(got.sum(dim=1), torch.ones(1, 3, 3))


def test_hill_by_hand():
    values = torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert_close(hill(values, torch.tensor(2.0), 3.0), torch.tensor([0.0, 1 / 9, 0.5, 64 / 72]))
    assert_close(hill(torch.zeros(1), torch.tensor(0.0), 4.0), torch.tensor([0.5]))


def test_the_published_zero_shot_score_does_not_see_the_map():
    prediction = small_model("vit").predict(IMAGES, ["nut"] * 3)
    assert_close(prediction.image_scores, prediction.scalars["text_score"], rtol=0, atol=0)
    assert_close(prediction.scalars["map_max"], prediction.anomaly_maps.amax(dim=(1, 2)), rtol=0, atol=0)


@pytest.mark.parametrize("shots", [1, 2, 3])
@pytest.mark.parametrize("of_map", ["combined", "memory"])
def test_the_few_shot_score_is_calibrated_on_the_references_alone(shots, of_map):
    model = small_model("vit", memory_score_map=of_map, calibration_exponent=2.0, memory_score_weight=0.25)
    zero_shot = [model.predict(images, ["nut"] * len(images)) for images in (IMAGES, REFERENCES[:shots])]
    model.fit(REFERENCES[:shots], "nut")
    test, left_out = model.predict(IMAGES, ["nut"] * 3), model.reference_prediction("nut")

    def maxima(prediction, without):
        maps = prediction.anomaly_maps - (without.anomaly_maps if of_map == "memory" else 0)
        return maps.amax(dim=(1, 2))

    mu = maxima(left_out, zero_shot[1]).mean()
    for prediction, without in ((test, zero_shot[0]), (left_out, zero_shot[1])):
        m = maxima(prediction, without)
        expected = 0.75 * without.image_scores + 0.25 * m**2 / (m**2 + mu**2)
        assert_close(prediction.image_scores, expected, rtol=1e-4, atol=1e-5)


def test_memory_weight_scales_the_memory_map():
    maps = {}
    for weight in (0.0, 1.0, 2.5):
        model = small_model("vit", memory_weight=weight)
        model.fit(REFERENCES, "nut")
        maps[weight] = model.predict(IMAGES, ["nut"] * 3).anomaly_maps
    assert_close(maps[2.5] - maps[0.0], 2.5 * (maps[1.0] - maps[0.0]), rtol=1e-4, atol=1e-5)
    assert_close(maps[0.0], small_model("vit").predict(IMAGES, ["nut"] * 3).anomaly_maps)


def test_memory_stages_add_up():
    maps = {}
    for stages in ((1,), (2, 4), None):
        model = small_model("vit", memory_stages=stages)
        model.fit(REFERENCES, "nut")
        zero_shot = small_model("vit").predict(IMAGES, ["nut"] * 3).anomaly_maps
        maps[stages] = model.predict(IMAGES, ["nut"] * 3).anomaly_maps - zero_shot
    assert_close(maps[(1,)] + maps[(2, 4)], maps[None], rtol=1e-4, atol=1e-5)


def test_one_encoder_pass_per_image_and_one_text_pass_per_category(monkeypatch):
    model = small_model("vit")
    images, sentences = [], []
    visual, text = model.backbone.clip.visual.forward_intermediates, model.backbone.encode_text
    monkeypatch.setattr(
        model.backbone.clip.visual, "forward_intermediates", lambda x, **k: images.append(len(x)) or visual(x, **k)
    )
    monkeypatch.setattr(model.backbone, "encode_text", lambda s: sentences.append(len(s)) or text(s))
    model.fit(REFERENCES, "nut")
    for _ in range(2):
        model.predict(IMAGES, ["nut"] * 3)
    assert images == [3, 3, 3]
    assert sentences == [6, 4]


def test_text_features_follow_the_prompts():
    model = small_model("vit")
    before = model.predict(IMAGES, ["nut"] * 3)
    model.prompts = PromptEnsemble(["good {}"], ["{} with a hole"], ["{}"])
    after = model.predict(IMAGES, ["nut"] * 3)
    assert (after.image_scores - before.image_scores).abs().max() > 1e-6
    model.prompts = PROMPTS
    assert_close(model.predict(IMAGES, ["nut"] * 3).image_scores, before.image_scores, rtol=0, atol=0)


def test_moving_the_model_keeps_what_was_learnt():
    model = small_model("vit")
    model.fit(REFERENCES, "nut")
    expected = model.predict(IMAGES, ["nut"] * 3)
    model.to("cpu")
    assert_close(model.predict(IMAGES, ["nut"] * 3).anomaly_maps, expected.anomaly_maps)
    assert model.reference_prediction("nut").image_scores.shape == (3,)


def test_many_references_are_encoded_in_parts():
    model = small_model("vit")
    many = random_images(11, 48, seed=4)
    model.fit(many, "nut")
    assert model.reference_prediction("nut").anomaly_maps.shape == (11, 48, 48)
    known = model.predict(many[9:10], ["nut"])
    assert known.anomaly_maps.max() <= 3 + 1e-4  # nothing but the zero-shot map is left


@pytest.mark.parametrize("categories", ["nut", [], ["nut"], ["nut"] * 4])
def test_one_category_per_image(categories):
    with pytest.raises(ModelInputError, match="one category for each of 3 images"):
        small_model("vit").predict(IMAGES, categories)


def test_images_and_references_of_another_shape_are_refused():
    model = small_model("vit")
    with pytest.raises(ModelInputError, match=r"\(B, 3, 48, 48\)"):
        model.predict(random_images(1, 32), ["nut"])
    with pytest.raises(ModelInputError, match=r"\(B, 3, 48, 48\)"):
        model.fit(random_images(1, 32), "nut")
    with pytest.raises(ModelInputError, match="at least one reference"):
        model.fit(torch.empty(0, 3, 48, 48), "nut")
    assert model.predict(IMAGES, ["screw"] * 3).image_scores.shape == (3,)  # still zero-shot


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("gaussian_stages", [3]),
        ("gaussian_weight", 1.5),
        ("memory_stages", [3]),
        ("memory_stages", []),
        ("memory_stages", [1, 1]),
        ("memory_weight", -1.0),
        ("memory_score_weight", 2.0),
        ("memory_score_map", "max"),
        ("calibration_exponent", 0.0),
        ("own_window", 1.0),
        ("max_elements", 0),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ModelInputError, match=f"expected {option} to be"):
        small_model("vit", **{option: value})


def test_gradients_reach_the_adapter_and_nothing_else():
    backbone = small_backbone("vit")
    adapter = random_adapter(backbone.stage_widths, backbone.embed_dim)
    model = ClipAdapter(backbone, adapter, PROMPTS)
    features, text = backbone.encode_image(IMAGES), PROMPTS.text_features(backbone, "nut")
    maps = [
        stage_probabilities(tokens, text, grid, 48)
        for tokens, grid in zip(adapter(features.stages), features.grids, strict=True)
    ]
    torch.stack(maps)[:, :, 1].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapter.parameters())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"adapter.fc.{n}.{part}" for n in range(3) for part in ("weight", "bias")
    ]


def test_protocol_tells_options_apart():
    plain, other = small_model("vit").protocol, small_model("vit", memory_score_weight=0.3).protocol
    assert plain["backbone"] == "vit"
    assert plain["activation"] == "gelu"
    assert plain["adapter_trained_on"] == "nothing (random weights)"
    assert plain["image_score"] != other["image_score"]
    for option in ({"memory_weight": 2.0}, {"memory_stages": [1]}, {"own_window": 0.3}):
        assert small_model("vit", **option).protocol != plain
