"""A refiner without weights: GrabCut within each box.

C. Rother, V. Kolmogorov, A. Blake: GrabCut (SIGGRAPH 2004), as in OpenCV. Not the published SAA+, which refines with
Segment Anything.
"""

import cv2
import numpy as np

from models.errors import ModelInputError
from models.saa.refiner.box_window import Window, WindowRefiner

COMPONENTS = 5
"""Colours in OpenCV's model of the foreground, and of the background: it needs as many pixels of each."""


class GrabCutRefiner(WindowRefiner):
    """Outlines a box by the colours in it against those around it; the box itself where that tells nothing.

    Args:
        margin: width of the surroundings as a share of the box's longer side.
        side: longer side in pixels to which box and surroundings are scaled down.
        iterations: of GrabCut.
        least_share: a region of less than this share of its box is not believed: it becomes the box.
    """

    def __init__(self, *, margin: float = 1.0, side: int = 64, iterations: int = 3, least_share: float = 0.2):
        super().__init__(margin, side)
        if iterations < 1:
            raise ModelInputError(f"expected iterations to be at least 1, got {iterations}")
        if not 0 <= least_share < 1:
            raise ModelInputError(f"expected least_share to be at least 0 and below 1, got {least_share}")
        self.iterations = iterations
        self.least_share = least_share

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this refiner."""
        return {
            "refiner": f"GrabCut, {self.iterations} iterations, surroundings of {self.margin:g} box sides, at most "
            f"{self.side} px; the box where that keeps less than {self.least_share:g} of it",
            "refiner_weights": "none",
        }

    def _region(self, window: Window) -> np.ndarray:
        """(h, w) bool; empty for "the box itself"."""
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
