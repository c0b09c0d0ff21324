"""The property filter against slow, obvious re-derivations and planted regions."""

import pytest
import torch
from torch.testing import assert_close

from models.saa.property import fitting_regions, names_object, object_box_area, small_boxes, to_pixels


def rectangle(x0, y0, x1, y1, size=(40, 60)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_boxes_to_pixels_of_an_oblong_image_and_not_clipped():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.2], [0.0, 1.0, 0.2, 0.2]])
    expected = torch.tensor([[15.0, 16.0, 45.0, 24.0], [-6.0, 36.0, 6.0, 44.0]])
    assert_close(to_pixels(boxes, (40, 60)), expected)


def test_the_limit_itself_is_too_large_and_no_area_too_small():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.4999], [0.5, 0.5, 0.0, 0.5]])
    assert small_boxes(boxes, 0.25).tolist() == [False, True, False]


def test_object_area_by_boxes_is_the_largest_and_the_image_without_one():
    assert object_box_area(torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.4, 0.9]])) == pytest.approx(0.36)
    assert object_box_area(torch.zeros(0, 4)) == 1.0


def slow_filter(masks, objects, area_share, overlap, location):
    """Eq. 4 pixel by pixel."""
    object_pixels = {(y, x) for o in objects for y, x in o.nonzero().tolist()} if len(objects) else None
    height, width = masks.shape[1:]
    if object_pixels is None:
        object_pixels = {(y, x) for y in range(height) for x in range(width)}
        object_area = height * width
    else:
        object_area = len(object_pixels)
    kept = []
    for mask in masks:
        pixels = {(y, x) for y, x in mask.nonzero().tolist()}
        if not pixels or len(pixels) >= area_share * object_area:
            kept.append(False)
            continue
        shared = len(pixels & object_pixels)
        share = shared / len(pixels | object_pixels) if location == "iou" else 1.0
        kept.append(share > overlap)
    return kept


@pytest.mark.parametrize("location", ["iou", "off"])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("objects", [0, 1, 3])
def test_the_filter_equals_the_slow_one(location, overlap, objects):
    generator = torch.Generator().manual_seed(objects)
    corners = torch.randint(0, 14, (30, 4), generator=generator)
    masks = torch.stack([rectangle(x, y, x + w, y + h, (16, 18)) for x, y, w, h in corners.tolist()])
    bodies = masks[:objects]
    got = fitting_regions(masks, bodies, 0.6, overlap, location)
    assert got.tolist() == slow_filter(masks, bodies, 0.6, overlap, location)
    assert not got.all()
    assert got.any() or overlap == 0.5


def test_planted_regions():
    bottle = rectangle(10, 5, 50, 35)  # 1200 pixels
    regions = {
        "chip inside": rectangle(20, 10, 25, 15),
        "speck beside": rectangle(0, 0, 5, 5),
        "across the edge": rectangle(5, 10, 15, 20),
        "the bottle itself": bottle,
        "nothing": rectangle(0, 0, 0, 0),
    }
    masks = torch.stack(list(regions.values()))

    def kept(location, overlap, share=0.9):
        chosen = fitting_regions(masks, bottle[None], share, overlap, location)
        return [name for name, keep in zip(regions, chosen.tolist(), strict=True) if keep]

    assert kept("iou", 0.0) == ["chip inside", "across the edge"]
    assert kept("off", 0.0) == ["chip inside", "speck beside", "across the edge"]
    assert kept("iou", 0.03) == ["across the edge"], "an IoU with the whole object grows with the region"
    assert kept("off", 0.0, share=0.05) == ["chip inside", "speck beside"]


def test_count_objects_share_their_area():
    bodies = torch.stack([rectangle(0, 0, 20, 20), rectangle(30, 0, 50, 20)])
    region = rectangle(0, 0, 25, 18)[None]  # 450 pixels
    assert fitting_regions(region, bodies, 0.9, 0.0, "iou").tolist() == [True]
    assert fitting_regions(region, bodies, 0.9, 0.0, "iou", count=2).tolist() == [False]


def test_no_region_is_no_region():
    assert fitting_regions(torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0, 8, 8), 0.9, 0.0, "iou").shape == (0,)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("substring", [True, True, True, False, False]),
        ("tokens", [True, True, False, False, False]),
        ("off", [False] * 5),
    ],
)
def test_boxes_that_name_the_object(rule, expected):
    phrases = ["defect bottle", "bottle.", "bottleneck", "defect", ""]
    assert names_object(phrases, "Bottle", rule).tolist() == expected


def test_a_name_of_two_words_needs_both():
    assert names_object(["metal nut", "nut", "nut of metal"], "metal nut", "tokens").tolist() == [True, False, True]
    assert names_object(["metal nut", "nut", "nut of metal"], "metal nut", "substring").tolist() == [True, False, False]


def test_no_name_is_never_found():
    assert names_object(["anomaly", ""], "", "substring").tolist() == [False, False]
    assert names_object([], "nut", "tokens").shape == (0,)
