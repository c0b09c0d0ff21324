"""SAA's parts of transformers: small random networks against plain calls of their own classes, odd input, loading."""

import json

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoModelForZeroShotObjectDetection, Owlv2ForObjectDetection, Sam2Model

from models.errors import ModelInputError
from models.saa.generator import concepts, image_query, zero_shot_detector
from models.saa.generator.concepts import ConceptGenerator, load_concepts
from models.saa.generator.grounding_dino.generator import GroundingDinoGenerator
from models.saa.generator.grounding_dino.inputs import SPECIAL, spelling_reader
from models.saa.generator.image_query import ImageQueryGenerator, load_image_query
from models.saa.generator.zero_shot_detector import (
    ARCHITECTURES,
    ZeroShotDetector,
    check_special_tokens,
    detector_config,
    load_zero_shot_detector,
)
from models.saa.refiner.sam import successors
from models.saa.refiner.sam.successors import NAMES, SuccessorRefiner, load_successor, successor_config
from models.weights.pretrained import load_pretrained
from tests.support.saa_stand_ins import small_saa
from tests.support.sam_stand_ins import boxes_in, picture
from tests.support.transformers_stand_ins import (
    DETECTORS,
    REFINERS,
    owlv2_config,
    refiner_config,
    small_concepts,
    small_detector,
    small_owlv2,
    small_refiner,
)
from tests.support.transformers_stand_ins import detector_config as small_config

WORDS = ["defect", "on", "bottle", "broken", "part", "hole", "scratch"]
CAPTIONS = ["defect on bottle", "broken part. hole", "hole", "Scratch on unknown things. "]
SIDES = {"short_side": 96, "long_side": 160}
QUERIES = [picture(20, 30, seed=3), picture(30, 12, seed=4)]


@pytest.fixture(scope="module")
def reader():
    return spelling_reader(WORDS, as_bert=True)


@pytest.fixture(params=DETECTORS)
def detector(request, reader):
    return GroundingDinoGenerator(ZeroShotDetector(small_detector(request.param)), reader, **SIDES)


def assert_same(found, expected):
    assert_close(found.boxes, expected.boxes, atol=1e-4, rtol=0)
    assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert found.phrases == expected.phrases


# Generators that read words


def test_the_spelling_reader_numbers_what_ends_a_phrase_as_bert_does(reader):
    assert reader.tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [101, 102, 1012, 1029]
    assert reader.tokenizer.convert_ids_to_tokens(reader.read("defect on x.").ids) == [
        "[CLS]", "defect", "on", "x", ".", "[SEP]",
    ]  # fmt: skip
    check_special_tokens(reader)
    with pytest.raises(ModelInputError, match=r"vocab.txt of bert-base-uncased"):
        check_special_tokens(spelling_reader(WORDS))


def test_captions_together_are_captions_one_at_a_time(detector):
    image = picture(50, 80)
    together = detector.propose(image, CAPTIONS)
    assert len({tuple(found.scores.tolist()) for found in together}) == len(CAPTIONS)
    for caption, found in zip(CAPTIONS, together, strict=True):
        assert len(found) > 0
        assert_same(found, detector.propose(image, [caption])[0])
    detector.captions_at_once = 2
    for found, expected in zip(detector.propose(image, CAPTIONS), together, strict=True):
        assert_same(found, expected)


def test_the_backbone_sees_an_image_once_for_all_captions(detector, monkeypatch):
    backbone = detector.network.net.model.backbone.conv_encoder.model.backbone
    seen, forward = [], backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda pixels, **options: (seen.append(len(pixels)), forward(pixels))[1])
    detector.propose(picture(50, 80), CAPTIONS)
    assert seen == [1]


def test_boxes_of_a_padded_image_are_fractions_of_the_image(detector):
    hair = picture(3, 120)
    found = detector.propose(hair, ["hole"])[0]
    assert found.boxes.isfinite().all()
    assert len(found) > 0
    pixels = torch.zeros(3, 8, 160)
    padded, stretch = detector.network.look(pixels)
    assert padded.shape[1] > 8
    assert padded.shape[2] == 160
    assert_close(stretch, torch.tensor([1.0, padded.shape[1] / 8]).repeat(2))
    whole, one = detector.network.look(torch.zeros(3, 96, 120))
    assert whole.shape == (3, 96, 120)
    assert one.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (40, 300)], ids=str)
def test_images_of_any_shape(detector, size):
    for found in detector.propose(picture(*size), CAPTIONS[:2]):
        assert found.boxes.isfinite().all()
        assert len(found.phrases) == len(found.scores) == len(found.boxes) > 0


