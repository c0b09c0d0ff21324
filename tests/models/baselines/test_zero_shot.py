"""UTAD and CLIPSeg: what they say is what their parts say, planted textures, the folder of transformers."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from models.baselines.clipseg import ClipSeg, load_clipseg
from models.baselines.utad import UTAD
from models.errors import ModelInputError
from models.saa.saliency.prompt import Saliency
from tests.support.baseline_stand_ins import SMALL_CLIPSEG, small_clipseg
from tests.support.saa_stand_ins import BOOK, ColourFeatures

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def net():
    return small_clipseg()


def test_a_spot_of_another_colour_is_what_the_texture_has_not():
    image = torch.full((3, 64, 64), 120, dtype=torch.uint8)
    image[0, 16:28, 36:48] = 250
    model = UTAD(Saliency(ColourFeatures(), size=64, num_neighbours=40), map_size=64, sigma=1.0)
    prediction = model.predict([image, torch.full_like(image, 120)], ["steel", "steel"])
    y, x = divmod(int(prediction.anomaly_maps[0].argmax()), 64)
    assert 16 <= y < 28
    assert 36 <= x < 48
    assert prediction.image_scores[0] > 10 * prediction.image_scores[1]


def test_without_smoothing_the_map_is_the_saliency():
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    saliency = Saliency(ColourFeatures(), size=32, num_neighbours=10)
    prediction = UTAD(saliency, map_size=40, sigma=0).predict([image], ["steel"])
    assert_close(prediction.anomaly_maps[0], saliency(image))
    assert_close(prediction.image_scores[0], saliency(image).max())


def test_no_net_no_utad():
    with pytest.raises(ModelInputError, match=r"choose weights that have one \(weights=tiny"):
        UTAD(Saliency(None))


def test_encoding_an_image_once_for_all_sentences_changes_nothing(net):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    sentences = ["defect on nut", "flaw on nut", "anomaly"]
    conditions = net.embed(sentences)
    got = net.probabilities(images, conditions.expand(2, -1, -1))
    assert got.shape == (2, 3, 48, 48)
    for i in range(2):
        for n in range(3):
            tokens = net._tokenizer([sentences[n]])
            alone = net.net(input_ids=tokens, pixel_values=images[i : i + 1]).logits
            assert_close(got[i, n], alone.reshape(48, 48).sigmoid(), **CLOSE)


def test_padding_behind_the_end_of_a_sentence_changes_nothing(net):
    tokens = net._tokenizer(["flaw on nut"])
    short = tokens[:, : int(tokens.argmax()) + 1]
    assert_close(net.embed(["flaw on nut"]), net.net.get_conditional_embeddings(1, short), **CLOSE)


def test_the_map_is_the_mean_over_the_sentences_of_the_language_prompt(net):
    model = ClipSeg(net, BOOK)
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    prediction = model.predict(images, ["metal_nut"])
    conditions = net.embed(["defect on metal nut", "flaw on metal nut"])[None]
    expected = net.probabilities(images, conditions).mean(dim=1)
    assert_close(prediction.anomaly_maps, expected, **CLOSE)
    assert_close(prediction.image_scores, expected.amax(dim=(1, 2)), **CLOSE)
    naive = ClipSeg(net, BOOK, language="naive").predict(images, ["metal_nut"]).anomaly_maps
    assert_close(naive, net.probabilities(images, net.embed(["anomaly"])[None])[:, 0], **CLOSE)


def test_a_folder_of_transformers_is_read(tmp_path, net):
    net.net.save_pretrained(tmp_path / "mine")
    loaded = load_clipseg(str(tmp_path / "mine"), image_size=48)
    images = torch.randn(1, 3, 48, 48)
    condition = net.embed(["anomaly"])[None]
    assert_close(loaded.probabilities(images, condition), net.probabilities(images, condition))
    assert ClipSeg(loaded, BOOK).protocol["backbone_weights"] == "mine"


def test_a_file_of_the_published_architecture_is_read(tmp_path):
    net = load_clipseg("random:0", image_size=48, config=SMALL_CLIPSEG)
    path = tmp_path / "other.safetensors"
    old = {"clip.vision_model.embeddings.position_ids": torch.arange(4)[None]}  # which earlier files have
    save_file({name: tensor.contiguous() for name, tensor in net.net.state_dict().items()} | old, path)
    loaded = load_clipseg(str(path), image_size=48, config=SMALL_CLIPSEG)
    images, condition = torch.randn(1, 3, 48, 48), net.embed(["anomaly"])[None]
    assert_close(loaded.probabilities(images, condition), net.probabilities(images, condition))
    assert loaded.weights == "other"
    save_file({"decoder.film_mul.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelInputError, match=r"other\.safetensors to be .* the weights of CLIPSeg, got: '.*position"):
        load_clipseg(str(path), image_size=48, config=SMALL_CLIPSEG)


def test_wrong_folders_weights_and_images_are_refused_in_a_sentence(tmp_path, net):
    with pytest.raises(ModelInputError, match="nowhere"):
        load_clipseg(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelInputError, match="model_type 'bert'"):
        load_clipseg(str(tmp_path))
    with pytest.raises(ModelInputError, match="multiple of 8 pixels"):
        load_clipseg("random:0", image_size=50, config=SMALL_CLIPSEG)
    with pytest.raises(ModelInputError, match=r"\(B, 3, 48, 48\)"):
        net.probabilities(torch.zeros(1, 3, 40, 40), torch.zeros(1, 1, 24))
    with pytest.raises(ModelInputError, match=r"weights=clipseg"):
        ClipSeg(None, BOOK)
    with pytest.raises(ModelInputError, match=r"prompts=saa_general"):
        ClipSeg(net, None)


@pytest.mark.slow
def test_the_published_architecture_builds_and_sees_one_image():
    net = load_clipseg("random:0")
    assert 150e6 < sum(p.numel() for p in net.parameters()) < 151e6
    assert net.net.config.vision_config.patch_size == 16
    assert len(net.net.decoder.transposed_convolution) == 5  # the refined decoder's
    maps = ClipSeg(net, BOOK, language="naive").predict(torch.randn(1, 3, 352, 352), ["nut"]).anomaly_maps
    assert maps.shape == (1, 352, 352)
    assert maps.isfinite().all()
