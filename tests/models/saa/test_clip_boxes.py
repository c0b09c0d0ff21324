"""Boxes from the small CLIP: planted blobs are boxed, and planted defects found where the weights that ship look."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models.clip.backbone import load_backbone
from models.clip_adapter.adapter import random_adapter
from models.clip_adapter.checkpoint import trained_adapter
from models.errors import ModelInputError
from models.saa.generator.blobs import blob_boxes, foreground_boxes
from models.saa.generator.clip_boxes import ClipBoxGenerator
from models.saa.property import to_pixels
from tests.support.clip_stand_ins import small_backbone
from tracks.datasets.synthetic import Synthetic


def small(**options) -> ClipBoxGenerator:
    backbone = small_backbone("resnet")
    return ClipBoxGenerator(
        backbone, random_adapter(backbone.stage_widths, backbone.embed_dim), **{"grid": 32, **options}
    )


@pytest.fixture(scope="module")
def shipped() -> ClipBoxGenerator:
    return ClipBoxGenerator(load_backbone("tiny", weights="tiny_clip"), trained_adapter("tiny_adapter", []))


def maps_of(generator, image, caption):
    """The defect probability of each pixel of a map, one square map per scale."""
    return [generator._map(generator._look(image, scale), caption) for scale in generator.scales]


def noise(size=(60, 80), seed=0):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_planted_blobs_are_boxed_with_their_means():
    values = np.full((40, 80), 0.1, dtype=np.float32)
    values[10:20, 8:24] = 0.9
    values[30:32, 60:64] = 0.7
    values[5, 70] = 0.3  # below half way
    boxes, scores = blob_boxes(values, 0.5)
    order = np.argsort(-scores)
    np.testing.assert_allclose(scores[order], [0.9, 0.7], rtol=1e-6)
    np.testing.assert_allclose(boxes[order], [[0.2, 0.375, 0.2, 0.25], [0.775, 0.775, 0.05, 0.05]], rtol=1e-6)
    assert boxes.dtype == scores.dtype == np.float32
    assert len(blob_boxes(values, 0.2)[1]) == 3


def test_corners_touching_are_one_blob():
    values = np.zeros((20, 20), dtype=np.float32)
    values[2:6, 2:6] = values[6:10, 6:10] = 1
    boxes, _ = blob_boxes(values, 0.5)
    np.testing.assert_allclose(boxes, [[0.3, 0.3, 0.4, 0.4]], rtol=1e-6)


def test_a_flat_map_has_no_blob():
    boxes, scores = blob_boxes(np.full((30, 30), 0.4, dtype=np.float32), 0.5)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


@pytest.mark.parametrize("scales", [(1,), (1, 2), (2, 3)])
def test_one_proposal_list_per_caption_in_order_and_in_range(scales):
    generator = small(scales=scales, min_score=0.0)
    found = generator.propose(noise(), ["scratch", "a dent. a hole", "scratch"])
    assert len(found) == 3
    for each in found:
        assert each.boxes.shape == (len(each.scores), 4)
        assert each.boxes.dtype == each.scores.dtype == torch.float32
        assert len(each.phrases) == len(each.scores) > 0
        assert ((each.scores >= 0) & (each.scores <= 1)).all()
        corners = to_pixels(each.boxes, (1, 1))
        assert ((corners > -1e-6) & (corners < 1 + 1e-6)).all()
        assert (each.scores.diff() <= 0).all()
    assert_close(found[0].boxes, found[2].boxes)
    assert [len(each.shape) for each in maps_of(generator, noise(), "scratch")] == [2] * len(scales)


def test_another_caption_is_another_map():
    generator = small()
    one, other = (maps_of(generator, noise(), text)[0] for text in ("scratch", "wrong colour"))
    assert (one - other).abs().max() > 1e-4


def test_windows_of_a_finer_scale_are_put_together_in_place():
    """A map of half windows shows each quarter of the image as the window on it sees it."""
    generator = small(scales=(2,))
    image = noise((96, 96))
    whole = maps_of(generator, image, "scratch")[0]
    single = small(scales=(1,))
    corner = maps_of(single, image[:, :48, :48], "scratch")[0]
    assert whole.shape == (64, 64)
    assert_close(whole[:16, :16], corner[:16, :16])  # seen by this window alone
    assert_close(whole[-16:, -16:], maps_of(single, image[:, 48:, 48:], "scratch")[0][-16:, -16:])


def test_one_pass_of_the_encoder_serves_all_captions(monkeypatch):
    generator = small(scales=(1, 2))
    calls = []
    encode = generator.backbone.encode_image
    monkeypatch.setattr(generator.backbone, "encode_image", lambda images: calls.append(len(images)) or encode(images))
    generator.propose(noise(), ["scratch", "dent", "hole"])
    assert calls == [1, 9]


def test_near_equal_boxes_of_a_caption_come_once():
    many = small(scales=(1, 2), levels=(0.45, 0.5, 0.55), min_score=0.0, box_overlap=1.0).propose(noise(), ["dent"])[0]
    few = small(scales=(1, 2), levels=(0.45, 0.5, 0.55), min_score=0.0, box_overlap=0.5).propose(noise(), ["dent"])[0]
    assert 0 < len(few.scores) < len(many.scores)


def test_boxes_below_the_least_score_are_not_proposed():
    generator = small(min_score=0.999)
    assert generator.propose(noise(), ["dent"])[0].boxes.shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (40, 400), (3, 7)])
@pytest.mark.parametrize("value", [255, None])
def test_any_size_and_any_flat_picture_works(size, value):
    image = noise(size) if value is None else torch.full((3, *size), value, dtype=torch.uint8)
    generator = small(scales=(1, 2))
    for found in (generator.propose(image, ["dent"])[0], generator.propose_objects(image, ["nut"])[0]):
        assert found.boxes.isfinite().all()
        assert found.scores.isfinite().all()


def test_objects_are_found_by_their_background_and_have_no_words():
    image = torch.full((3, 60, 80), 60, dtype=torch.uint8)
    image[:, 12:48, 20:60] = 200
    found = small().propose_objects(image, ["nut", "bolt"])
    assert len(found) == 2
    assert_close(found[0].boxes, torch.tensor([[0.5, 0.5, 0.5, 0.6]]), atol=0.03, rtol=0)
    assert found[0].phrases == ("",)


def test_what_ships_boxes_the_defects_of_the_validation_products(shipped):
    """Of the planted defects of cork, at least two in three have their centre in one of the three best boxes."""
    data = Synthetic("validation", test_normal=0, test_per_kind=1)
    hits = []
    for sample in data.test("cork"):
        mask = sample.load_mask()
        image = torch.from_numpy(np.asarray(sample.load_image()).copy()).permute(2, 0, 1)
        y, x = (axis.mean() for axis in mask.nonzero())
        found = shipped.propose(image, ["defect on cork"])[0]
        corners = to_pixels(found.boxes[:3], mask.shape)
        hits.append(any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in corners.tolist()))
    assert np.mean(hits) >= 2 / 3


def test_what_ships_outlines_the_defects_of_the_validation_products(shipped):
    """Within a box around a planted defect of cork, the outline is nearer to it than the box is."""
    better = []
    for sample in Synthetic("validation", test_normal=0, test_per_kind=2).test("cork"):
        mask = torch.from_numpy(sample.load_mask() > 0)
        image = torch.from_numpy(np.asarray(sample.load_image()).copy()).permute(2, 0, 1)
        (y0, x0), (y1, x1) = mask.nonzero().amin(0).tolist(), mask.nonzero().amax(0).tolist()
        box = torch.tensor([[x0 - 20.0, y0 - 20, x1 + 20, y1 + 20]])
        whole = torch.zeros_like(mask)
        whole[max(0, y0 - 20) : y1 + 20, max(0, x0 - 20) : x1 + 20] = True
        found = shipped.outline(image).masks(box)[0]
        better.append(((found & mask).sum() / (found | mask).sum() > 1.5 * mask.sum() / whole.sum()).item())
    assert np.mean(better) >= 2 / 3


def test_defects_score_higher_than_their_absence(shipped):
    data = Synthetic("validation", test_normal=4, test_per_kind=1)
    best = {0: [], 1: []}
    for sample in data.test("cardboard"):
        image = torch.from_numpy(np.asarray(sample.load_image()).copy()).permute(2, 0, 1)
        scores = shipped.propose(image, ["defect"])[0].scores
        best[sample.label].append(float(scores.max()) if len(scores) else 0.0)
    assert np.mean(best[1]) > np.mean(best[0]) + 0.1


def test_the_protocol_names_the_weights(shipped):
    assert shipped.protocol["generator_weights"] == "tiny_clip"
    assert "synthetic:source" in shipped.protocol["generator_trained_on"]
    assert shipped.protocol["generator"].startswith("CLIP box generator")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales"),
        ({"scales": [0]}, "scales"),
        ({"scales": [1.5]}, "scales"),
        ({"levels": []}, "levels"),
        ({"levels": [1.0]}, "levels"),
        ({"box_overlap": 0}, "box_overlap"),
        ({"min_score": 1.5}, "min_score"),
        ({"grid": 15}, "grid"),
        ({"outline_level": 1.0}, "outline_level"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ModelInputError, match=message):
        small(**options)


def test_training_mode_is_refused_silently():
    assert not small().train().backbone.training


# Objects before their background.

SIZES = [(120, 160), (300, 400), (400, 90)]


def before_a_ground(size, *bodies, seed=0, slope=0.0):
    """A grey, noisy (3, H, W) picture with a sloping light and bodies at (x0, y0, x1, y1) in fractions."""
    rng = np.random.default_rng(seed)
    pixels = 90 + 6 * rng.standard_normal((*size, 3)) + slope * np.linspace(0, 1, size[1])[None, :, None]
    for x0, y0, x1, y1 in bodies:
        rows, columns = slice(round(y0 * size[0]), round(y1 * size[0])), slice(round(x0 * size[1]), round(x1 * size[1]))
        pixels[rows, columns] += 80
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slope", [0.0, 60.0])
def test_a_planted_body_is_boxed(size, slope):
    boxes, scores = foreground_boxes(before_a_ground(size, (0.2, 0.3, 0.6, 0.9), slope=slope))
    assert_close(boxes, torch.tensor([[0.4, 0.6, 0.4, 0.6]]), atol=0.03, rtol=0)
    assert scores.shape == (1,)
    assert 0.5 < scores[0] <= 1


def test_several_bodies_largest_first():
    boxes, scores = foreground_boxes(before_a_ground((200, 200), (0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.9, 0.8)))
    assert_close(boxes, torch.tensor([[0.7, 0.65, 0.4, 0.3], [0.2, 0.2, 0.2, 0.2]]), atol=0.03, rtol=0)
    assert scores.shape == (2,)


def test_a_surface_has_no_object():
    for seed in range(3):
        assert len(foreground_boxes(before_a_ground((150, 150), seed=seed, slope=40.0))[0]) == 0


def test_a_pattern_that_reaches_the_border_is_a_surface():
    stripes = [(0.1 * k, 0.0, 0.1 * k + 0.05, 1.0) for k in range(10)]
    assert len(foreground_boxes(before_a_ground((160, 160), *stripes))[0]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (40, 400)])
@pytest.mark.parametrize("value", [0, 77])
def test_a_constant_picture_of_any_size_has_no_object(size, value):
    boxes, scores = foreground_boxes(torch.full((3, *size), value, dtype=torch.uint8))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert boxes.dtype == scores.dtype == torch.float32