def test_thresholds_are_strict_and_may_leave_nothing(detector):
    image = picture(50, 80)
    detector.box_threshold = 0
    everything = detector.propose(image, ["hole"])[0]
    assert len(everything) == 40
    middle = detector.box_threshold = everything.scores.sort().values[19:21].mean().item()
    above = detector.propose(image, ["hole"])[0]
    assert len(above) == 20
    assert (above.scores > middle).all()
    detector.box_threshold = 1
    assert detector.propose(image, ["hole"])[0].boxes.shape == (0, 4)


def test_bfloat16_is_near(detector):
    detector.box_threshold = 0
    exact = detector.propose(picture(50, 80), ["hole"])[0]
    detector.precision = "bfloat16"
    near = detector.propose(picture(50, 80), ["hole"])[0]
    assert near.boxes.dtype == near.scores.dtype == torch.float32
    assert abs(near.scores.mean() - exact.scores.mean()) < 0.1
    assert not torch.equal(near.scores, exact.scores)


def test_the_protocol_names_the_class_and_the_weights(detector):
    assert detector.protocol["generator"] == f"{detector.network.net.config.model_type} of transformers"
    assert not any(parameter.requires_grad for parameter in detector.train().parameters())
    assert not any(module.training for module in detector.modules())


def test_published_architectures_have_the_published_figures():
    heads = {name: tuple(detector_config(name).backbone_config.num_heads) for name in ARCHITECTURES}
    assert heads["grounding_dino_tiny"] == heads["mm_grounding_dino_tiny"] == (3, 6, 12, 24)
    assert heads["grounding_dino_base"] == heads["mm_grounding_dino_base"] == (4, 8, 16, 32)
    large = detector_config("mm_grounding_dino_large")
    assert (heads["mm_grounding_dino_large"], large.num_feature_levels) == ((6, 12, 24, 48), 5)
    assert (large.num_queries, large.text_config.vocab_size, large.backbone_config.window_size) == (900, 30522, 12)
    with pytest.raises(ModelInputError, match="mm_grounding_dino_large"):
        detector_config("mm_grounding_dino_huge")


def test_a_detector_loads_from_a_folder_and_from_a_file(tmp_path, monkeypatch, reader):
    net = small_detector("mm_grounding_dino", seed=1)
    net.save_pretrained(tmp_path)
    pieces = reader.tokenizer.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.get)))
    monkeypatch.setattr(zero_shot_detector, "detector_config", lambda _: small_config("mm_grounding_dino"))
    expected = GroundingDinoGenerator(ZeroShotDetector(net), reader, **SIDES).propose(picture(50, 80), ["hole"])[0]
    load = {"architecture": "mm_grounding_dino_tiny", **SIDES}
    by_folder = load_zero_shot_detector(str(tmp_path), None, **load)
    by_file = load_zero_shot_detector(str(tmp_path / "model.safetensors"), str(tmp_path), **load)
    for generator in (by_folder, by_file):
        assert_same(generator.propose(picture(50, 80), ["hole"])[0], expected)
    with pytest.raises(ModelInputError, match=r"folder that holds the vocab.txt"):
        load_zero_shot_detector(str(tmp_path / "model.safetensors"), None, **load)
    with pytest.raises(ModelInputError, match="threshold"):
        load_zero_shot_detector("random:0", None, threshold=2, **load)


# Refiners


@pytest.fixture(params=REFINERS)
def refiner(request):
    return SuccessorRefiner(small_refiner(request.param), boxes_at_once=3)


@pytest.mark.parametrize("size", [(48, 64), (64, 64), (40, 200)], ids=str)
def test_masks_are_those_of_a_plain_call_box_by_box(refiner, size):
    image, boxes = picture(*size), boxes_in(*size, count=7)
    outliner = refiner.outline(image)
    logits = torch.cat(list(outliner.logits(boxes)))
    assert len({int(mask.sum()) for mask in outliner.masks(boxes)}) > 1
    assert logits.std(dim=0).max() > 1e-3  # masks follow their boxes
    scale = torch.tensor([refiner.input_size(image)[1] / size[1], refiner.input_size(image)[0] / size[0]]).repeat(2)
    for box, found in zip(boxes, logits, strict=True):
        low = refiner.net(**refiner.encode(image), input_boxes=(box * scale)[None, None], multimask_output=False)
        assert_close(found[None], refiner.at_full_size(low.pred_masks[0, :, 0], image), atol=1e-4, rtol=0)


