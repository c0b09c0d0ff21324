"""A box and its surroundings cut out of an image at a small size, for refiners that look at colours alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.errors import ModelInputError
from models.saa.refiner.base import check_boxes, check_image

LEAST_MARGIN = 4
"""Pixels around a box that are looked at, at the least."""


@dataclass(frozen=True, eq=False)
class Window:
    """What surrounds a box, scaled down where it is large."""

    picture: np.ndarray  # (h, w, 3) uint8
    inside: np.ndarray  # (h, w) bool: the box
    place: tuple[slice, slice]  # rows and columns of the image
    box: tuple[slice, slice]  # rows and columns of the image, no more than there are


class WindowOutliner:
    """Outlines boxes of one image one by one, each within its own window.

    Args:
        image: (3, H, W) uint8.
        outline: a window to its (h, w) bool region; where that is empty, the region is the box itself.
        margin: width of the surroundings as a share of the box's longer side.
        side: longer side in pixels to which a window is scaled down.
    """

    def __init__(self, image: Tensor, outline: Callable[[Window], np.ndarray], *, margin: float, side: int):
        check_image(image)
        self._image = image
        self._outline = outline
        self._margin = margin
        self._side = side
        self._pixels: np.ndarray | None = None

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, H, W) bool on the boxes' device for (N, 4) boxes (x0, y0, x1, y1) in pixels, not clipped.

        A box that covers no pixel of the image has an empty mask.

        Raises:
            ModelInputError: anything but finite (N, 4) boxes.
        """
        check_boxes(boxes)
        if self._pixels is None:
            self._pixels = np.ascontiguousarray(self._image.permute(1, 2, 0).cpu().numpy())
        masks = np.zeros((len(boxes), *self._pixels.shape[:2]), dtype=bool)
        for mask, box in zip(masks, boxes.tolist(), strict=True):
            self._fill(mask, box, self._pixels)
        return torch.from_numpy(masks).to(boxes.device)

    def _fill(self, mask: np.ndarray, box: list[float], pixels: np.ndarray) -> None:
        window = cut_window(pixels, box, self._margin, self._side)
        if window is None:
            return
        region = self._outline(window)
        if not region.any():
            mask[window.box] = True
            return
        rows, columns = window.place
        size = (columns.stop - columns.start, rows.stop - rows.start)
        mask[window.place] = cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5


def cut_window(pixels: np.ndarray, box: list[float], margin: float, side: int) -> Window | None:
    """The window around a box (x0, y0, x1, y1) of an (H, W, 3) image; None where the box covers no pixel."""
    height, width = pixels.shape[:2]
    across, down = _covered(box[0], box[2], width), _covered(box[1], box[3], height)
    if across.start >= across.stop or down.start >= down.stop:
        return None
    around = max(LEAST_MARGIN, round(margin * max(across.stop - across.start, down.stop - down.start)))
    rows, columns = _widened(down, around, height), _widened(across, around, width)
    scale = min(1.0, side / max(rows.stop - rows.start, columns.stop - columns.start))
    size = tuple(max(1, round((part.stop - part.start) * scale)) for part in (columns, rows))
    picture = cv2.resize(np.ascontiguousarray(pixels[rows, columns]), size, interpolation=cv2.INTER_AREA)
    inside = np.zeros(picture.shape[:2], dtype=bool)
    inside[_scaled(down, rows, len(inside)), _scaled(across, columns, inside.shape[1])] = True
    return Window(picture, inside, (rows, columns), (down, across))


def _covered(start: float, stop: float, length: int) -> slice:
    """Whole pixels between two edges, rounded outwards and cut at the image."""
    return slice(min(length, max(0, int(np.floor(start)))), max(0, min(length, int(np.ceil(stop)))))


def _widened(part: slice, by: int, length: int) -> slice:
    return slice(max(0, part.start - by), min(length, part.stop + by))


def _scaled(part: slice, window: slice, length: int) -> slice:
    """The place of `part` in a window that was resized to `length`: one pixel at the least."""
    scale = length / (window.stop - window.start)
    start = min(length - 1, int((part.start - window.start) * scale))
    return slice(start, max(start + 1, int(np.ceil((part.stop - window.start) * scale))))


class WindowRefiner(ABC):
    """A refiner that outlines each box in a scaled-down window around it.

    Args:
        margin: width of the surroundings as a share of the box's longer side.
        side: longer side in pixels to which box and surroundings are scaled down.

    Raises:
        ModelInputError: a window that shows no surroundings, or hardly a pixel.
    """

    def __init__(self, margin: float, side: int):
        if margin <= 0:
            raise ModelInputError(f"expected margin to be above 0, got {margin}")
        if side < 8:
            raise ModelInputError(f"expected side to be at least 8 pixels, got {side}")
        self.margin = margin
        self.side = side

    def outline(self, image: Tensor) -> WindowOutliner:
        """An outliner of a (3, H, W) uint8 RGB image.

        Raises:
            ModelInputError: anything but such an image.
        """
        return WindowOutliner(image, self._region, margin=self.margin, side=self.side)

    @abstractmethod
    def _region(self, window: Window) -> np.ndarray:
        """(h, w) bool; empty for "the box itself"."""
