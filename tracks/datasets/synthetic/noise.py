"""Random fields from which surfaces and defects are made; every length is relative to the image's side."""

from functools import lru_cache

import numpy as np
import PIL.Image
import PIL.ImageFilter
import scipy.fft
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Field = np.ndarray
"""A (H, W) float32 array."""


@lru_cache(maxsize=8)
def _frequencies(size: int) -> tuple[Field, Field]:
    """Cycles per image along y (size, 1) and x (1, size // 2 + 1)."""
    fy = np.fft.fftfreq(size, 1 / size).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(size, 1 / size).astype(np.float32)[None, :]
    return fy, fx


def fractal(
    rng: np.random.Generator,
    size: int,
    *,
    slope: float = 1.0,
    low: float = 0.0,
    high: float = 1e9,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Field:
    """Gaussian noise (size, size) of zero mean and unit deviation whose amplitude falls as frequency ** -slope.

    Only `low` to `high` cycles per image are kept (soft ends); `stretch` > 1 draws it out along `angle` (radians).
    """
    fy, fx = _frequencies(size)
    if stretch == 1.0:
        radius = np.hypot(fx, fy)
    else:
        cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
        root = np.float32(stretch) ** np.float32(0.5)
        radius = np.hypot((fx * cos + fy * sin) * root, (fy * cos - fx * sin) / root)
    radius = np.maximum(radius, np.float32(0.5))
    gain = radius ** np.float32(-slope)
    if low > 0:
        gain *= 1 - np.exp(-((radius / np.float32(low)) ** 4))
    if high < size:
        gain *= np.exp(-((radius / np.float32(high)) ** 4))
    gain[0, 0] = 0
    white = rng.standard_normal((size, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    field = scipy.fft.irfft2(white * gain, s=(size, size)).astype(np.float32)
    field -= field.mean()
    return field / np.float32(field.std() + 1e-9)


def clouds(rng: np.random.Generator, size: int, cells: float) -> Field:
    """Smooth noise (size, size) in about [-1, 1] with `cells` bumps per side, from a coarse random grid."""
    count = int(np.ceil(cells)) + 3
    grid = PIL.Image.fromarray(rng.uniform(-1, 1, (count, count)).astype(np.float32))
    top, left = rng.uniform(0.5, 1.5, 2)
    box = (left, top, left + cells, top + cells)
    return np.asarray(grid.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box))


def enlarge(field: Field, size: int) -> Field:
    """A (h, w) or (h, w, 3) float32 array brought to (size, size) with bilinear interpolation."""
    if field.ndim == 3:
        return np.stack([enlarge(np.ascontiguousarray(field[..., c]), size) for c in range(field.shape[2])], axis=-1)
    return np.asarray(PIL.Image.fromarray(field).resize((size, size), PIL.Image.Resampling.BILINEAR))


def cells(rng: np.random.Generator, size: int, count: int, stretch: float = 1.0) -> tuple[Field, Field, np.ndarray]:
    """Voronoi cells at half the resolution: distance to the nearest seed, to the second, and the nearest's index.

    Distances are in units of the mean spacing; about `count` cells fill the image.
    """
    half = max(size // 2, 8)
    side = max(round(np.sqrt(count)), 2)
    lattice = (np.stack(np.meshgrid(np.arange(-1, side + 1), np.arange(-1, side + 1)), -1).reshape(-1, 2) + 0.5) / side
    seeds = lattice + rng.uniform(-0.5, 0.5, lattice.shape) / side
    ticks = (np.arange(half) + 0.5) / half
    points = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    scale = np.array([1.0, stretch])
    distance, index = cKDTree(seeds * scale).query(points * scale, k=2)
    distance = (distance * side).astype(np.float32).reshape(half, half, 2)
    return distance[..., 0].copy(), distance[..., 1].copy(), index[:, 0].reshape(half, half)


def soften(image: np.ndarray, amount: float) -> np.ndarray:
    """A light blur of (H, W) or (H, W, C): the kernel (a, 1 - 2a, a) along both axes, a = `amount` in [0, 1/3]."""
    if amount <= 0:
        return image
    middle, side = np.float32(1 - 2 * amount), np.float32(amount)
    down = image * middle
    down[1:] += image[:-1] * side
    down[:-1] += image[1:] * side
    down[[0, -1]] += image[[0, -1]] * side
    across = down * middle
    across[:, 1:] += down[:, :-1] * side
    across[:, :-1] += down[:, 1:] * side
    across[:, [0, -1]] += down[:, [0, -1]] * side
    return across


def brightest(image: np.ndarray) -> Field:
    """The largest of three channels (H, W, 3) at each pixel, faster than a reduction over so short an axis."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def smooth(field: Field, radius: float) -> Field:
    """A wide Gaussian-like blur of a (H, W) field in [0, 1], `radius` in pixels; exact to 1/255."""
    picture = PIL.Image.fromarray((np.clip(field, 0, 1) * 255 + 0.5).astype(np.uint8))
    blurred = picture.filter(PIL.ImageFilter.GaussianBlur(float(radius)))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def smooth_finely(field: Field, radius: float) -> Field:
    """The same in floating point, without steps: for heights whose slopes are lit; slower."""
    return np.asarray(gaussian_filter(field, float(radius), truncate=2.5, mode="nearest"))
