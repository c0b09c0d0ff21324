"""One image under inspection: what the refiner sees of it, and the object found in it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from models.saa.confidence import Rule
from models.saa.generator.base import Proposals
from models.saa.language.prompts import ProductPrompt
from models.saa.refiner.base import Outliner
from models.saa.regions import fitting_regions, names_object, object_box_area, small_boxes, to_pixels
from models.saa.rules import Rules

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
        boxes = self.object_boxes(product)
        for part in boxes.split(max(1, MAX_ELEMENTS // (self.size[0] * self.size[1]))):
            if len(part):
                yield self.masks(part)

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes (cx, cy, w, h) in fractions to (N, H, W) bool regions (Eq. 2)."""
        return self.outliner.masks(to_pixels(boxes, self.size))

    def plausible(self, found: Proposals, names: str, product: ProductPrompt, with_property: bool) -> Tensor:
        """(N,) bool: the boxes that need no outline to be ruled out: by their words, and by theta_area on boxes."""
        rules = self._rules
        kept = ~names_object(found.phrases, names, rules.name_filter, found.boxes.device)
        if with_property and rules.area_of == "boxes":
            largest = object_box_area(self.object_boxes(product))
            kept &= small_boxes(found.boxes, largest * product.area_share)
        return kept

    def property_rule(self, product: ProductPrompt) -> Rule | None:
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
