"""The refiners: SAM's masks against the library's predictor, outlines by a map, odd boxes and images, loading."""

import resource

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from models.clip_adapter.adapter import random_adapter
from models.errors import ModelInputError
from models.saa.generator.clip_boxes import ClipBoxGenerator
from models.saa.language import ProductPrompt
from models.saa.property import Scene
from models.saa.refiner.by_map import MapOutliner, outlined
from models.saa.refiner.sam import refiner as sam_refiner
from models.saa.refiner.sam.refiner import SamRefiner, load_sam
from models.saa.rules import Rules
from tests.support.clip_stand_ins import small_backbone
from tests.support.sam_stand_ins import boxes_in, picture, small_sam

SIZES = [(48, 64), (64, 64), (90, 50), (40, 400), (300, 400), (1, 7)]


def predictor_logits(sam, image, boxes):
    """The library's own way: every box in one call."""
    predictor = SamPredictor(sam)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    inside = predictor.transform.apply_boxes_torch(boxes, tuple(image.shape[1:]))
    return predictor.predict_torch(None, None, inside, multimask_output=False, return_logits=True)[0][:, 0]


class Counting(SamRefiner):
    encoded = 0

    def encode(self, image):
        self.encoded += 1
        return super().encode(image)


@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
def test_masks_are_those_of_the_predictor(size, monkeypatch):
    sam, image, boxes = small_sam(), picture(*size), boxes_in(*size, count=7)
    expected = predictor_logits(sam, image, boxes)
    monkeypatch.setattr(sam_refiner, "MAX_ELEMENTS", 3 * 300 * 400)
    outliner = SamRefiner(sam, boxes_at_once=3).outline(image)
    got = torch.cat(list(outliner.logits(boxes)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    sure = expected.abs() > 1e-4
    assert 0 < (expected > 0).sum() < expected.numel()
    assert torch.equal(outliner.masks(boxes)[sure], (expected > 0)[sure])


@pytest.mark.parametrize(("at_once", "max_elements"), [(1, 1), (2, 64 * 64 * 4), (5, 2**24), (64, 64 * 64 * 4)])
def test_chunks_of_any_size_give_the_same_masks(at_once, max_elements, monkeypatch):
    monkeypatch.setattr(sam_refiner, "MAX_ELEMENTS", max_elements)
    sam, image, boxes = small_sam(1), picture(50, 64), boxes_in(50, 64, count=9)
    outliner = SamRefiner(sam, boxes_at_once=at_once).outline(image)
    expected = torch.cat([SamRefiner(sam).outline(image).masks(box[None]) for box in boxes])
    assert torch.equal(outliner.masks(boxes), expected)
    chunks = list(outliner.chunks(boxes))
    assert torch.equal(torch.cat(chunks), expected)
    assert max(map(len, chunks)) <= max(1, max_elements // (64 * 64))


def test_the_image_is_encoded_once_and_only_when_a_box_is_asked_for():
    refiner = Counting(small_sam())
    outliner = refiner.outline(picture(40, 40))
    assert outliner.masks(torch.empty(0, 4)).shape == (0, 40, 40)
    assert refiner.encoded == 0
    outliner.masks(boxes_in(40, 40, 3))
    outliner.masks(boxes_in(40, 40, 5, seed=1))
    assert refiner.encoded == 1


def test_images_do_not_see_each_others_encoding_even_after_a_failure():
    refiner, boxes = SamRefiner(small_sam()), boxes_in(40, 60, 4)
    first, second = picture(40, 60, seed=1), picture(40, 60, seed=2).flip(1)
    expected = [refiner.outline(image).masks(boxes) for image in (first, second)]
    assert not torch.equal(*expected)
    one, two = refiner.outline(first), refiner.outline(second)
    with pytest.raises(ModelInputError):
        one.masks(torch.full((1, 4), torch.nan))
    assert torch.equal(two.masks(boxes), expected[1])
    assert torch.equal(one.masks(boxes), expected[0])
    assert torch.equal(two.masks(boxes), expected[1])


def test_an_encoding_that_fails_leaves_nothing_behind(monkeypatch):
    refiner, boxes, image = SamRefiner(small_sam()), boxes_in(40, 60, 4), picture(40, 60)
    expected, outliner = refiner.outline(image).masks(boxes), refiner.outline(image)
    with monkeypatch.context() as patch:
        patch.setattr(refiner.sam, "preprocess", lambda _: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError):
            outliner.masks(boxes)
    assert torch.equal(outliner.masks(boxes), expected)


def by_map() -> ClipBoxGenerator:
    backbone = small_backbone("resnet")
    return ClipBoxGenerator(backbone, random_adapter(backbone.stage_widths, backbone.embed_dim), grid=32)


REFINERS = {"sam": lambda: SamRefiner(small_sam()), "map": by_map}
ODD_BOXES = torch.tensor(
    [[-90.0, -90, -10, -10], [500, 500, 900, 900], [20, 20, 20, 20], [30, 10, 10, 30], [-1e4, -1e4, 1e4, 1e4],
     [0.2, 0.2, 0.4, 0.4], [10, 10, 30, 30]]
)  # fmt: skip


@pytest.mark.parametrize("refiner", REFINERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_odd_boxes_and_odd_images_give_masks_of_the_right_shape(refiner, size):
    masks = REFINERS[refiner]().outline(picture(*size)).masks(ODD_BOXES)
    assert masks.shape == (len(ODD_BOXES), *size)
    assert masks.dtype == torch.bool


@pytest.mark.parametrize("refiner", REFINERS)
@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 9, 9), torch.zeros(9, 9, 3, dtype=torch.uint8), torch.zeros(1, 3, 9, 9, dtype=torch.uint8)],
    ids=["float", "channels last", "batch"],
)
def test_other_images_are_refused(refiner, image):
    with pytest.raises(ModelInputError, match="uint8 RGB image"):
        REFINERS[refiner]().outline(image)


@pytest.mark.parametrize("refiner", REFINERS)
@pytest.mark.parametrize("boxes", [torch.zeros(3, 5), torch.zeros(4), torch.tensor([[0, 0, torch.inf, 1]])], ids=str)
def test_other_boxes_are_refused(refiner, boxes):
    with pytest.raises(ModelInputError, match="finite boxes"):
        REFINERS[refiner]().outline(picture(20, 20)).masks(boxes)


@pytest.mark.parametrize("refiner", REFINERS)
def test_the_protocol_names_the_refiner(refiner):
    assert refiner in str(REFINERS[refiner]().protocol["refiner"]).lower()


def test_three_thousand_boxes_need_little_memory():
    image, boxes = picture(700, 900), boxes_in(700, 900, 3000)  # 2 GB of masks, were they all held
    outliner = SamRefiner(small_sam(), boxes_at_once=64).outline(image)
    next(iter(outliner.chunks(boxes)))
    before, area, count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for _, masks in zip(range(6), outliner.chunks(boxes), strict=False):
        area, count = area + int(masks.sum()), count + len(masks)
    assert area > 0
    assert count >= 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_autocast_stays_close():
    sam, image, boxes = small_sam(), picture(64, 64), boxes_in(64, 64, 6)
    exact = torch.cat(list(SamRefiner(sam).outline(image).logits(boxes)))
    rough = torch.cat(list(SamRefiner(sam, precision="bfloat16").outline(image).logits(boxes)))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert ((rough > 0) == (exact > 0)).float().mean() > 0.97


def test_evaluation_mode_and_no_gradients():
    refiner = SamRefiner(small_sam()).train()
    assert not refiner.training
    assert not any(parameter.requires_grad for parameter in refiner.parameters())


@pytest.mark.parametrize("options", [{"precision": "float64"}, {"boxes_at_once": 0}], ids=str)
def test_wrong_options_are_refused_by_name(options):
    with pytest.raises(ModelInputError, match=next(iter(options))):
        SamRefiner(small_sam(), **options)


def test_weights_load_from_a_path_without_anything_left_empty(tmp_path, monkeypatch):
    sam, path = small_sam(3), tmp_path / "sam.pth"
    torch.save(sam.state_dict(), path)
    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: small_sam(4))
    refiner = load_sam("vit_b", weights=str(path))
    assert not any(tensor.is_meta for tensor in [*refiner.parameters(), *refiner.buffers()])
    image, boxes = picture(48, 64), boxes_in(48, 64, 3)
    assert torch.equal(refiner.outline(image).masks(boxes), SamRefiner(sam).outline(image).masks(boxes))
    assert refiner.protocol["refiner_weights"] == str(path)


