"""Class vectors beside the words: their share of the map, and whom they fit."""

import pytest
from torch.testing import assert_close

from models.clip_adapter.model import ClipAdapter
from models.errors import ModelInputError
from models.vector_adapter.model import VectorAdapter
from tests.support.clip_stand_ins import PROMPTS, predicted, random_images, small_adapter, small_backbone
from tests.support.vector_stand_ins import vectors_for

BACKBONE = small_backbone("resnet")


@pytest.mark.parametrize("kind", ["linear", "context"])
@pytest.mark.parametrize("shots", [0, 2])
def test_vectors_have_their_share_of_the_log_odds_of_the_map(kind, shots):
    images = random_images(4, BACKBONE.image_size)
    adapter, vectors = small_adapter(kind, BACKBONE), vectors_for(BACKBONE)
    options = {"memory_weight": 0.0, "memory_score_map": "memory"}
    shares = {"vectors": vectors, "vectors_share": 0.3, "vectors_scale": 2.0}
    words = predicted(BACKBONE, adapter, images, shots, **options)
    found = predicted(BACKBONE, adapter, images, shots, **shares, **options)
    assert_close(found.image_scores, words.image_scores, rtol=0, atol=0)
    if shots and kind == "context":  # it has compared with the references
        assert_close(found.anomaly_maps, words.anomaly_maps, rtol=0, atol=0)
        return
    theirs = VectorAdapter(BACKBONE, vectors).eval().predict(images, ["nut"] * 4).anomaly_maps
    highest = adapter.num_maps
    odds = 0.7 * (words.anomaly_maps / highest).logit() + 0.3 * 2 * theirs.logit()
    assert_close(found.anomaly_maps, highest * odds.sigmoid(), rtol=1e-4, atol=1e-5)
    assert (found.anomaly_maps - words.anomaly_maps).abs().max() > 1e-3


def test_vectors_of_another_encoder_are_refused_with_the_way_to_do_without():
    with pytest.raises(ModelInputError, match=r"stage widths: .*model\.vectors=null"):
        ClipAdapter(BACKBONE, small_adapter("linear", BACKBONE), PROMPTS, vectors=vectors_for(small_backbone("vit")))
