"""The category that everybody scores: smooth anomaly maps with blobs, half of the images with defects.

Image number i depends on the seed and on i alone, so a larger category begins with the smaller ones.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUM_FALSE_ALARMS = 3
DEFECT_SHARES = (0.001, 0.02)
"""The least and the largest share of the image that one defect covers."""


@dataclass(frozen=True, eq=False)
class Category:
    """N maps (N, H, W) float32 in (0, 1), masks (N, H, W) bool, and the map maxima as image scores (N,) float64."""

    maps: np.ndarray
    masks: np.ndarray
    image_scores: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, 1 where an image has a defect."""
        return np.array([mask.any() for mask in self.masks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.maps)


def make_category(num_images: int, size: int, seed: int) -> Category:
    """N images of size x size pixels; those of odd number have 1 to 4 defects."""
    maps = np.empty((num_images, size, size), dtype=np.float32)
    masks = np.empty((num_images, size, size), dtype=bool)
    for number in range(num_images):
        maps[number], masks[number] = make_image(number, size, seed)
    return Category(maps, masks, maps.max(axis=(1, 2)).astype(np.float64))


def make_image(number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The map (H, W) float32 in (0, 1) and the mask (H, W) bool of one image."""
    rng = np.random.default_rng([seed, number])
    logits = 0.8 * _smooth_noise(rng, size, cells=9) + 0.3 * _smooth_noise(rng, size, cells=37) - 2.5
    mask = np.zeros((size, size), dtype=bool)
    for _ in range(rng.integers(1, 5) if number % 2 else 0):
        distance, offset = _ellipse(rng, size)
        mask |= distance <= 1
        logits += rng.gamma(3.0, 0.8) * np.exp(-0.5 * offset**2)
    for _ in range(rng.poisson(NUM_FALSE_ALARMS)):
        logits += rng.gamma(2.0, 0.6) * np.exp(-0.5 * _ellipse(rng, size)[1] ** 2)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), mask


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Standard normal values on a grid of cells x cells, linearly interpolated to (size, size), as patch scores are."""
    place = np.linspace(0, cells - 1, size)
    weights = np.maximum(0, 1 - abs(place[:, None] - np.arange(cells)))
    return weights @ rng.standard_normal((cells, cells)) @ weights.T


def _ellipse(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (H, W) from the middle of a random ellipse, 1 on its rim; and from a point near the middle."""
    area = np.exp(rng.uniform(*np.log(DEFECT_SHARES))) * size**2
    ratio, angle = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    long = np.sqrt(area / np.pi / ratio)
    middle = rng.uniform(0.1, 0.9, 2) * size
    beside = middle + rng.normal(0, long / 8, 2)
    return _squared(size, middle, long, ratio * long, angle), _squared(size, beside, long, ratio * long, angle)


def _squared(size: int, middle: np.ndarray, long: float, short: float, angle: float) -> np.ndarray:
    y, x = np.arange(size)[:, None] - middle[0], np.arange(size)[None] - middle[1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return (along / long) ** 2 + (across / short) ** 2


def save_category(category: Category, folder: Path) -> None:
    """Write the maps and masks to a folder, for `load_category`."""
    np.save(folder / "maps.npy", category.maps)
    np.save(folder / "masks.npy", category.masks)


def load_category(folder: Path) -> Category:
    """Read a category into memory."""
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    return Category(maps, masks, maps.max(axis=(1, 2)).astype(np.float64))
