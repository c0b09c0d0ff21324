"""How far a small neighbourhood of patches is from the nearest of the references', wherever that lies.

For fine textures and parts that do not lie alike, of which `PatchGaussians` tell little. Single patches of a texture
differ at random, the mean of a few neighbours does so less: PatchCore's patch features (K. Roth et al., arXiv
2106.08265, Sec. 3.1). `Neighbourhoods` departs from them: means are of length 1 by stage, the bank is thinned by
position instead of by coreset, distances are 1 - cosine.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures
from models.maps import hill, interpolated
from models.nearest import MAX_ELEMENTS, near_own_position, nearest_distance

EVERY = 2
"""Of several references' neighbourhoods, which overlap, one in so many along each side is kept."""
EXPONENT = 4.0
"""k of d^k / (d^k + mu^k)."""


class Neighbourhoods:
    """The neighbourhoods of one category's references, calibrated on them: each left out of the others.

    Args:
        features: of K references.
        positions: of the stages in `ImageFeatures.stages`, the finest first; they are joined on the grid of the last.
        size: side of the maps in pixels.
        own_window: with one reference, neighbourhoods closer than this fraction of the side are excluded where it is
            scored against itself.
        max_elements: largest similarity matrix held at a time, in elements.

    Attributes:
        tokens: what is kept of the references, (K, P, C), of length 1.
        typical_max: mu, the largest distance of a reference left out, their mean, ().
        left_out: the references' own maps, left out, (K, S, S) in [0, 1]; empty after `of_tensors`.
    """

    def __init__(
        self, features: ImageFeatures, positions: Sequence[int], size: int, *, own_window: float = 0.15,
        max_elements: int = MAX_ELEMENTS,
    ):  # fmt: skip
        self.positions, self.size, self.max_elements = tuple(positions), size, max_elements
        tokens, grid = joined_neighbourhoods(features, self.positions)
        if len(tokens) == 1:
            self.tokens = tokens
            near = near_own_position(grid, own_window, tokens.device)
            distance = nearest_distance(tokens[0], tokens[0], max_elements=max_elements, excluded=near)[None]
        else:
            self.tokens = tokens.unflatten(1, grid)[:, ::EVERY, ::EVERY].flatten(1, 2)
            others = [torch.cat([self.tokens[:i], self.tokens[i + 1 :]]) for i in range(len(tokens))]
            distance = torch.cat([self._distance(tokens[i : i + 1], known) for i, known in enumerate(others)])
        self.typical_max = distance.amax(dim=1).mean()
        self.left_out = self._calibrated(distance, grid)

    def maps(self, features: ImageFeatures) -> Tensor:
        """d^k / (d^k + mu^k) of B images, (B, S, S) in [0, 1]: d the distance to the nearest neighbourhood."""
        tokens, grid = joined_neighbourhoods(features, self.positions)
        return self._calibrated(self._distance(tokens, self.tokens), grid)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered but `left_out`, by name; `of_tensors` takes it back."""
        return {"tokens": self.tokens, "typical_max": self.typical_max}

    @classmethod
    def of_tensors(
        cls, known: Mapping[str, Tensor], positions: Sequence[int], size: int, max_elements: int = MAX_ELEMENTS
    ) -> Self:
        """What `tensors` gave, without the features that it was made of."""
        self = cls.__new__(cls)
        self.positions, self.size, self.max_elements = tuple(positions), size, max_elements
        self.tokens, self.typical_max = known["tokens"], known["typical_max"]
        self.left_out = self.tokens.new_empty(0)
        return self

    def to(self, device: torch.device) -> None:
        """Move what is remembered."""
        self.tokens, self.typical_max = self.tokens.to(device), self.typical_max.to(device)
        self.left_out = self.left_out.to(device)

    def _distance(self, tokens: Tensor, bank: Tensor) -> Tensor:
        """Of tokens (B, N, C) to the nearest of a bank (K, P, C): (B, N)."""
        nearest = nearest_distance(tokens.flatten(0, 1), bank.flatten(0, 1), max_elements=self.max_elements)
        return nearest.unflatten(0, tokens.shape[:2])

    def _calibrated(self, distance: Tensor, grid: tuple[int, int]) -> Tensor:
        share = hill(distance, self.typical_max, EXPONENT).unflatten(1, (1, *grid))
        return interpolated(share, (self.size, self.size))[:, 0]


def joined_neighbourhoods(features: ImageFeatures, positions: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """The mean token around each patch, by stage of length 1, joined: (B, h*w, C), of length 1, and (h, w).

    The grid is the last stage's. A stage as fine has means of 3 x 3 patches, one that is r times finer of 2r x 2r.
    """
    grid = features.grids[positions[-1]]
    means = []
    for position in positions:
        maps = features.stages[position].transpose(1, 2).unflatten(2, features.grids[position])
        finer = features.grids[position][0] // grid[0]
        side, padding = (3, 1) if finer == 1 else (2 * finer, finer // 2)
        mean = F.avg_pool2d(maps, side, stride=finer, padding=padding, count_include_pad=False)
        means.append(F.normalize(mean, dim=1))
    return F.normalize(torch.cat(means, dim=1).flatten(2).transpose(1, 2), dim=-1), grid