def test_the_image_is_encoded_once_and_only_when_a_box_is_asked_for(refiner, monkeypatch):
    encoded, encode = [], refiner.encode
    monkeypatch.setattr(refiner, "encode", lambda image: (encoded.append(1), encode(image))[1])
    outliner = refiner.outline(picture(40, 40))
    assert outliner.masks(torch.empty(0, 4)).shape == (0, 40, 40)
    assert not encoded
    first = outliner.masks(boxes_in(40, 40, 3))
    outliner.masks(boxes_in(40, 40, 5, seed=1))
    assert len(encoded) == 1
    assert torch.equal(outliner.masks(boxes_in(40, 40, 3)), first)


@pytest.mark.parametrize("size", [(90, 50), (1, 7)], ids=str)
def test_odd_boxes_and_odd_images_give_masks_of_the_right_shape(refiner, size):
    odd = torch.tensor([[-90.0, -90, -10, -10], [20, 20, 20, 20], [30, 10, 10, 30], [-1e4, -1e4, 1e4, 1e4]])
    masks = refiner.outline(picture(*size)).masks(odd)
    assert (masks.shape, masks.dtype) == ((4, *size), torch.bool)


def test_what_is_no_image_or_no_box_is_refused(refiner):
    with pytest.raises(ModelInputError, match="uint8 RGB image"):
        refiner.outline(torch.zeros(3, 9, 9))
    with pytest.raises(ModelInputError, match="finite boxes"):
        refiner.outline(picture(9, 9)).masks(torch.zeros(3, 5))
    with pytest.raises(ModelInputError, match="boxes_at_once"):
        SuccessorRefiner(refiner.net, boxes_at_once=0)


def test_autocast_stays_close(refiner):
    boxes = boxes_in(64, 64, 6)
    exact = torch.cat(list(refiner.outline(picture(64, 64)).logits(boxes)))
    refiner.precision = "bfloat16"
    rough = torch.cat(list(refiner.outline(picture(64, 64)).logits(boxes)))
    assert not torch.equal(rough, exact)
    assert ((rough > 0) == (exact > 0)).float().mean() > 0.9


def test_published_refiners_have_the_published_figures():
    hieras = {name: successor_config(name).vision_config for name in NAMES if name.startswith("sam2")}
    blocks = [sum(each.backbone_config.blocks_per_stage) for each in hieras.values()]
    assert blocks == [12, 16, 24, 48]
    assert hieras["sam2.1_hiera_large"].backbone_channel_list == [1152, 576, 288, 144]
    assert successor_config("sam_hq_vit_h").mask_decoder_config.vit_dim == 1280
    if "sam3" in REFINERS:
        assert successor_config("sam3").prompt_encoder_config.image_size == 1008
    else:
        with pytest.raises(ModelInputError, match=r"transformers 5 for SAM 3"):
            load_successor("sam3", weights="random:0")
    with pytest.raises(ModelInputError, match="sam_hq_vit_h"):
        load_successor("sam_vit_h", weights="random:0")


def test_a_refiner_loads_from_a_folder_and_from_a_file_and_refuses_others(tmp_path, monkeypatch):
    net = small_refiner("sam2", seed=1)
    net.save_pretrained(tmp_path)
    monkeypatch.setattr(successors, "successor_config", lambda _: refiner_config("sam2"))
    boxes = boxes_in(40, 60, 3)
    expected = SuccessorRefiner(net).outline(picture(40, 60)).masks(boxes)
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_successor("sam2.1_hiera_tiny", weights=str(weights))
        assert torch.equal(loaded.outline(picture(40, 60)).masks(boxes), expected)
    (tmp_path / "other").mkdir()
    small_refiner("sam_hq").save_pretrained(tmp_path / "other")
    for other in (tmp_path / "other", tmp_path / "other" / "model.safetensors"):
        with pytest.raises(ModelInputError, match=r"sam2.1_hiera_tiny as transformers keeps it"):
            load_successor("sam2.1_hiera_tiny", weights=str(other))
    with pytest.raises(ModelInputError, match="catalogue"):
        load_successor("sam2.1_hiera_tiny", weights=str(tmp_path / "nothing"))


