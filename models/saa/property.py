"""Property prompts, SAA+ Eq. 4: which regions can be a defect of the object, by size, by place and by name.

Departs from the paper, each by a switch of `models/saa/rules.py`: the published code compares boxes, before they
are outlined, with the largest box of an object, and does not look at the place; it also drops a box whose words name
the object. "inside" asks for the region's own share in the object: a small defect's intersection over union with a
whole object is small by nature, wherever it lies.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Location = Literal["iou", "inside", "off"]
NameFilter = Literal["tokens", "substring", "off"]
LOCATIONS, NAME_FILTERS = get_args(Location), get_args(NameFilter)


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) boxes (cx, cy, w, h) in fractions of the image to (x0, y0, x1, y1) in its pixels, not clipped."""
    height, width = size
    centre, extent = boxes[:, :2], boxes[:, 2:]
    scale = boxes.new_tensor([width, height, width, height])
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1) * scale


def box_areas(boxes: Tensor) -> Tensor:
    """(N,) areas of boxes (cx, cy, w, h), as shares of the image."""
    return boxes[:, 2] * boxes[:, 3]


def mask_areas(masks: Tensor) -> Tensor:
    """(N,) areas of (N, H, W) masks, as shares of the image."""
    return masks.flatten(1).float().mean(dim=1)


def small_boxes(boxes: Tensor, limit: float) -> Tensor:
    """(N,) bool: boxes of some area, but less than `limit` of the image."""
    areas = box_areas(boxes)
    return (areas > 0) & (areas < limit)


def object_box_area(boxes: Tensor) -> float:
    """Area of the largest object box as a share of the image; 1 where there is none, as in the published code."""
    return float(box_areas(boxes).max()) if len(boxes) else 1.0


def fitting_regions(
    masks: Tensor, objects: Tensor, area_share: float, overlap: float, location: Location, count: int = 1
) -> Tensor:
    """(N,) bool: the regions among (N, H, W) masks that Eq. 4 keeps.

    The (M, H, W) `objects` are taken together. A region is smaller than `area_share` of what each of `count` objects
    has of their area, and has more than `overlap` in common with them: intersection over union ("iou"), or over the
    region itself ("inside"). An empty mask is no region. With M = 0 the whole image is the object.
    """
    everything = objects.bool().any(dim=0) if len(objects) else masks.new_ones(masks.shape[1:])
    areas, object_area = _pixels(masks), everything.sum().double()
    kept = (areas > 0) & (areas < area_share * object_area / count)
    if location == "off":
        return kept
    shared = _pixels(masks & everything)
    whole = areas + object_area - shared if location == "iou" else areas
    return kept & (shared / whole.clamp(min=1) > overlap)


def names_object(phrases: Sequence[str], name: str, rule: NameFilter, device: torch.device | None = None) -> Tensor:
    """(N,) bool: the boxes whose words name the object itself.

    `name` occurs somewhere in the words ("substring"), or all its words are among them ("tokens"); "" never does.
    """
    wanted = set(name.lower().split())
    named = [bool(wanted) and _named(phrase.lower(), name.lower(), wanted, rule) for phrase in phrases]
    return torch.tensor(named, dtype=torch.bool, device=device)


def _named(phrase: str, name: str, wanted: set[str], rule: NameFilter) -> bool:
    if rule == "substring":
        return name in phrase
    return rule == "tokens" and wanted <= set(phrase.replace(".", " ").replace(",", " ").split())


def _pixels(masks: Tensor) -> Tensor:
    """(N,) numbers of pixels; float64, since float32 counts exactly only up to 16 million."""
    return masks.flatten(1).sum(dim=1).double()
