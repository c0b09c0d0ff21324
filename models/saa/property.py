"""Property prompts, SAA+ Eq. 4: which regions can be a defect of the object, by size, by location and by name.

Departs from the paper, each by a switch of `models/saa/rules.py`: the published code compares boxes, before they
are outlined, with the largest box of an object, and does not look at the location; it also drops a box whose words name
the object.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from models.saa.confidence import KeepRegions
from models.saa.generator.base import Proposals
from models.saa.language import ProductPrompt
from models.saa.refiner.base import ObjectOutliner, Outliner
from models.saa.rules import Location, NameFilter, Rules

BEST_SHARE = 0.5
"""Of the best object box's score: what another box needs to count as the object too ("best")."""
MAX_ELEMENTS = 2**26
"""Pixels of object masks held at a time."""


class Scene:
    """An image in front of the refiner, and the boxes of the object; its outlines are made when first asked for.

    Args:
        size: (height, width) of the image.
        outliner: of the image.
        objects: what the generator found for the object's name; None where it was not asked.
    """

    def __init__(self, size: tuple[int, int], outliner: Outliner, objects: Proposals | None, rules: Rules):
        self.size = size
        self.outliner = outliner
        self._objects = objects
        self._rules = rules

    def object_boxes(self, product: ProductPrompt) -> Tensor:
        """(M, 4) boxes of the object (cx, cy, w, h) in fractions of the image."""
        if self._objects is None:
            return torch.zeros(0, 4)
        boxes, scores = self._objects.boxes, self._objects.scores
        if self._rules.objects == "capped":
            return boxes[small_boxes(boxes, 1 / product.count)]
        return boxes[scores >= BEST_SHARE * scores.max()] if len(boxes) else boxes

    def object_masks(self, product: ProductPrompt) -> Iterator[Tensor]:
        """(m, H, W) bool: the objects outlined, a few at a time."""
        boxes, outliner = to_pixels(self.object_boxes(product), self.size), self.outliner
        masks = outliner.object_masks if isinstance(outliner, ObjectOutliner) else outliner.masks
        for part in boxes.split(max(1, MAX_ELEMENTS // (self.size[0] * self.size[1]))):
            if len(part):
                yield masks(part)

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes (cx, cy, w, h) in fractions to (N, H, W) bool regions (Eq. 2)."""
        return self.outliner.masks(to_pixels(boxes, self.size))

    def plausible(
        self, found: Sequence[Proposals], filters: Sequence[str], product: ProductPrompt, with_property: bool
    ) -> tuple[Tensor, Tensor]:
        """(N, 4) boxes and (N,) scores of all captions, less those that can be ruled out without an outline.

        That is by their words, `filters` saying for each caption which name the object, and by theta_area on boxes.
        """
        rules, kept = self._rules, []
        for boxes, names in zip(found, filters, strict=True):
            good = ~names_object(boxes.phrases, names, rules.name_filter, boxes.boxes.device)
            if with_property and rules.area_of == "boxes":
                good &= small_boxes(boxes.boxes, object_box_area(self.object_boxes(product)) * product.area_share)
            kept.append((boxes.boxes[good], boxes.scores[good]))
        return torch.cat([boxes for boxes, _ in kept]), torch.cat([scores for _, scores in kept])

    def property_rule(self, product: ProductPrompt) -> KeepRegions | None:
        """Eq. 4 on outlined regions; None where it says nothing about them."""
        rules = self._rules
        if rules.area_of == "boxes" and rules.location == "off":
            return None
        area_share = math.inf if rules.area_of == "boxes" else product.area_share
        objects = self._object(product)

        def keep(masks: Tensor) -> Tensor:
            return fitting_regions(masks, objects, area_share, product.overlap, rules.location, product.count)

        return keep

    def _object(self, product: ProductPrompt) -> Tensor:
        """(1, H, W) bool: all objects together; (0, H, W) where nothing of them is seen."""
        united = torch.zeros(self.size, dtype=torch.bool)
        for masks in self.object_masks(product):
            united = united.to(masks.device) | masks.any(dim=0)
        return united[None] if united.any() else united[None][:0]


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) boxes (cx, cy, w, h) in fractions of the image to (x0, y0, x1, y1) in its pixels, not clipped."""
    height, width = size
    return box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])


def small_boxes(boxes: Tensor, limit: float) -> Tensor:
    """(N,) bool: boxes of some area, but less than `limit` of the image."""
    areas = boxes[:, 2] * boxes[:, 3]
    return (areas > 0) & (areas < limit)


def object_box_area(boxes: Tensor) -> float:
    """Area of the largest object box as a share of the image; 1 where there is none, as in the published code."""
    return float((boxes[:, 2] * boxes[:, 3]).max()) if len(boxes) else 1.0


def fitting_regions(
    masks: Tensor, objects: Tensor, area_share: float, overlap: float, location: Location, count: int = 1
) -> Tensor:
    """(N,) bool: the regions among (N, H, W) masks that Eq. 4 keeps.

    The (M, H, W) `objects` are taken together. A region is smaller than `area_share` of what each of `count` objects
    has of their area, and with "iou" its intersection over union with them is more than `overlap`. An empty mask is no
    region. With M = 0 the whole image is the object.
    """
    everything = objects.bool().any(dim=0) if len(objects) else masks.new_ones(masks.shape[1:])
    areas, object_area = _pixels(masks), everything.sum().double()
    kept = (areas > 0) & (areas < area_share * object_area / count)
    if location == "off":
        return kept
    shared = _pixels(masks & everything)
    return kept & (shared / (areas + object_area - shared).clamp(min=1) > overlap)


def names_object(phrases: Sequence[str], name: str, rule: NameFilter, device: torch.device | None = None) -> Tensor:
    """(N,) bool: the boxes whose words name the object itself.

    `name` occurs somewhere in the words ("substring"), or all its words are among them ("tokens"); "" never does.
    """
    name, words = name.lower(), set(name.lower().split())

    def named(phrase: str) -> bool:
        if rule == "substring":
            return name in phrase
        return rule == "tokens" and words <= set(phrase.replace(".", " ").replace(",", " ").split())

    return torch.tensor([bool(words) and named(phrase.lower()) for phrase in phrases], dtype=torch.bool, device=device)


def _pixels(masks: Tensor) -> Tensor:
    """(N,) numbers of pixels; float64, since float32 counts exactly only up to 16 million."""
    return masks.flatten(1).sum(dim=1).double()
