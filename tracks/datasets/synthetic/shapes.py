"""Outlines as signed distances (negative inside) on a turned and shifted coordinate frame, and light on relief."""

from dataclasses import dataclass

import numpy as np

from tracks.datasets.synthetic.noise import Field

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Frame:
    """Coordinates of a body: `x` and `y` (h, w) in its own units, `pixel` the size of a pixel in them."""

    x: Field
    y: Field
    pixel: float
    window: Window

    def alpha(self, distance: Field) -> Field:
        """Coverage in [0, 1] of the inside of a signed distance, with a one-pixel edge."""
        return np.clip(0.5 - distance / np.float32(self.pixel), 0, 1)


def frame(
    size: int,
    centre: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
    scale: float = 1.0,
    reach: float | None = None,
) -> Frame:
    """A frame on a (size, size) image that spans [-1, 1] both ways.

    `centre` is (x, y) in that span, `scale` the body's unit in it; `reach` (body units) limits the window computed.
    """
    window = (slice(0, size), slice(0, size))
    if reach is not None:
        extent = reach * scale + 4.0 / size
        low = [int(np.clip(np.floor((c - extent + 1) / 2 * size), 0, size - 1)) for c in centre]
        top = [int(np.clip(np.ceil((c + extent + 1) / 2 * size), 1, size)) for c in centre]
        high = [max(end, start + 1) for start, end in zip(low, top, strict=True)]
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
    ticks = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    dx = (ticks[window[1]] - np.float32(centre[0]))[None, :] / np.float32(scale)
    dy = (ticks[window[0]] - np.float32(centre[1]))[:, None] / np.float32(scale)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Frame(dx * cos + dy * sin, dy * cos - dx * sin, 2 / size / scale, window)


def disc(at: Frame, radius: float, x: float = 0.0, y: float = 0.0) -> Field:
    """Signed distance to a disc."""
    return np.hypot(at.x - np.float32(x), at.y - np.float32(y)) - np.float32(radius)


def ring(at: Frame, inner: float, outer: float) -> Field:
    """Signed distance to an annulus."""
    radius = np.hypot(at.x, at.y)
    return np.maximum(radius - np.float32(outer), np.float32(inner) - radius)


def box(at: Frame, width: float, height: float, corner: float = 0.0, x: float = 0.0, y: float = 0.0) -> Field:
    """Signed distance to a rounded rectangle of half sides `width` and `height`."""
    qx = np.abs(at.x - np.float32(x)) - np.float32(width - corner)
    qy = np.abs(at.y - np.float32(y)) - np.float32(height - corner)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)


def ellipse(at: Frame, width: float, height: float) -> Field:
    """Approximate signed distance to an ellipse of half axes `width` and `height`."""
    radius = np.hypot(at.x / np.float32(width), at.y / np.float32(height))
    return (radius - 1) * np.float32(min(width, height))


def polygon(at: Frame, corners: int, radius: float) -> Field:
    """Signed distance (inside exact, corners sharp) to a regular polygon of inner radius `radius`."""
    step = 2 * np.pi / corners
    turn = np.arctan2(at.y, at.x)
    folded = turn - np.float32(step) * np.round(turn / np.float32(step))
    return np.hypot(at.x, at.y) * np.cos(folded) - np.float32(radius)


def bevel(distance: Field, width: float) -> Field:
    """Height of a body whose edge is rounded over `width`: 0 at the outline, `width` where it is flat."""
    inside = np.clip(-distance / np.float32(width), 0, 1)
    return np.sqrt(inside * (2 - inside)) * np.float32(width)


def relief(height: Field, pixel: float, light: np.ndarray, sharpness: float = 20.0) -> tuple[Field, Field]:
    """Diffuse light relative to a flat surface (1 = flat) and specular light in [0, 1] on a height field.

    `height` and `pixel` share a unit; `light` is a unit vector (x, y, z) towards the lamp, y down the image.
    """
    slope_y, slope_x = np.empty_like(height), np.empty_like(height)
    slope_y[1:-1], slope_x[:, 1:-1] = height[2:] - height[:-2], height[:, 2:] - height[:, :-2]
    slope_y[0], slope_y[-1] = slope_y[min(1, len(height) - 1)], slope_y[max(-2, -len(height))]
    slope_x[:, 0], slope_x[:, -1] = slope_x[:, min(1, height.shape[1] - 1)], slope_x[:, max(-2, -height.shape[1])]
    scale = np.float32(0.5 / pixel)
    slope_y *= scale
    slope_x *= scale
    length = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    lamp = np.asarray(light, dtype=np.float32)
    diffuse = (lamp[2] - lamp[0] * slope_x - lamp[1] * slope_y) * length
    half = lamp + np.array([0, 0, 1], dtype=np.float32)
    half /= np.float32(np.linalg.norm(half))
    specular = np.maximum((half[2] - half[0] * slope_x - half[1] * slope_y) * length, 0) ** np.float32(sharpness)
    return np.maximum(diffuse / lamp[2], 0), specular
