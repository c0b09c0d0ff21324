"""Between the pixels of an image and the places of a feature grid: masks one way, values the other."""

import logging
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelInputError
from models.images import nearest_rows

logger = logging.getLogger(__name__)

Grid = tuple[int, int]
"""(height, width) in places."""


def shrunk(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """(M, H, W) masks at a grid (M, h, w): of each cell the pixel at its top left, as OpenCV's nearest resize."""
    rows, columns = (
        torch.from_numpy(nearest_rows(count, length)).to(masks.device)
        for count, length in zip(grid, masks.shape[1:], strict=True)
    )
    return masks[:, rows][:, :, columns]


def upsampled(values: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """(P,) values of a grid's places to (H, W) pixels, bilinear."""
    maps = values.view(1, 1, *grid)
    return F.interpolate(maps, (size[0], size[1]), mode="bilinear", align_corners=False)[0, 0]


def inside(within: Tensor | None, grid: Grid, device: torch.device) -> Tensor:
    """(P,) bool: the places that are looked at."""
    if within is not None:
        places = shrunk(within[None].to(device), grid).flatten()
        if places.any():
            return places
        logger.warning("saliency within the object: it is too small to see, so the whole image is looked at")
    return torch.ones(grid[0] * grid[1], dtype=torch.bool, device=device)


def members(objects: Iterable[Tensor], grid: Grid, image: Tensor) -> Tensor:
    """(M, P) bool: the places of each instance that is large enough to have one."""
    parts = [torch.zeros(0, *grid, dtype=torch.bool, device=image.device)]
    for part in objects:
        check_mask("objects", part, 3, image)
        parts.append(shrunk(part, grid).to(image.device))
    found = torch.cat(parts).flatten(1)
    seen = found[found.any(dim=1)]
    if len(seen) < len(found):
        vanished = len(found) - len(seen)
        logger.warning("saliency of several instances: %d of %d are too small to see", vanished, len(found))
    if len(seen) < 2:
        logger.warning("saliency of several instances: %d found, nothing to compare, so it is 0", len(seen))
    return seen


def check_mask(name: str, mask: Tensor | None, num_axes: int, image: Tensor) -> None:
    """Refuse anything but bool masks of the image's size, where there are any."""
    size = tuple(image.shape[1:])
    if mask is not None and (mask.ndim != num_axes or tuple(mask.shape[-2:]) != size or mask.dtype != torch.bool):
        raise ModelInputError(
            f"expected {name} to be bool masks of the image's size {size}, got {tuple(mask.shape)} of {mask.dtype}"
        )
