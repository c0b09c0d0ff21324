"""What every place of the references looks like: a Gaussian of its tokens, and the Mahalanobis distance to it.

The distance is PaDiM's (T. Defard et al., arXiv 2011.08785). `PlaceMemory` departs from it: it reads CLIP's tokens, all
channels, each stage brought to length 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip_adapter.features import ImageFeatures
from models.maps import upsampled

REGULARISATION = 0.01
SIGMA = 4.0
"""Of the map's Gaussian in pixels of the model's input. Both are PaDiM's."""
PARTS = 8
"""Into how many parts references are split of which each is left out once; fewer references are left out one by one."""
PLACES_AT_ONCE = 256


@dataclass(frozen=True)
class Gaussians:
    """Of P places: the mean (P, C), the centred references (P, K, C) and `inner` (P, K, K).

    The covariance of K images is never written out. With the centred references X (K, C) of a place and the
    regularisation e, S = X^T X / (K - 1) + e I, and

        S^-1 = (I - X^T ((K - 1) e I + X X^T)^-1 X) / e,

    which needs the inverse of a K x K matrix alone, `inner`. The covariance of a single reference is e I.
    """

    mean: Tensor
    centred: Tensor
    inner: Tensor
    regularisation: float

    @staticmethod
    def of(tokens: Tensor, regularisation: float) -> "Gaussians":
        """From the tokens (K, P, C) of K references."""
        mean = tokens.mean(dim=0)
        centred = (tokens - mean).transpose(0, 1).contiguous()
        count = tokens.shape[0]
        doubles = (part.double() for part in centred.split(PLACES_AT_ONCE))
        gram = torch.cat([part @ part.transpose(1, 2) for part in doubles])
        ridge = max(count - 1, 1) * regularisation * torch.eye(count, device=tokens.device, dtype=torch.float64)
        return Gaussians(mean, centred, torch.linalg.inv(gram + ridge), regularisation)

    def distance(self, tokens: Tensor) -> Tensor:
        """Mahalanobis distance (B, P) of the tokens (B, P, C) of each place to its own Gaussian."""
        apart = (tokens - self.mean).transpose(0, 1)  # (P, B, C)
        along = (apart @ self.centred.transpose(1, 2)).double()  # (P, B, K)
        explained = ((along @ self.inner) * along).sum(dim=2)
        squared = (apart.double().square().sum(dim=2) - explained) / self.regularisation
        return squared.clamp(min=0).sqrt().T.float()

    def moved(self, fn: Callable[[Tensor], Tensor]) -> "Gaussians":
        """On another device."""
        return Gaussians(fn(self.mean), fn(self.centred), fn(self.inner), self.regularisation)


class PlaceMemory:
    """The Gaussians of one category.

    Args:
        features: of K references.
        positions: of the stages in `ImageFeatures.stages`; they are joined on the grid of the first.
        size: side of the maps in pixels.
        mirrored: of the mirror image of a single reference, for `left_out`.
    """

    def __init__(
        self, features: ImageFeatures, positions: Sequence[int], size: int, mirrored: ImageFeatures | None = None
    ):
        self.positions = tuple(positions)
        self.size = size
        self._grid = features.grids[self.positions[0]]
        self._gaussians = Gaussians.of(self._joined(features), REGULARISATION)
        self._mirrored = None if mirrored is None else Gaussians.of(self._joined(mirrored), REGULARISATION)

    def maps(self, features: ImageFeatures) -> Tensor:
        """Mahalanobis distance of B images, (B, S, S), at least 0."""
        return upsampled(self._gaussians.distance(self._joined(features)), self._grid, self.size, SIGMA)

    def left_out(self, features: ImageFeatures) -> tuple[Tensor, float]:
        """The maps of the references themselves, (K, S, S), and how far they are alike place by place.

        They have no part in the Gaussians that they are compared with: each is left out, or with more than `PARTS` of
        them each part in turn; a single one is compared with its mirror image. The second value, from 0 to 1, is about
        0 for textures and towards 1 for parts that lie alike: 1 less the mean distance over that of the same references
        moved by half the image (across, down, both).
        """
        tokens = self._joined(features)
        height, width = self._grid
        moves = ((height // 2, 0), (0, width // 2), (height // 2, width // 2))
        own, moved = [], []
        for part in torch.arange(len(tokens), device=tokens.device).chunk(PARTS):
            others, places = self._without(part, tokens), tokens[part].unflatten(1, self._grid)
            own.append(others.distance(tokens[part]))
            moved += [others.distance(places.roll(move, (1, 2)).flatten(1, 2)) for move in moves]
        distance, apart = torch.cat(own), float(torch.cat(moved).mean())
        alignment = min(max(1 - float(distance.mean()) / apart, 0.0), 1.0) if apart > 0 else 0.0
        return upsampled(distance, self._grid, self.size, SIGMA), alignment

    def to(self, device: torch.device) -> None:
        """Move what is remembered."""
        self._gaussians = self._gaussians.moved(lambda tensor: tensor.to(device))
        self._mirrored = None if self._mirrored is None else self._mirrored.moved(lambda tensor: tensor.to(device))

    def _without(self, part: Tensor, tokens: Tensor) -> Gaussians:
        if self._mirrored is not None:
            return self._mirrored
        others = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        others[part] = False
        return Gaussians.of(tokens[others], REGULARISATION)

    def _joined(self, features: ImageFeatures) -> Tensor:
        """The stages' tokens, each of length 1, on the grid of the first by the nearest value: (B, P, C)."""
        stages = []
        for position in self.positions:
            tokens = F.normalize(features.stages[position], dim=-1)
            maps = tokens.transpose(1, 2).unflatten(2, features.grids[position])
            stages.append(F.interpolate(maps, self._grid, mode="nearest"))
        return torch.cat(stages, dim=1).flatten(2).transpose(1, 2)