@pytest.mark.skipif("sam3" not in REFINERS, reason="SAM 3 comes with transformers 5")
def test_sam3_loads_from_the_folder_that_is_published(tmp_path, monkeypatch):
    net, boxes = small_refiner("sam3", seed=1), boxes_in(40, 60, 3)
    published = {  # as facebook/sam3 names them: one encoder for detector and tracker, each with a neck of its own
        key.replace("vision_encoder.backbone.", "detector_model.vision_encoder.backbone.").replace(
            "vision_encoder.neck.", "tracker_neck."
        ): value
        for key, value in net.state_dict().items()
    }
    own = ("shared_image", "prompt", "mask_decoder", "no_memory")
    published = {"tracker_model." * key.startswith(own) + key: value for key, value in published.items()}
    save_file(published, tmp_path / "model.safetensors", {"format": "pt"})
    config = {"model_type": "sam3_video", "tracker_config": net.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(successors, "successor_config", lambda _: refiner_config("sam3"))
    expected = SuccessorRefiner(net).outline(picture(40, 60)).masks(boxes)
    assert expected.any()
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.equal(load_successor("sam3", weights=str(weights)).outline(picture(40, 60)).masks(boxes), expected)


# Concepts


IN_VERSION_5 = pytest.mark.skipif("sam3" not in REFINERS, reason="SAM 3 comes with transformers 5")


@IN_VERSION_5
def test_concepts_are_asked_phrase_by_phrase_and_the_image_is_seen_once(monkeypatch):
    generator, calls = ConceptGenerator(small_concepts(), threshold=0), []
    look = generator.net.get_vision_features
    monkeypatch.setattr(generator.net, "get_vision_features", lambda **given: calls.append(1) or look(**given))
    image = picture(40, 60)
    several, hole, none = generator.propose(image, ["dent. hole.", "hole", "."])
    assert calls == [1]
    assert (len(several), len(hole), len(none)) == (24, 12, 0)
    assert set(several.phrases) == {"dent", "hole"}
    assert (several.scores.diff() <= 0).all()
    own = torch.tensor([phrase == "hole" for phrase in several.phrases])
    assert_close(several.boxes[own], hole.boxes)
    assert not torch.equal(several.scores[~own], hole.scores)
    assert none.boxes.shape == (0, 4)
    least = hole.scores[5].item()
    generator.threshold = least
    assert len(generator.propose(image, ["hole"])[0]) == 5
    with pytest.raises(ModelInputError, match="uint8 RGB image"):
        generator.propose(torch.zeros(3, 9, 9), ["hole"])


@IN_VERSION_5
def test_half_precision_of_concepts_stays_close():
    exact, rough = (
        ConceptGenerator(small_concepts(), threshold=0, precision=precision).propose(picture(64, 64), ["hole"])[0]
        for precision in ("float32", "bfloat16")
    )
    assert rough.scores.dtype == rough.boxes.dtype == torch.float32
    assert not torch.equal(rough.scores, exact.scores)
    assert_close(rough.scores, exact.scores, atol=0.03, rtol=0)


@IN_VERSION_5
def test_concepts_load_from_the_folder_that_is_published(tmp_path, monkeypatch):
    net = small_concepts(seed=1)
    published = {f"detector_model.{key}": value for key, value in net.state_dict().items()}
    save_file({**published, "tracker_model.prompt": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    config = {"model_type": "sam3_video", "detector_config": net.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(concepts, "concepts_config", lambda: net.config)
    expected = ConceptGenerator(net, threshold=0).propose(picture(40, 60), ["hole"])[0]
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        found = load_concepts(str(weights), threshold=0)
        assert torch.equal(found.propose(picture(40, 60), ["hole"])[0].scores, expected.scores)
        assert found.protocol["generator_weights"] == weights.name
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(ModelInputError, match="SAM 3's detector as transformers keeps it"):
        load_concepts(str(tmp_path))


@pytest.mark.skipif("sam3" in REFINERS, reason="this transformers has SAM 3")
def test_concepts_need_transformers_5():
    with pytest.raises(ModelInputError, match=r"transformers 5 for SAM 3, got .*pip install"):
        load_concepts("random:0")


# Pictures of defects as queries


@pytest.fixture
def queries():
    return ImageQueryGenerator(small_owlv2(), QUERIES, threshold=0, box_overlap=1.0)


def test_a_query_finds_itself_best_where_it_is_the_image(queries):
    alone = ImageQueryGenerator(queries.net, QUERIES[:1], threshold=0, box_overlap=1.0)
    both = queries.propose(QUERIES[0], ["hole"])[0]
    one = alone.propose(QUERIES[0], ["hole"])[0]
    assert len(both) == len(one) == 64
    assert both.scores.std() > 0
    assert (both.scores.sort().values >= one.scores.sort().values - 1e-6).all()
    assert (both.scores[:-1] >= both.scores[1:]).all()


def test_the_boxes_belong_to_the_first_caption_and_words_are_not_asked(queries):
    image = picture(50, 80)
    first, second = queries.propose(image, ["hole", "crack"])
    assert len(first) > len(second) == 0
    assert_same(queries.propose(image, ["anything"])[0], first)
    assert queries.propose(image, []) == queries.propose_objects(image, []) == []


def test_objects_are_found_by_their_name(queries):
    bottle, nut = queries.propose_objects(picture(50, 80), ["bottle", "metal nut"])
    assert min(len(bottle), len(nut)) > 60  # of 64 patches
    assert not torch.equal(bottle.scores, nut.scores)


def test_boxes_are_fractions_of_the_image_not_of_its_square(queries):
    image = picture(32, 64)
    found = queries.propose(image, ["hole"])[0]
    square = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    square[:, :32] = image
    padded = queries.propose(square, ["hole"])[0]  # grey is 128/255 here, nearly the padding's
    in_square = found.boxes * torch.tensor([1, 0.5, 1, 0.5])
    assert_close(in_square.sort(dim=0).values, padded.boxes.sort(dim=0).values, atol=0.01, rtol=0)  # scores may tie


def test_a_better_box_takes_the_place_of_those_it_overlaps(queries):
    image = picture(50, 80)
    queries.net.box_head.dense2.bias[2:] += 1  # wider than the grid, so that they overlap
    few = ImageQueryGenerator(queries.net, QUERIES, threshold=0, box_overlap=0.3).propose(image, ["hole"])[0]
    everything = queries.propose(image, ["hole"])[0]
    assert 0 < len(few) < len(everything)
    assert few.scores[0] == everything.scores[0]


def test_owlv2_loads_with_its_pictures_and_refuses_to_be_without(tmp_path, monkeypatch):
    net = small_owlv2(seed=1)
    net.save_pretrained(tmp_path)
    monkeypatch.setitem(image_query.ARCHITECTURES, "owlv2_base_patch16", owlv2_config().to_dict())
    PIL.Image.fromarray(QUERIES[0].permute(1, 2, 0).numpy()).save(tmp_path / "hole.png")
    loaded = load_image_query(str(tmp_path), [str(tmp_path / "hole.png")])
    expected = ImageQueryGenerator(net, QUERIES[:1]).propose(picture(50, 80), ["hole"])[0]
    assert_same(loaded.propose(picture(50, 80), ["hole"])[0], expected)
    assert "1 pictures of defects" in loaded.protocol["generator"]
    with pytest.raises(ModelInputError, match="query_images"):
        load_image_query(str(tmp_path), [])
    with pytest.raises(ModelInputError, match=r"nothing.png"):
        load_image_query(str(tmp_path), [str(tmp_path / "nothing.png")])


# All of them


def test_random_weights_follow_from_their_seed():
    build = {
        "detector": lambda seed: small_detector("grounding_dino", seed),
        "sam2": lambda seed: load_pretrained(Sam2Model, refiner_config("sam2"), f"random:{seed}", "", successors._stir),
        "owlv2": lambda seed: small_owlv2(seed),
    }
    before = torch.random.get_rng_state()
    for make in build.values():
        first, again, other = (make(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    for build, config in (
        (AutoModelForZeroShotObjectDetection.from_config, small_config("grounding_dino")),
        (Owlv2ForObjectDetection, owlv2_config()),
    ):
        with pytest.raises(ModelInputError, match=r"other.pth to hold the thing.*more tensors"):
            load_pretrained(build, config, str(tmp_path / "other.pth"), "the thing")


PARTS = {
    "grounding_dino": lambda reader: {
        "generator": GroundingDinoGenerator(ZeroShotDetector(small_detector("grounding_dino")), reader, **SIDES)
    },
    "mm_grounding_dino": lambda reader: {
        "generator": GroundingDinoGenerator(ZeroShotDetector(small_detector("mm_grounding_dino")), reader, **SIDES)
    },
    "owlv2": lambda _: {"generator": ImageQueryGenerator(small_owlv2(), QUERIES)},
    "sam2": lambda _: {"refiner": SuccessorRefiner(small_refiner("sam2", seed=10))},
    "sam_hq": lambda _: {"refiner": SuccessorRefiner(small_refiner("sam_hq"))},
}


@pytest.mark.parametrize("part", PARTS)
def test_saa_plus_runs_with_the_part(part, reader):
    model = small_saa(**PARTS[part](reader))
    images = [picture(64, 80, seed=1), picture(90, 64, seed=2)]
    together = model.predict(images, ["nut", "bolt"])
    assert together.anomaly_maps.std() > 0
    for i, category in enumerate(("nut", "bolt")):
        alone = model.predict(images[i : i + 1], [category])
        assert torch.equal(alone.anomaly_maps[0], together.anomaly_maps[i])
        assert torch.equal(alone.image_scores[0], together.image_scores[i])
