"""A refiner without weights: what differs in colour from the surroundings of its box.

Not the published SAA+, which refines with Segment Anything. Robust against boxes that are too large, and quicker than
GrabCut, which takes the surroundings' own pattern for a second colour.
"""

import cv2
import numpy as np

from models.errors import ModelInputError
from models.saa.refiner.box_window import Window, WindowRefiner

LEAST_SURROUNDINGS = 8
"""Pixels that are needed to know what the surroundings look like."""
LEAST_DEVIATION = 2.0
"""Added to the surroundings' deviation, of 255 levels: below it lies the noise of 8 bit pictures."""
MAD_TO_DEVIATION = 1.4826


class ContrastRefiner(WindowRefiner):
    """The convex hull of the pixels in a box that stand out from around it; the box itself where none does.

    Standing out is the distance to the surroundings' median colour (Lab), in the surroundings' own median deviations
    per channel, times exp(-`centring` r^2), r being 1 at the middle of the box's edges; above Otsu's threshold.

    Args:
        margin: width of the surroundings as a share of the box's longer side.
        side: longer side in pixels to which box and surroundings are scaled down.
        centring: how much a region is expected in the middle of its box; 0 for not at all.
    """

    def __init__(self, *, margin: float = 1.0, side: int = 96, centring: float = 0.7):
        super().__init__(margin, side)
        if centring < 0:
            raise ModelInputError(f"expected centring to be at least 0, got {centring}")
        self.centring = centring

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """Labels of every number made with this refiner."""
        return {
            "refiner": f"contrast in colour to the surroundings of {self.margin:g} box sides, centring "
            f"{self.centring:g}, convex hull, at most {self.side} px",
            "refiner_weights": "none",
        }

    def _region(self, window: Window) -> np.ndarray:
        """(h, w) bool; empty for "the box itself"."""
        if window.inside.size - int(window.inside.sum()) < LEAST_SURROUNDINGS:
            return np.zeros_like(window.inside)
        contrast = _contrast(window) * np.exp(-self.centring * _off_centre(window.inside))
        return _hull(window.inside & (contrast > _otsu(contrast[window.inside])))


def _contrast(window: Window) -> np.ndarray:
    """(h, w) distances to the colour of the surroundings, in their deviations."""
    smooth = cv2.GaussianBlur(window.picture, (3, 3), 0)
    colours = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    around = colours[~window.inside]
    middle = np.median(around, axis=0)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(around - middle), axis=0) + LEAST_DEVIATION
    return np.sqrt((((colours - middle) / deviation) ** 2).sum(axis=2))


def _off_centre(inside: np.ndarray) -> np.ndarray:
    """(h, w) squared distances to the centre of the box in half box sides."""
    squares = []
    for axis in (0, 1):
        place = np.flatnonzero(inside.any(axis=1 - axis))
        half = len(place) / 2
        squares.append(((np.arange(inside.shape[axis]) + 0.5 - place[0] - half) / half) ** 2)
    return squares[0][:, None] + squares[1][None, :]


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of values >= 0 in 256 steps; what lies above the 99th percentile counts as that."""
    top = float(np.percentile(values, 99)) + 1e-6
    steps = np.clip(values / top * 255, 0, 255).astype(np.uint8).reshape(-1, 1)
    return float(cv2.threshold(steps, 0, 255, cv2.THRESH_OTSU)[0]) / 255 * top


def _hull(region: np.ndarray) -> np.ndarray:
    points = np.argwhere(region)[:, ::-1].astype(np.int32)
    if len(points) < 3:
        return region
    filled = np.zeros(region.shape, dtype=np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)