def test_files_that_are_not_the_weights_are_refused(tmp_path):
    other, text = tmp_path / "other.pth", tmp_path / "text.pth"
    torch.save(small_sam().state_dict(), other)
    text.write_text("no tensors here")
    for path in (other, text):
        with pytest.raises(ModelInputError, match="SAM vit_b"):
            load_sam("vit_b", weights=str(path))
    with pytest.raises(ModelInputError, match="vit_b, vit_l, vit_h"):
        load_sam("vit_x", weights="random:0")
    with pytest.raises(ModelInputError, match="catalogue"):
        load_sam("vit_b", weights=str(tmp_path / "nothing.pth"))
    with pytest.raises(ModelInputError, match="random:0"):
        load_sam("vit_b", weights="random:x")


def outliner(defects, level=0.5, pixels=None):
    """Of an image whose map is given; black where it has no pixels, so that colours tell nothing."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8) if pixels is None else pixels
    return MapOutliner(
        image, level, lambda: torch.as_tensor(defects, dtype=torch.float32), lambda: np.zeros((1, 1), int)
    )


def test_a_region_is_what_stands_out_in_its_box_by_its_own_maximum():
    values = torch.zeros(60, 80)
    values[10:20, 10:20], values[12:16, 12:16] = 0.2, 0.4
    values[40:50, 40:60] = 1.0
    boxes = torch.tensor([[8.0, 8, 24, 24], [35, 35, 70, 55], [0, 0, 80, 60]])
    weak, strong, both = outliner(values).masks(boxes)
    assert weak.nonzero().amin(0).tolist() == [12, 12]
    assert weak.nonzero().amax(0).tolist() == [15, 15]
    assert strong.sum() == 200
    assert torch.equal(both, strong)  # 0.4 is less than half of 1
    assert outliner(values, level=0.4).masks(boxes)[0].sum() == 100


def test_a_small_map_is_enlarged_to_the_image():
    values = torch.zeros(6, 8)
    values[2:4, 2:4] = 1
    mask = outliner(values).masks(torch.tensor([[0.0, 0, 80, 60]]))[0]
    assert torch.equal(mask.nonzero().amin(0), torch.tensor([20, 20]))
    assert 350 < mask.sum() <= 400


@pytest.mark.parametrize(("radius", "guessed"), [(6, 1.2), (25, 0.7), (25, 1.3), (90, 1.2)])
def test_a_guess_moves_to_where_colours_change(radius, guessed):
    y, x = np.ogrid[:300, :400]
    distance = np.hypot(y - 140, x - 190)
    region, rng = distance <= radius, np.random.default_rng(0)
    pixels = rng.normal(140, 6, (300, 400, 3))
    pixels[region] += (-20, -60, -60)
    pixels = pixels.clip(0, 255).astype(np.uint8)
    guess = distance <= guessed * radius
    rows, columns = (slice(max(0, c - 2 * radius), c + 2 * radius) for c in (140, 190))
    found = outlined(pixels, (rows, columns), guess[rows, columns])
    assert overlap(found, region[rows, columns]) > max(0.8, overlap(guess, region))


def test_a_guess_stays_where_colours_tell_nothing():
    guess = np.zeros((30, 40), dtype=bool)
    guess[10:20, 10:25] = True
    assert np.array_equal(outlined(np.full((60, 80, 3), 128, np.uint8), (slice(10, 40), slice(20, 60)), guess), guess)
    few = np.zeros((30, 40), dtype=bool)
    few[4, 4] = True
    noise = picture(60, 80).permute(1, 2, 0).numpy()
    assert np.array_equal(outlined(noise, (slice(10, 40), slice(20, 60)), few), few)


def test_a_box_of_a_large_image_is_cut_out_small(monkeypatch):
    seen, grab = [], cv2.grabCut
    monkeypatch.setattr(cv2, "grabCut", lambda image, *rest: seen.append(image.shape) or grab(image, *rest))
    pixels, guess = np.zeros((3000, 4000, 3), np.uint8), np.zeros((500, 300), bool)
    pixels[1100:1300, 2100:2200], guess[90:310, 90:210] = 255, True
    found = outlined(pixels, (slice(1000, 1500), slice(2000, 2300)), guess)
    assert seen == [(64, 55, 3)]  # 1500 x 1300 pixels of it
    assert overlap(found, pixels[1000:1500, 2000:2300, 0] > 0) > 0.7


def test_where_nothing_stands_out_the_region_is_the_box():
    boxes = torch.tensor([[10.0, 20, 30, 44], [-10, -10, 12.4, 9.5], [-1, -1, 90, 90]])
    below = torch.ones(60, 80)
    below[15:50, 5:35] = 0  # all of the first box is less than the median
    expected = torch.zeros(3, 60, 80, dtype=torch.bool)
    expected[0, 20:44, 10:30] = True
    expected[1, :10, :13] = True
    expected[2] = True
    assert torch.equal(outliner(torch.full((60, 80), 0.3)).masks(boxes), expected)
    assert torch.equal(outliner(below).masks(boxes)[0], expected[0])


def test_a_box_that_covers_no_pixel_has_an_empty_mask():
    boxes = torch.tensor([[-90.0, -90, -10, -10], [80, 5, 99, 9], [20, 20, 20, 20], [30, 10, 10, 30]])
    outlines = by_map().outline(picture(60, 80))
    assert not outlines.masks(boxes).any()
    assert not outlines.object_masks(boxes).any()


def test_outlines_are_repeatable_and_each_box_by_itself():
    image, boxes, refiner = picture(90, 120), boxes_in(90, 120, 12), by_map()
    once = refiner.outline(image).masks(boxes)
    assert once.any()
    assert not once.flatten(1).all(dim=1).any()
    assert torch.equal(refiner.outline(image).masks(boxes.flip(0)).flip(0), once)
    assert torch.equal(torch.cat([refiner.outline(image).masks(box[None]) for box in boxes]), once)


def test_an_object_is_outlined_by_its_background_and_a_defect_on_it_by_the_map():
    """The scene of SAA+ asks for each in its own way, and so does a refiner that knows no difference."""
    pixels = np.full((120, 160, 3), 40, np.uint8)
    y, x = np.ogrid[:120, :160]
    disc = (y - 60) ** 2 + (x - 80) ** 2 <= 45**2
    pixels[disc] = 180
    image, generator = torch.from_numpy(pixels).permute(2, 0, 1), by_map()
    objects, product = generator.propose_objects(image, ["disc"])[0], ProductPrompt("disc")
    seen = torch.cat(list(Scene((120, 160), generator.outline(image), objects, Rules.paper()).object_masks(product)))
    assert seen.shape == (1, 120, 160)
    assert overlap(seen[0].numpy(), disc) > 0.9
    other = Scene((120, 160), SamRefiner(small_sam()).outline(image), objects, Rules.paper())
    by_sam = torch.cat(list(other.object_masks(product)))
    assert torch.equal(by_sam, other.masks(other.object_boxes(product)))


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_boxes_and_outlines_share_one_look_at_an_image(monkeypatch):
    generator, image, calls = by_map(), picture(50, 60), []
    encode = generator.backbone.encode_image
    monkeypatch.setattr(generator.backbone, "encode_image", lambda images: calls.append(len(images)) or encode(images))
    generator.propose(image, ["dent", "scratch"])
    boxes = boxes_in(50, 60, 3)
    first = generator.outline(image).masks(boxes)
    assert calls == [1, 9]
    other = picture(50, 60, seed=1)
    lazy, second = generator.outline(other), generator.outline(image)
    assert calls == [1, 9]
    assert not torch.equal(lazy.masks(boxes), first)
    assert calls == [1, 9, 1, 9]
    assert torch.equal(second.masks(boxes), first)  # seen anew, since another came between
