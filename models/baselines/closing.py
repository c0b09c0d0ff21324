"""Binary maps after SuperADD: what is above a threshold, its gaps closed along lines."""

from dataclasses import dataclass

import cv2
import numpy as np

LOW = 0.8
"""Nothing at or below this share of the threshold is closed over."""
THICKNESS, LINES, SHRUNK_BY = 2, 16, 1


@dataclass(frozen=True)
class LineClosing:
    """Closings with lines of 2 `radius` + 1 pixels at 16 angles, one or the other; outlines filled; shrunk by a pixel.

    The radius is SuperADD's 26 for maps of a quarter of the image's height and width.
    """

    radius: int = 26

    def __call__(self, anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
        """The binary map (h, w) bool of an anomaly map (h, w)."""
        above = anomaly_map > np.float64(threshold)
        around = np.pad(above.astype(np.uint8), self.radius + 1)
        closed = np.zeros_like(around)
        for line in self.lines():
            closed |= np.asarray(cv2.morphologyEx(around, cv2.MORPH_CLOSE, line), np.uint8)
        inner = slice(self.radius + 1, -self.radius - 1)
        kept = closed[inner, inner] & (anomaly_map > np.float64(LOW * threshold))
        outlines, _ = cv2.findContours(kept.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros(kept.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SHRUNK_BY + 1,) * 2)
        return cv2.erode(filled, disk) > 0

    def lines(self) -> list[np.ndarray]:
        """Each line as (2 radius + 1, 2 radius + 1) of 0 and 1, from 0 degrees on, evenly over half a turn.

        OpenCV's lines are not quite the same both ways round, which would shift what they close: drawn both ways.
        """
        side = 2 * self.radius + 1
        drawn = []
        for angle in np.pi * np.arange(LINES) / LINES:
            across, down = round(self.radius * np.cos(angle)), round(self.radius * np.sin(angle))
            one, other = ((self.radius + sign * across, self.radius + sign * down) for sign in (-1, 1))
            line = np.asarray(cv2.line(np.zeros((side, side), np.uint8), one, other, 1, THICKNESS), np.uint8)
            drawn.append(line | line[::-1, ::-1])
        return drawn

    @property
    def label(self) -> str:
        """How a binary map comes about, in words."""
        return (
            f"above the threshold, closed along {LINES} lines of radius {self.radius} px where above {LOW:g} of it, "
            f"outlines filled, shrunk by {SHRUNK_BY} px"
        )
