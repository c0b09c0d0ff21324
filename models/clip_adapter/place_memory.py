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
        gram = centred.double() @ centred.double().transpose(1, 2)
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
        mirrored: of a single reference, its mirror image's: what it is compared with itself.
    """

    def __init__(
        self, features: ImageFeatures, positions: Sequence[int], size: int, mirrored: ImageFeatures | None = None
    ):
        self.positions = tuple(positions)
        self.size = size
        self._grid = features.grids[self.positions[0]]
        self._tokens = self._joined(features)
        self._mirrored = None if mirrored is None else self._joined(mirrored)
        self._gaussians = Gaussians.of(self._tokens, REGULARISATION)

    def maps(self, features: ImageFeatures, leave_out: int | None = None) -> Tensor:
        """Mahalanobis distance of B images, (B, S, S), at least 0.

        With `leave_out`, B is 1 and the image is that reference: it has no part in the Gaussians; the only reference
        is compared with its own mirror image.
        """
        distance = self._without(leave_out).distance(self._joined(features))
        return upsampled(distance, self._grid, self.size, SIGMA)

    def alignment(self) -> float:
        """How far the references are alike place by place: about 0 for textures, towards 1 for parts that lie alike.

        1 less the mean distance of references, each left out, over that of the same moved by half the image (across,
        down, both); from 0 to 1.
        """
        height, width = self._grid
        moves = ((height // 2, 0), (0, width // 2), (height // 2, width // 2))
        own, moved = [], []
        for i in range(len(self._tokens)):
            others, tokens = self._without(i), self._tokens[i : i + 1]
            places = tokens.unflatten(1, self._grid)
            own.append(others.distance(tokens).mean())
            moved += [others.distance(places.roll(move, (1, 2)).flatten(1, 2)).mean() for move in moves]
        apart = float(torch.stack(moved).mean())
        return min(max(1 - float(torch.stack(own).mean()) / apart, 0.0), 1.0) if apart > 0 else 0.0

    def to(self, device: torch.device) -> None:
        """Move what is remembered."""
        self._tokens = self._tokens.to(device)
        self._mirrored = None if self._mirrored is None else self._mirrored.to(device)
        self._gaussians = self._gaussians.moved(lambda tensor: tensor.to(device))

    def _without(self, reference: int | None) -> Gaussians:
        if reference is None:
            return self._gaussians
        if self._mirrored is not None:
            return Gaussians.of(self._mirrored, REGULARISATION)
        others = torch.cat([self._tokens[:reference], self._tokens[reference + 1 :]])
        return Gaussians.of(others, REGULARISATION)

    def _joined(self, features: ImageFeatures) -> Tensor:
        """The stages' tokens, each of length 1, on the grid of the first by the nearest value: (B, P, C)."""
        stages = []
        for position in self.positions:
            tokens = F.normalize(features.stages[position], dim=-1)
            maps = tokens.transpose(1, 2).unflatten(2, features.grids[position])
            stages.append(F.interpolate(maps, self._grid, mode="nearest"))
        return torch.cat(stages, dim=1).flatten(2).transpose(1, 2)
