"""The refiners: SAM's masks against the library's predictor, what they do with odd boxes and images, loading."""

import resource

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from models.errors import ModelInputError
from models.saa.refiner.grabcut import GrabCutRefiner, cut_window
from models.saa.refiner.sam import refiner as sam_refiner
from models.saa.refiner.sam.refiner import SamRefiner, load_sam
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


REFINERS = {"sam": lambda: SamRefiner(small_sam()), "grabcut": GrabCutRefiner}
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


def disc(height, width, centre, radius):
    y, x = np.ogrid[:height, :width]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def planted(height, width, region, seed=0):
    """Grey noise with a darker, reddish region."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(140, 6, (height, width, 3))
    pixels[region] += (-20, -60, -60)
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(("radius", "grown"), [(6, 1.5), (25, 1.2), (25, 1.8), (90, 1.5)])
def test_a_planted_disc_is_outlined(radius, grown):
    region = disc(300, 400, (140, 190), radius)
    reach = radius * grown
    box = torch.tensor([[190 - reach, 140 - reach, 190 + reach, 140 + reach]])
    got = GrabCutRefiner().outline(planted(300, 400, region)).masks(box)[0].numpy()
    assert overlap(got, region) > (0.8 if radius > 6 else 0.6)


def test_what_cannot_be_told_from_its_surroundings_stays_the_box():
    flat = torch.full((3, 60, 80), 128, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 20, 30, 44], [-10, -10, 12.4, 9.5], [-1, -1, 90, 90]])
    masks = GrabCutRefiner().outline(flat).masks(boxes)
    expected = torch.zeros(3, 60, 80, dtype=torch.bool)
    expected[0, 20:44, 10:30] = True
    expected[1, :10, :13] = True
    expected[2] = True
    assert torch.equal(masks, expected)


def test_a_box_that_covers_no_pixel_has_an_empty_mask():
    boxes = torch.tensor([[-90.0, -90, -10, -10], [80, 5, 99, 9], [20, 20, 20, 20], [30, 10, 10, 30]])
    assert not GrabCutRefiner().outline(picture(60, 80)).masks(boxes).any()


def test_outlines_are_repeatable_and_each_box_by_itself():
    image, boxes = picture(90, 120), boxes_in(90, 120, 12)
    outline = GrabCutRefiner().outline
    once = outline(image).masks(boxes)
    assert once.any()
    assert torch.equal(outline(image).masks(boxes.flip(0)).flip(0), once)
    assert torch.equal(torch.cat([outline(image).masks(box[None]) for box in boxes]), once)


def test_grabcut_becomes_the_box_where_it_keeps_too_little_of_it():
    region = disc(100, 100, (50, 50), 4)
    image, box = planted(100, 100, region), torch.tensor([[20.0, 20, 80, 80]])
    small = GrabCutRefiner(least_share=0).outline(image).masks(box)
    assert 0 < small.sum() < 0.2 * 3600
    assert GrabCutRefiner(least_share=0.2).outline(image).masks(box).sum() == 3600


def test_a_window_holds_the_box_and_its_surroundings_at_a_small_size():
    pixels = np.zeros((3000, 4000, 3), dtype=np.uint8)
    pixels[1000:1500, 2000:2300] = 255
    window = cut_window(pixels, [2000.0, 1000, 2300, 1500], margin=1.0, side=96)
    assert window.extent == (slice(500, 2000), slice(1500, 2800))
    assert window.picture.shape == (96, 83, 3)
    assert overlap(window.inside, window.picture[..., 0] > 127) > 0.9
    strip = cut_window(np.zeros((40, 400, 3), np.uint8), [0.0, 0, 400, 3], margin=1.0, side=96)
    assert strip.extent == (slice(0, 40), slice(0, 400))
    assert strip.inside.any()
    assert not strip.inside.all()


@pytest.mark.parametrize("options", [{"margin": 0}, {"side": 4}, {"iterations": 0}, {"least_share": 1}], ids=str)
def test_wrong_window_options_are_refused_by_name(options):
    with pytest.raises(ModelInputError, match=next(iter(options))):
        GrabCutRefiner(**options)
