"""How OpenCV resizes, bit for bit and without it: published figures rest on its rounding (imgproc, resize.cpp)."""

import numpy as np
import torch
from torch import Tensor

WEIGHT_BITS = 11
"""Weights of INTER_LINEAR on bytes are whole 1/2048."""


def nearest_places(new: int, old: int) -> np.ndarray:
    """Which of `old` rows or columns each of `new` ones shows under INTER_NEAREST, (new,) int64."""
    return np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64).clip(max=old - 1)


def resize_bytes(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) uint8 to `size` (height, width) as INTER_LINEAR does it: no averaging over what is left out."""
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    values = images.to(torch.int32)
    if (height, width) == (2 * size[0], 2 * size[1]):  # OpenCV takes the mean of four
        return ((values[:, :, ::2] + values[:, :, 1::2]).unflatten(3, (-1, 2)).sum(dim=4) + 2 >> 2).to(torch.uint8)
    left, right, of_left, of_right = _neighbours(size[1], width, images.device, rows=False)
    across = values[..., left] * of_left + values[..., right] * of_right
    upper, lower, of_upper, of_lower = _neighbours(size[0], height, images.device, rows=True)
    parts = ((across[:, :, rows] >> 4) * of[:, None] >> 16 for rows, of in ((upper, of_upper), (lower, of_lower)))
    return (sum(parts, torch.tensor(2, device=images.device)) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbours(new: int, old: int, device: torch.device, rows: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each of `new` rows or columns the two old ones that it lies between, and their weights in 1/2048; (new,) each.

    Beyond the border the outermost column has all the weight; a row shares it with itself, which rounds otherwise.
    """
    places = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    before = np.floor(places).astype(np.int64)
    share = places - before.astype(np.float32)
    if not rows:
        share[(before < 0) | (before >= old - 1)] = 0
    weights = [np.rint(each * np.float32(1 << WEIGHT_BITS)).astype(np.int32) for each in (1 - share, share)]
    indices = [each.clip(0, old - 1) for each in (before, before + 1)]
    found = [torch.from_numpy(each).to(device) for each in (*indices, *weights)]
    return found[0], found[1], found[2], found[3]
