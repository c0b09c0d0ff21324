"""Our encoder, decoder and masks against the library's own predictor, on the real ViT-B with seeded random weights."""

import pytest
import torch
from segment_anything import SamPredictor

from models.saa.sam_weights import load_sam
from tests.unit.sam_stand_ins import boxes_in, picture, stir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def refiner():
    built = load_sam("vit_b", weights="random:0")
    stir(built.sam, amount=0.02)
    return built


@pytest.fixture(scope="module")
def image():
    return picture(300, 420)


@pytest.fixture(scope="module")
def predictor(refiner, image):
    plain = SamPredictor(refiner.sam)
    plain.set_image(image.permute(1, 2, 0).numpy())
    return plain


@pytest.fixture(scope="module")
def outliner(refiner, image):
    return refiner.outline(image)


@pytest.fixture(scope="module")
def boxes():
    odd = torch.tensor([[-90.0, -90, -10, -10], [20, 20, 20, 20], [-50, -50, 900, 900]])
    return torch.cat([boxes_in(300, 420, 6), odd])


@pytest.fixture(scope="module")
def expected(predictor, boxes):
    inside = predictor.transform.apply_boxes_torch(boxes, (300, 420))
    return predictor.predict_torch(None, None, inside, multimask_output=False, return_logits=True)[0][:, 0]


def test_the_embedding_is_the_librarys(refiner, predictor, outliner):
    tokens = outliner._encoded()
    embedding = predictor.features[0] + refiner.sam.prompt_encoder.no_mask_embed.weight.view(-1, 1, 1)
    torch.testing.assert_close(tokens.tokens, embedding.flatten(1).t(), rtol=1e-4, atol=1e-4)


def test_the_logits_are_the_predictors(outliner, boxes, expected):
    assert expected.std() > 1e-3
    torch.testing.assert_close(torch.cat(list(outliner.logits(boxes))), expected, rtol=1e-4, atol=1e-4)


def test_the_masks_are_the_predictors(outliner, boxes, expected):
    sure = expected.abs() > 1e-4
    assert sure.float().mean() > 0.99
    assert torch.equal(outliner.masks(boxes)[sure], (expected > 0)[sure])
