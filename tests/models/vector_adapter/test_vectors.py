"""Class vectors and the model that looks with them, beside an obvious slow version of both."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.clip_adapter.adapter import AdapterHeader, random_adapter
from models.clip_adapter.checkpoint import load_adapter, save_adapter
from models.errors import ModelInputError
from models.vector_adapter.checkpoint import VECTORS_FORMAT, made_for, save_vectors, trained_vectors
from models.vector_adapter.model import VectorAdapter
from tests.support.baseline_stand_ins import small_resnet
from tests.support.clip_stand_ins import random_images, small_backbone
from tests.support.vector_stand_ins import small_vector_adapter, vectors_for
from tracks.decide.threshold import weights_threshold

BACKBONE = small_backbone("vit")
HEADER = AdapterHeader(
    **made_for(BACKBONE), image_size=48, trained_on=("synthetic:source",), image_threshold=0.25, threshold_source="here"
)


def cosine(a, b) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@torch.no_grad()
def slow_zero_shot(vectors, features, size, map_share):
    """Maps and scores of one image, patch by patch and pixel by pixel of no batch."""
    pixel_scale, image_scale = (math.exp(float(each)) for each in vectors.log_scales.detach())
    maps = []
    for tokens, pair, (height, width) in zip(features.stages, vectors.pixel, features.grids, strict=True):
        logits = torch.tensor([[pixel_scale * cosine(token, each) for token in tokens[0]] for each in pair])
        wide = F.interpolate(logits.view(1, 2, height, width), (size, size), mode="bilinear", align_corners=True)[0]
        maps.append(wide[1].exp() / (wide[0].exp() + wide[1].exp()))
    anomaly_map = sum(maps) / len(maps)
    normal, abnormal = (image_scale * cosine(features.embedding[0], each) for each in vectors.image)
    probability = math.exp(abnormal) / (math.exp(normal) + math.exp(abnormal))
    return anomaly_map, (1 - map_share) * probability + map_share * float(anomaly_map.max())


@pytest.mark.parametrize("build", [lambda: BACKBONE, small_resnet], ids=["vit", "resnet of timm"])
def test_zero_shot_is_the_slow_version(build):
    backbone = build()
    model = small_vector_adapter(backbone, map_share=0.3)
    images = random_images(2, backbone.image_size)
    got = model.predict(images, ["nut", "bolt"])
    for i in range(2):
        features = backbone.encode_image(images[i : i + 1])
        anomaly_map, score = slow_zero_shot(model.adapter, features, backbone.image_size, 0.3)
        assert_close(got.anomaly_maps[i], anomaly_map, atol=1e-5, rtol=1e-5)
        assert float(got.image_scores[i]) == pytest.approx(score, abs=1e-5)


def test_few_shot_adds_the_mean_distance_to_the_nearest_reference_token_and_calibrates():
    model = small_vector_adapter(memory_weight=0.5, memory_score_weight=0.25)
    plain = small_vector_adapter()
    references, images = random_images(2, 48, seed=1), random_images(1, 48)
    model.fit(references, "nut")
    zero = plain.predict(torch.cat([references, images]), ["nut"] * 3)

    def memory_map(query, others):
        total = torch.zeros(48, 48)
        for stage in range(3):
            tokens = BACKBONE.encode_image(query).stages[stage][0]
            bank = torch.cat([BACKBONE.encode_image(each[None]).stages[stage][0] for each in others])
            nearest = torch.tensor([min(1 - cosine(token, known) for known in bank) for token in tokens])
            wide = F.interpolate(nearest.view(1, 1, 6, 6), (48, 48), mode="bilinear", align_corners=True)
            total += wide[0, 0] / 3
        return total

    maps = [
        zero.anomaly_maps[0] + 0.5 * memory_map(references[:1], references[1:]),
        zero.anomaly_maps[1] + 0.5 * memory_map(references[1:], references[:1]),
        zero.anomaly_maps[2] + 0.5 * memory_map(images, references),
    ]
    typical = float(maps[0].max() + maps[1].max()) / 2
    highest = [float(each.max()) ** 4 for each in maps]
    scores = [0.75 * float(zero.image_scores[i]) + 0.25 * highest[i] / (highest[i] + typical**4) for i in range(3)]
    got, left_out = model.predict(images, ["nut"]), model.reference_prediction("nut")
    assert_close(got.anomaly_maps[0], maps[2], atol=1e-5, rtol=1e-5)
    assert_close(left_out.anomaly_maps, torch.stack(maps[:2]), atol=1e-5, rtol=1e-5)
    assert_close(torch.cat([left_out.image_scores, got.image_scores]), torch.tensor(scores), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_comes_back_with_its_header_and_says_what_it_was_trained_on(tmp_path):
    vectors = vectors_for(BACKBONE)
    save_vectors(tmp_path / "v.safetensors", vectors, HEADER)
    found = trained_vectors(tmp_path / "v.safetensors")
    assert found.header == replace(HEADER, format=VECTORS_FORMAT, kind="vectors")
    for name, tensor in vectors.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    model = VectorAdapter(BACKBONE, found)
    assert model.protocol["adapter_trained_on"] == "synthetic:source"
    assert weights_threshold(model).value == 0.25


@pytest.mark.parametrize(
    ("name", "other"), [("stages", (1, 2, 3)), ("backbone", "vit_b"), ("backbone_fingerprint", "0" * 12)]
)
def test_vectors_of_another_encoder_are_refused(tmp_path, name, other):
    save_vectors(tmp_path / "v.safetensors", vectors_for(BACKBONE), replace(HEADER, **{name: other}))
    with pytest.raises(ModelInputError, match=f"{name}: the encoder has"):
        VectorAdapter(BACKBONE, trained_vectors(tmp_path / "v.safetensors"))


def test_vectors_of_other_widths_or_of_another_kind_are_refused():
    with pytest.raises(ModelInputError, match="stage widths: the encoder has"):
        VectorAdapter(BACKBONE, vectors_for(small_backbone("resnet")))
    with pytest.raises(ModelInputError, match="expected class vectors, got LinearAdapter"):
        VectorAdapter(BACKBONE, random_adapter(BACKBONE.stage_widths, BACKBONE.embed_dim))  # type: ignore[arg-type]


def test_foreign_files_are_refused(tmp_path):
    adapter = tmp_path / "adapter.safetensors"
    save_adapter(adapter, random_adapter(BACKBONE.stage_widths, 24), HEADER)
    with pytest.raises(ModelInputError, match=r"expected .* to be a checkpoint of class vectors"):
        trained_vectors(adapter)
    vectors = vectors_for(BACKBONE)
    save_vectors(tmp_path / "v.safetensors", vectors, HEADER)
    with pytest.raises(ModelInputError, match=r"expected .* to be an adapter checkpoint"):
        load_adapter(tmp_path / "v.safetensors")
    with pytest.raises(ModelInputError, match="make train"):
        trained_vectors(None)
    del vectors.image
    save_vectors(tmp_path / "less.safetensors", vectors, HEADER)
    with pytest.raises(ModelInputError, match=r"expected .* to hold pixel\.0"):
        trained_vectors(tmp_path / "less.safetensors")
    broken = vectors_for(BACKBONE)
    broken.image.data[0, 0] = torch.nan
    save_vectors(tmp_path / "nan.safetensors", broken, HEADER)
    with pytest.raises(ModelInputError, match="expected finite numbers"):
        trained_vectors(tmp_path / "nan.safetensors")
