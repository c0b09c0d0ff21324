"""Boxes without words or weights: around the blobs of a map, and around objects before their background."""

import numpy as np
import PIL.Image
import torch
from scipy import ndimage
from torch import Tensor

SIDE = 128
"""Long side in pixels at which objects are looked for."""
BORDER_SHARE = 0.04
"""Width of the border that is taken for background, as a share of the long side."""
MOST_ON_BORDER = 0.15
"""With a larger share of the border in the foreground, the image shows a surface that fills it."""
MOST_BORDER_SPREAD = 0.4
"""With a border that differs from itself by more than this share of what the object does, it is a pattern."""
LEAST_CONTRAST = 0.08
"""Least difference in brightness or colour, of a range of 1, between object and background."""
LEAST_BODY = 0.01
"""Smallest body as a share of the image."""
LEAST_TOTAL = 0.1
"""What all bodies together cover at the least: less than that is no product, but a mark on a surface."""
LEAST_RANGE = 1e-4
"""A map that rises less above its median has no blob."""
LEAST_BLOB = 1e-4
"""Smallest blob as a share of the map."""
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def blob_boxes(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) as (cx, cy, w, h) in fractions and mean values (N,) of a map's blobs, float32.

    A blob is an 8-connected set of pixels above the map's median by `level` of what its maximum is above it.
    """
    middle, highest = float(np.median(values)), float(values.max())
    above = values > middle + level * (highest - middle)
    if highest - middle < LEAST_RANGE:
        above[:] = False
    labels, count = ndimage.label(above, EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = np.flatnonzero(sizes >= LEAST_BLOB * values.size)
    means = np.asarray(ndimage.mean(values, labels, kept + 1), dtype=np.float32).reshape(-1)
    extents = ndimage.find_objects(labels)
    boxes = [_fractions(extents[index], values.shape) for index in kept]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4), means


def foreground_boxes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) as (cx, cy, w, h) in fractions of a (3, H, W) uint8 image, and scores (N,) in [0, 1], best first.

    A score is how much of the contrast lies between object and background rather than within either (Otsu's
    criterion). N = 0 where the border looks like the rest.
    """
    bodies, separation = foreground(image)
    extents, largest_first = ndimage.find_objects(bodies), np.argsort(-np.bincount(bodies.ravel())[1:], kind="stable")
    boxes = [_fractions(extents[index], bodies.shape) for index in largest_first]
    tensor = torch.tensor(boxes, dtype=torch.float32, device=image.device).reshape(-1, 4)
    return tensor, torch.full((len(boxes),), separation, device=image.device)


def foreground(image: Tensor) -> tuple[np.ndarray, float]:
    """(h, w) int: the bodies before the background of a (3, H, W) uint8 image, numbered from 1; and Otsu's criterion.

    The long side is at most `SIDE`. All are 0 where the border looks like the rest.
    """
    distance = _distance_from_border(_small(image))
    above, separation = _otsu(distance)
    return _bodies(np.zeros_like(above) if _fills_the_image(distance, above) else above), separation


def _small(image: Tensor) -> np.ndarray:
    """(h, w, 3) float32 in [0, 1] with a long side of at most SIDE, no side below 1."""
    picture = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    scale = min(1.0, SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BOX), dtype=np.float32) / 255


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: the pixels along the edges."""
    width = max(1, round(BORDER_SHARE * max(shape[:2])))
    border = np.ones(shape[:2], dtype=bool)
    border[width:-width, width:-width] = False
    return border


def _distance_from_border(pixels: np.ndarray) -> np.ndarray:
    """(h, w) Euclidean distance of each pixel's colour from the border's median, the slope of the light removed."""
    border = _border(pixels.shape)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32) / max(pixels.shape[:2])
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    fit, *_ = np.linalg.lstsq(plane[border], pixels[border], rcond=None)
    smooth = ndimage.gaussian_filter(pixels - plane @ fit.astype(np.float32), (1, 1, 0))
    centre = np.median(smooth[border], axis=0)
    return np.linalg.norm(smooth - centre, axis=2) / np.sqrt(3)


def _otsu(distance: np.ndarray) -> tuple[np.ndarray, float]:
    """The split of the values with the largest variance between its sides, and that variance's share of the whole."""
    values = np.sort(distance.ravel())
    total = values.var()
    if total < 1e-12:
        return np.zeros_like(distance, dtype=bool), 0.0
    below = np.arange(1, values.size)
    sums = np.cumsum(values)[:-1]
    means = sums / below, (values.sum() - sums) / (values.size - below)
    between = below * (values.size - below) / values.size**2 * (means[1] - means[0]) ** 2
    best = int(between.argmax())
    return distance > values[best], float(np.clip(between[best] / total, 0, 1))


def _fills_the_image(distance: np.ndarray, foreground: np.ndarray) -> bool:
    """Whether there is no object before a background here."""
    if not foreground.any() or foreground.all():
        return True
    border = _border(foreground.shape)
    inside = distance[foreground].mean()
    if inside - distance[~foreground].mean() < LEAST_CONTRAST or distance[border].mean() > MOST_BORDER_SPREAD * inside:
        return True
    return bool(foreground[border].mean() > MOST_ON_BORDER)


def _bodies(above: np.ndarray) -> np.ndarray:
    """(h, w) int: the bodies that are large enough, without holes, numbered from 1."""
    opened = ndimage.binary_opening(np.pad(above, 1, mode="edge"), EIGHT_NEIGHBOURS)[1:-1, 1:-1]
    labels, count = ndimage.label(ndimage.binary_fill_holes(opened), EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = sizes >= LEAST_BODY * labels.size
    large[0] = False
    if sizes[large].sum() < LEAST_TOTAL * labels.size:
        large[:] = False
    return (np.cumsum(large) * large)[labels]


def _fractions(extent: tuple[slice, ...], shape: tuple[int, ...]) -> list[float]:
    """(cx, cy, w, h) of (rows, columns) of an array, in fractions of it."""
    (y0, y1), (x0, x1) = ((part.start / side, part.stop / side) for part, side in zip(extent, shape, strict=True))
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
