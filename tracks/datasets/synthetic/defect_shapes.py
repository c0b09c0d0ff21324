"""Where a defect is: places on the product, blobs, lines and patches as coverage (H, W) in [0, 1]."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageDraw

from tracks.datasets.synthetic.noise import Field, clouds, fractal
from tracks.datasets.synthetic.scene import Scene
from tracks.datasets.synthetic.shapes import Window, frame

_FINE = 4  # drawn at four times the resolution, then averaged


@dataclass
class Stroke:
    """What a defect is made with: its random numbers, the scene, its share of the picture, its strength in [0, 1]."""

    rng: np.random.Generator
    scene: Scene
    area: float
    strength: float

    @property
    def size(self) -> int:
        """The picture's side in pixels."""
        return int(self.scene.image.shape[0])

    def pixels(self, length: float) -> float:
        """A length given in pixels of a 256-pixel picture, in pixels of this one."""
        return length * self.size / 256

    def sign(self) -> float:
        """Darker or lighter, by chance."""
        return float(self.rng.choice([-1.0, 1.0]))


def place(stroke: Stroke, edge: bool = False) -> tuple[float, float]:
    """A random (x, y) in [-1, 1] on the product; on its outline if `edge`."""
    grid = stroke.scene.foreground[::4, ::4] > 0.9
    if edge:
        inner = grid.copy()
        for axis in (0, 1):
            inner &= np.roll(grid, 1, axis) & np.roll(grid, -1, axis)
        margin = np.zeros_like(grid)
        margin[2:-2, 2:-2] = True
        rim = grid & ~inner & margin
        grid = rim if rim.any() else grid
    spots = np.flatnonzero(grid)
    spot = int(spots[stroke.rng.integers(len(spots))])
    y, x = divmod(spot, grid.shape[1])
    jitter = stroke.rng.uniform(0, 4, 2)
    return float((4 * x + jitter[0]) / stroke.size * 2 - 1), float((4 * y + jitter[1]) / stroke.size * 2 - 1)


def blob(stroke: Stroke, softness: float, rough: float = 0.3, edge: bool = False, area: float | None = None) -> Field:
    """One ragged ellipse of about the stroke's area; `softness` 0 has a hard edge, 1 fades from the middle."""
    rng = stroke.rng
    share = stroke.area if area is None else area
    radius = float(np.sqrt(4 * share / np.pi))
    slim = rng.uniform(0.45, 1.0)
    at = frame(stroke.size, place(stroke, edge), rng.uniform(0, np.pi), radius)
    span = max(radius, 0.03)
    wobble = clouds(rng, stroke.size, min(4 / span, 64)) * np.float32(rough)
    distance = np.hypot(at.x * np.float32(slim**0.5), at.y / np.float32(slim**0.5)) - 1 + wobble
    fade = max(softness * 0.9, at.pixel)
    ramp = np.clip(0.5 - distance / np.float32(fade), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def noise_patch(stroke: Stroke, softness: float) -> Field:
    """An irregular, often scattered patch of about the stroke's area: smooth noise above a level, within an ellipse."""
    rng, size = stroke.rng, stroke.size
    spread = min(stroke.area * rng.uniform(1.8, 4.0), 0.9)
    at = frame(size, place(stroke), rng.uniform(0, np.pi), float(np.sqrt(4 * spread / np.pi)))
    window = np.hypot(at.x * np.float32(0.8), at.y / np.float32(0.8))
    rough = fractal(rng, size, slope=rng.uniform(1.4, 2.2), low=1 / np.sqrt(spread))
    field = rough - 1.2 * window * window - 9 * np.maximum(window - 1, 0)
    wanted = max(int(stroke.area * size * size), 8)
    level = np.partition(field.ravel(), -wanted)[-wanted]
    fade = max(softness, 0.05)
    return np.clip((field - level) / np.float32(fade) + 0.5, 0, 1)


def lines(paths: list[np.ndarray], widths: list[float], size: int) -> Field:
    """Polylines of (N, 2) points (x, y) in [-1, 1], each of its own width in pixels, as coverage."""
    sheet = PIL.Image.new("L", (size * _FINE, size * _FINE))
    pen = PIL.ImageDraw.Draw(sheet)
    for path, width in zip(paths, widths, strict=True):
        points = [(float(x), float(y)) for x, y in (path + 1) * (size * _FINE / 2)]
        pen.line(points, fill=255, width=max(round(width * _FINE), 1), joint="curve")
    return np.asarray(sheet.reduce(_FINE), dtype=np.float32) / np.float32(255)


def polygon_patch(corners: list[np.ndarray], size: int) -> Field:
    """Filled polygons of (N, 2) corners (x, y) in [-1, 1], as coverage."""
    sheet = PIL.Image.new("L", (size * _FINE, size * _FINE))
    pen = PIL.ImageDraw.Draw(sheet)
    for shape in corners:
        pen.polygon([(float(x), float(y)) for x, y in (shape + 1) * (size * _FINE / 2)], fill=255)
    return np.asarray(sheet.reduce(_FINE), dtype=np.float32) / np.float32(255)


def shard(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    """The (N, 2) corners of a random convex-ish splinter."""
    count = int(rng.integers(4, 9))
    turns = np.sort(rng.uniform(0, 2 * np.pi, count))
    reach = radius * rng.uniform(0.55, 1.25, count)
    slim, lean = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    x, y = reach * np.cos(turns), reach * np.sin(turns) * slim
    return np.stack(
        [centre[0] + x * np.cos(lean) - y * np.sin(lean), centre[1] + x * np.sin(lean) + y * np.cos(lean)], 1
    )


def curve(
    rng: np.random.Generator, start: tuple[float, float], length: float, bend: float, steps: int = 24
) -> np.ndarray:
    """A smooth (steps, 2) path from `start`; `bend` radians is how much its direction wanders."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps))
    heading += np.linspace(0, rng.normal(0, bend), steps)
    step = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / steps)
    path = np.cumsum(step, axis=0)
    return np.asarray(start) + path - path[steps // 2]


def rolled(array: np.ndarray, by: np.ndarray) -> np.ndarray:
    """An array (H, W) or (H, W, 3) moved by (x, y) pixels, rounded; what leaves on one side enters on the other."""
    return np.roll(array, (round(float(by[1])), round(float(by[0]))), (0, 1))


def window_of(alpha: Field, margin: int = 2) -> Window:
    """The smallest window that holds all coverage above zero, with a margin."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if len(rows) == 0:
        return slice(0, 1), slice(0, 1)
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + margin + 1),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + margin + 1),
    )
