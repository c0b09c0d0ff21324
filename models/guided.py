"""How a map changes where the picture's brightness does: outlines that patches alone leave blurred.

A map's patches are some pixels wide. Where it rises and falls with the brightness around, a line from brightness to map
(the guided filter of K. He, J. Sun, X. Tang, ECCV 2010) says what each cell has more or less than its surroundings.
That difference alone is taken, not the filtered map, which loses what is small, and as far as the line explains the map
there (its R^2). Brightness is that of cells as well: the noise of pixels would break outlines into specks.
"""

import torch.nn.functional as F
from torch import Tensor

from models.maps import averaged, interpolated

CELL = 4
"""Side in pixels of the cells that maps and brightness are averaged over."""
RADIUS = 2
"""Cells to each side that a line is fitted to, and over which lines are averaged."""
NOISE = 1e-2
"""Variance of brightness, in [0, 1], that counts as none."""
LEAST_VARIANCE = 1e-6
"""Of the map."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601)."""


def brightness(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Of the cells of (B, 3, H, W) images less `mean` and over `std`, (B, H // CELL, W // CELL), about in [0, 1]."""
    luma = images.new_tensor(LUMA)
    usual = luma @ images.new_tensor(mean)
    pixels = F.conv2d(images, (luma * images.new_tensor(std)).view(1, 3, 1, 1), usual[None])
    cells = (max(1, int(images.shape[2]) // CELL), max(1, int(images.shape[3]) // CELL))
    return averaged(pixels, cells)[:, 0]


def detail(maps: Tensor, bright: Tensor) -> Tensor:
    """What the brightness of cells says that maps (B, H, W) have more or less than around them: about 0 on average."""
    light = bright[:, None]
    here = averaged(maps[:, None], (int(light.shape[2]), int(light.shape[3])))
    mean, usual = _around(here), _around(light)
    together = _around(here * light) - mean * usual
    slope = together / ((_around(light * light) - usual * usual).clamp(min=0) + NOISE)
    explained = slope * together / ((_around(here * here) - mean * mean).clamp(min=0) + LEAST_VARIANCE)
    slope = slope * explained.clamp(0, 1)
    found = _around(slope) * light - _around(slope * usual)
    return interpolated(found, (int(maps.shape[1]), int(maps.shape[2])))[:, 0]


def _around(cells: Tensor) -> Tensor:
    """Means of (B, 1, h, w) over the cells around each; beyond the border there are none."""
    return F.avg_pool2d(cells, 2 * RADIUS + 1, stride=1, padding=RADIUS, count_include_pad=False)
