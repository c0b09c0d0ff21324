"""A refiner without weights: GrabCut within each box and its surroundings, scaled down where they are large.

C. Rother, V. Kolmogorov, A. Blake: GrabCut (SIGGRAPH 2004), as in OpenCV. Not the published SAA+, which refines with
Segment Anything.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from models.errors import checked
from models.images import check_image
from models.saa.refiner.base import check_boxes

COMPONENTS = 5
"""Colours in OpenCV's model of the foreground, and of the background: it needs as many pixels of each."""
LEAST_MARGIN = 4
"""Pixels around a box that are looked at, at the least."""


@dataclass(frozen=True, eq=False)
class Window:
    """What surrounds a box, scaled down where it is large."""

    picture: np.ndarray  # (h, w, 3) uint8
    inside: np.ndarray  # (h, w) bool: the box
    extent: tuple[slice, slice]  # rows and columns of the image
    box: tuple[slice, slice]  # rows and columns of the image, no more than there are


class GrabCutRefiner:
    """Outlines a box by the colours in it against those around it; the box itself where that tells nothing.

    Args:
        margin: width of the surroundings as a share of the box's longer side.
        side: longer side in pixels to which box and surroundings are scaled down.
        iterations: of GrabCut.
        least_share: a region of less than this share of its box is not believed: it becomes the box.
    """

    def __init__(self, *, margin: float = 1.0, side: int = 64, iterations: int = 3, least_share: float = 0.2):
        self.margin = checked("margin", margin, margin > 0, "above 0")
        self.side = checked("side", side, side >= 8, "at least 8 pixels")
        self.iterations = checked("iterations", iterations, iterations >= 1, "at least 1")
        self.least_share = checked("least_share", least_share, 0 <= least_share < 1, "at least 0 and below 1")

    def outline(self, image: Tensor) -> "GrabCutOutliner":
        """An outliner of a (3, H, W) uint8 RGB image.

        Raises:
            ModelInputError: anything but such an image.
        """
        check_image(image)
        return GrabCutOutliner(self, image)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this refiner."""
        return {
            "refiner": f"GrabCut, {self.iterations} iterations, surroundings of {self.margin:g} box sides, at most "
            f"{self.side} px; the box where that keeps less than {self.least_share:g} of it",
            "refiner_weights": "none",
        }

    def region(self, window: Window) -> np.ndarray:
        """(h, w) bool: what of a window is the region; empty for "the box itself"."""
        inside = int(window.inside.sum())
        nothing = np.zeros_like(window.inside)
        if inside < COMPONENTS or window.inside.size - inside < COMPONENTS:
            return nothing
        labels = np.where(window.inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        colours = np.zeros((1, 13 * COMPONENTS)), np.zeros((1, 13 * COMPONENTS))
        cv2.setRNGSeed(0)  # the first guess at the colours is drawn
        cv2.grabCut(window.picture, labels, None, *colours, self.iterations, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
        region = (labels & 1).astype(bool)
        return region if region.sum() >= self.least_share * inside else nothing


class GrabCutOutliner:
    """Outlines boxes of one image one by one, each within its own window; a region of nothing becomes its box."""

    def __init__(self, refiner: GrabCutRefiner, image: Tensor):
        self._refiner = refiner
        self._pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())

    def masks(self, boxes: Tensor) -> Tensor:
        """(N, H, W) bool on the boxes' device for (N, 4) boxes (x0, y0, x1, y1) in pixels, not clipped.

        A box that covers no pixel of the image has an empty mask.

        Raises:
            ModelInputError: anything but finite (N, 4) boxes.
        """
        check_boxes(boxes)
        masks = np.zeros((len(boxes), *self._pixels.shape[:2]), dtype=bool)
        for mask, box in zip(masks, boxes.tolist(), strict=True):
            self._fill(mask, box)
        return torch.from_numpy(masks).to(boxes.device)

    def _fill(self, mask: np.ndarray, box: list[float]) -> None:
        window = cut_window(self._pixels, box, self._refiner.margin, self._refiner.side)
        if window is None:
            return
        region = self._refiner.region(window)
        if not region.any():
            mask[window.box] = True
            return
        rows, columns = window.extent
        size = (columns.stop - columns.start, rows.stop - rows.start)
        mask[window.extent] = cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5


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
    """Where `part` lies in a window that was resized to `length`: one pixel at the least."""
    scale = length / (window.stop - window.start)
    start = min(length - 1, int((part.start - window.start) * scale))
    return slice(start, max(start + 1, int(np.ceil((part.stop - window.start) * scale))))
