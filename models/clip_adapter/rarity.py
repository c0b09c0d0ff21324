"""How rare a patch is in its own image: evidence that needs neither words nor training, for images without references.

The saliency of SAA+ (Y. Cao et al., arXiv 2305.10724, Eq. 5), the mean of 1 - cosine to the nearest other patches, on
tokens that the encoder has given anyway.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures
from models.maps import averaged

MOST_TOKENS = 14
"""Finer grids are averaged down to at most so many tokens a side."""
NEAREST_SHARE = 0.25
"""Of the other patches: the nearest. What covers a larger share of the picture resembles itself."""
LEAST = 1e-4
"""Added to a rarity before its logarithm is taken."""


def rarity(features: ImageFeatures, positions: Sequence[int]) -> Tensor:
    """(B, 1, h, w) in [0, 2], on the grid of the first of some stages, at most `MOST_TOKENS` a side.

    The tokens of each stage, of length 1, are joined on that grid, finer ones averaged, coarser ones repeated.
    """
    height, width = features.grids[positions[0]]
    grid = min(height, MOST_TOKENS), min(width, MOST_TOKENS)
    maps = torch.cat([_on_grid(features, position, grid) for position in positions], dim=1)
    tokens = F.normalize(maps.flatten(2).transpose(1, 2), dim=-1)  # (B, N, C)
    own = 3 * torch.eye(grid[0] * grid[1], dtype=tokens.dtype, device=tokens.device)
    cosine = tokens @ tokens.transpose(1, 2) - own  # which no other is below
    nearest = cosine.topk(max(1, round(NEAREST_SHARE * (len(own) - 1))), dim=2, sorted=False).values
    return (1 - nearest.mean(dim=2)).clamp(max=2).unflatten(1, (1, *grid))


def _on_grid(features: ImageFeatures, position: int, grid: tuple[int, int]) -> Tensor:
    own = features.grids[position]
    unit = F.normalize(features.stages[position].transpose(1, 2).unflatten(2, own), dim=1)
    if own == grid:
        return unit
    return averaged(unit, grid) if own[0] > grid[0] else F.interpolate(unit, grid)
