"""Outlines without weights of their own: of a defect by a map and by colour, of an object by the background.

What stands out in a box, on a map of defects, is the first guess of GrabCut, which moves its edge to where colours
change (C. Rother, V. Kolmogorov, A. Blake, SIGGRAPH 2004, as in OpenCV). Not the published SAA+, which refines with
Segment Anything.
"""

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.saa.refiner.base import check_boxes

MARGIN = 1.0
"""Width of a box's surroundings, whose colours are background, as a share of its longer side."""
LEAST_MARGIN = 4
"""The same in pixels, at the least."""
SIDE = 64
"""Longer side in pixels to which a box and its surroundings are scaled down."""
COMPONENTS = 5
"""Colours in OpenCV's model of the foreground, and of the background: it needs as many pixels of each."""
ITERATIONS = 3
LEAST_SHARE = 0.2
"""A region of less than this share of the first guess is not believed, nor is the whole box: the guess stays."""
LABEL = (
    f"GrabCut, {ITERATIONS} iterations, surroundings of {MARGIN:g} box sides, at most {SIDE} px, where it keeps "
    f"{LEAST_SHARE:g} of that and not the whole box"
)

Extent = tuple[slice, slice]
"""Rows and columns of an image."""


class MapOutliner:
    """Outlines the boxes of one image; both maps are made when the first box of their kind is asked for.

    Args:
        image: (3, H, W) uint8 RGB.
        level: a first guess is where the map is above its median by this share of what its maximum in the box is.
        defects: makes the map of defects, (h, w) of any size.
        objects: makes the map of objects, (h, w) of any size, above 0 where there is one.
    """

    def __init__(self, image: Tensor, level: float, defects: Callable[[], Tensor], objects: Callable[[], np.ndarray]):
        self._pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        self._level, self._defects, self._objects = level, defects, objects

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, H, W) bool on the boxes' device for (N, 4) boxes (x0, y0, x1, y1) in pixels, not clipped.

        The box itself where nothing stands out; an empty mask where it covers no pixel of the image.

        Raises:
            ModelInputError: anything but finite (N, 4) boxes.
        """
        return self._each(boxes, lambda extent: outlined(self._pixels, extent, self._standing_out(extent)))

    def object_masks(self, boxes: Tensor) -> Tensor:
        """The same for boxes of objects."""
        return self._each(boxes, lambda extent: self._before_the_background[extent])

    def _each(self, boxes: Tensor, region: Callable[[Extent], np.ndarray]) -> Tensor:
        check_boxes(boxes)
        height, width = self._pixels.shape[:2]
        masks = np.zeros((len(boxes), height, width), dtype=bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            extent = _covered(top, bottom, height), _covered(left, right, width)
            if mask[extent].size:
                found = region(extent)
                mask[extent] = found if found.any() else True
        return torch.from_numpy(masks).to(boxes.device)

    def _standing_out(self, extent: Extent) -> np.ndarray:
        values, middle = self._map_of_defects
        inside = values[extent]
        return inside > middle + self._level * max(0.0, float(inside.max()) - middle)

    @cached_property
    def _map_of_defects(self) -> tuple[np.ndarray, float]:
        """(H, W) float32, and its median."""
        values = self._enlarged(self._defects().cpu().float())
        return values, float(np.median(values))

    @cached_property
    def _before_the_background(self) -> np.ndarray:
        """(H, W) bool."""
        return self._enlarged(torch.from_numpy(self._objects() > 0).float()) > 0.5

    def _enlarged(self, values: Tensor) -> np.ndarray:
        return F.interpolate(values[None, None], self._pixels.shape[:2], mode="bilinear")[0, 0].numpy()


def outlined(pixels: np.ndarray, extent: Extent, guess: np.ndarray) -> np.ndarray:
    """What of a box of an (H, W, 3) uint8 image has the colours of a first guess at it, both (h, w) bool."""
    around = max(LEAST_MARGIN, round(MARGIN * max(guess.shape)))
    rows, columns = (_widened(part, around, length) for part, length in zip(extent, pixels.shape, strict=False))
    inside = tuple(
        slice(part.start - wide.start, part.stop - wide.start)
        for part, wide in zip(extent, (rows, columns), strict=True)
    )
    window = pixels[rows, columns]
    labels = np.zeros((2, *window.shape[:2]), np.float32)  # the box, and the guess at its region
    labels[0][inside], labels[1][inside] = 1, guess
    scale = min(1.0, SIDE / max(window.shape))
    height, width = (max(1, round(length * scale)) for length in window.shape[:2])
    small, box, first = (
        cv2.resize(np.ascontiguousarray(each), (width, height), interpolation=cv2.INTER_AREA)
        for each in (window, *labels)
    )
    if min((first > 0.5).sum(), (first <= 0.5).sum()) < COMPONENTS:
        return guess
    mask = np.where(first > 0.5, cv2.GC_PR_FGD, np.where(box > 0, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    colours = np.zeros((1, 13 * COMPONENTS)), np.zeros((1, 13 * COMPONENTS))
    cv2.setRNGSeed(0)  # the first guess at the colours is drawn
    cv2.grabCut(small, mask, None, *colours, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    region = (mask & 1).astype(np.float32)
    if region.sum() < LEAST_SHARE * (first > 0.5).sum() or region[box > 0].all():
        return guess
    return cv2.resize(region, window.shape[1::-1], interpolation=cv2.INTER_LINEAR)[inside] > 0.5


def _covered(start: float, stop: float, length: int) -> slice:
    """Whole pixels between two edges, rounded outwards and cut at the image; none where the edges do not span any."""
    first = min(length, max(0, int(np.floor(start))))
    return slice(first, max(first, min(length, int(np.ceil(stop)))))


def _widened(part: slice, by: int, length: int) -> slice:
    return slice(max(0, part.start - by), min(length, part.stop + by))
