"""Our encoder, decoder and masks against the library's own predictor, in ViT-B's widths and depth with random weights.

float64 shows that both compute the same; in float32 ours lies no farther from it than the library's. The input has 256
pixels a side in place of 1,024, which the library's layers allow: windows of 14 tokens are padded there as well.
"""

from functools import partial

import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from models.saa.refiner.sam.refiner import SamRefiner
from tests.parity.rounding import assert_no_farther
from tests.support.sam_stand_ins import boxes_in, picture, stir

pytestmark = pytest.mark.slow
SIDE, PATCH = 256, 16
ODD = torch.tensor([[-90.0, -90, -10, -10], [20, 20, 20, 20], [-50, -50, 900, 900]])
BOXES = torch.cat([boxes_in(300, 420, 6), ODD])


def vit_b() -> Sam:
    """The library's own parts, put together as it puts its ViT-B together."""
    sam = Sam(
        ImageEncoderViT(
            img_size=SIDE, patch_size=PATCH, embed_dim=768, depth=12, num_heads=12, out_chans=256,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
            global_attn_indexes=(2, 5, 8, 11),
        ),
        PromptEncoder(
            embed_dim=256, image_embedding_size=(SIDE // PATCH, SIDE // PATCH), input_image_size=(SIDE, SIDE),
            mask_in_chans=16,
        ),
        MaskDecoder(
            transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
        ),
    )  # fmt: skip
    stir(sam, amount=0.02)
    return sam.eval()


def computed(sam: Sam) -> dict[str, torch.Tensor]:
    """Tokens of the image, logits and masks: ours and the library's."""
    image = picture(300, 420)
    outliner = SamRefiner(sam).outline(image)
    predictor = SamPredictor(sam)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    inside = predictor.transform.apply_boxes_torch(BOXES, (300, 420))
    logits = predictor.predict_torch(None, None, inside, multimask_output=False, return_logits=True)[0][:, 0]
    embedding = predictor.features[0] + sam.prompt_encoder.no_mask_embed.weight.view(-1, 1, 1)
    return {
        "tokens": outliner._encoded().tokens, "their tokens": embedding.flatten(1).t(),
        "logits": torch.cat(list(outliner.logits(BOXES))), "their logits": logits, "masks": outliner.masks(BOXES),
    }  # fmt: skip


@pytest.fixture(scope="module")
def rounded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = vit_b()
    return sam, computed(sam)


@pytest.fixture(scope="module")
def exact(rounded):
    sam = rounded[0].double()
    sam.prompt_encoder.pe_layer.float()  # the library knows positions in float32 alone
    return computed(sam)


def test_float32_is_no_farther_from_float64_than_the_librarys(rounded, exact):
    found = rounded[1]
    for what in ("tokens", "logits"):
        assert_no_farther(found[what], found[f"their {what}"], exact[f"their {what}"])


def test_the_embedding_is_the_librarys(exact):
    assert exact["tokens"].dtype == torch.float64
    assert exact["tokens"].std() > 0.1
    torch.testing.assert_close(exact["tokens"], exact["their tokens"], rtol=0, atol=1e-9)


def test_the_logits_are_the_predictors(exact):
    """Ours are brought to the image's size in float32."""
    expected = exact["their logits"]
    assert expected.std() > 1e-3
    torch.testing.assert_close(exact["logits"].double(), expected, rtol=0, atol=5e-5)


def test_the_masks_are_the_predictors(exact):
    expected = exact["their logits"]
    sure = expected.abs() > 5e-5
    assert sure.double().mean() > 0.99
    assert torch.equal(exact["masks"][sure], (expected > 0)[sure])
