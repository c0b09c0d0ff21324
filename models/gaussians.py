"""What every patch of the references looks like: a Gaussian of its tokens, and the Mahalanobis distance to it.

The distance is PaDiM's (T. Defard et al., arXiv 2011.08785). `PatchGaussians` departs from it: it reads CLIP's tokens,
all channels, each stage brought to length 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures
from models.maps import hill, upsampled

REGULARISATION = 0.01
SIGMA = 4.0
"""Of the map's Gaussian in pixels of the model's input. Both are PaDiM's."""
PARTS = 8
"""Into how many parts references are split of which each is left out once; fewer references are left out one by one."""
PATCHES_AT_ONCE = 256
ROUNDING = 1e-10
"""A token is the mean where its squared distance is below this share of the mean's square: what float32 leaves."""
EXPONENT = 2.0
"""k of d^k / (d^k + mu^k)."""


@dataclass(frozen=True)
class Gaussians:
    """Of P patches: the mean (P, C), the centred references (P, K, C) and `inner` (P, K, K).

    The covariance of K images is never written out. With the centred references X (K, C) of a patch and the
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
        centred = tokens.transpose(0, 1).clone(memory_format=torch.contiguous_format).sub_(mean[:, None])
        return Gaussians.centred_at(mean, centred, regularisation)

    @staticmethod
    def centred_at(mean: Tensor, centred: Tensor, regularisation: float) -> "Gaussians":
        """From the mean (P, C) and the centred tokens (P, K, C) of K references."""
        count = centred.shape[1]
        doubles = (part.double() for part in centred.split(PATCHES_AT_ONCE))
        gram = torch.cat([part @ part.transpose(1, 2) for part in doubles])
        ridge = max(count - 1, 1) * regularisation * torch.eye(count, device=mean.device, dtype=torch.float64)
        return Gaussians(mean, centred, torch.linalg.inv(gram + ridge), regularisation)

    def distance(self, tokens: Tensor) -> Tensor:
        """Mahalanobis distance (B, P) of the tokens (B, P, C) of each patch to its own Gaussian."""
        apart = (tokens - self.mean).transpose(0, 1)  # (P, B, C)
        along = (apart @ self.centred.transpose(1, 2)).double()  # (P, B, K)
        explained = ((along @ self.inner) * along).sum(dim=2)
        own = apart.double().square_().sum(dim=2)
        squared = ((own - explained) / self.regularisation).clamp(min=0)
        equal = own <= ROUNDING * self.mean.double().square().sum(dim=1)[:, None]
        return squared.masked_fill(equal, 0).sqrt().T.float()

    def moved(self, fn: Callable[[Tensor], Tensor]) -> "Gaussians":
        """On another device."""
        return Gaussians(fn(self.mean), fn(self.centred), fn(self.inner), self.regularisation)


class PatchGaussians:
    """The Gaussians of one category, calibrated on its references.

    References have no part in the Gaussians that they are compared with for that: each is left out, or with more than
    `PARTS` of them each part in turn; a single one is compared with its flipped image.

    Args:
        features: of K references.
        positions: of the stages in `ImageFeatures.stages`; they are joined on the grid of the first.
        size: side of the maps in pixels.
        flipped: of the flipped image of a single reference.

    Attributes:
        alignment: how far the references are alike patch by patch, () in [0, 1]: about 0 for textures, towards 1 for
            parts that lie alike. 1 less the mean distance of references left out over that of the same moved by half
            the image (across, down, both).
        left_out: the references' own maps, left out, (K, S, S) in [0, 1]; empty after `of_tensors`.
    """

    def __init__(
        self, features: ImageFeatures, positions: Sequence[int], size: int, flipped: ImageFeatures | None = None
    ):
        self.positions = tuple(positions)
        self.size = size
        self._grids = [features.grids[position] for position in self.positions]
        self._widths = [features.stages[position].shape[-1] for position in self.positions]
        tokens = self._joined(features)
        distance, self.alignment = self._compared(tokens, None if flipped is None else self._joined(flipped))
        self._gaussians = Gaussians.of(tokens, REGULARISATION)
        maps = upsampled(distance, self._grids[0], size, SIGMA)
        self._typical_max = maps.amax(dim=(1, 2)).mean()
        self.left_out = hill(maps, self._typical_max, EXPONENT)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered but `left_out`, each stage on its own grid, by name; `of_tensors` takes it back."""
        own = {"typical_max": self._typical_max, "alignment": self.alignment, "grids": torch.tensor(self._grids)}
        means = self._gaussians.mean.split(self._widths, dim=-1)
        apart = self._gaussians.centred.split(self._widths, dim=-1)
        for n, grid in enumerate(self._grids):
            first, _ = _cells(grid, self._grids[0])
            own |= {f"mean{n}": means[n][first].contiguous(), f"centred{n}": apart[n][first].contiguous()}
        return own

    @classmethod
    def of_tensors(cls, known: Mapping[str, Tensor], positions: Sequence[int], size: int) -> "PatchGaussians":
        """What `tensors` gave, without the features that it was made of."""
        self = cls.__new__(cls)
        self.positions, self.size, self.left_out = tuple(positions), size, known["mean0"].new_empty(0)
        self._grids = [(int(height), int(width)) for height, width in known["grids"]]
        self._widths = [known[f"mean{n}"].shape[-1] for n in range(len(self._grids))]
        self._typical_max, self.alignment = known["typical_max"], known["alignment"]
        cells = [_cells(grid, self._grids[0])[1] for grid in self._grids]
        mean, centred = (
            torch.cat([known[f"{name}{n}"][of_stage] for n, of_stage in enumerate(cells)], dim=-1)
            for name in ("mean", "centred")
        )
        self._gaussians = Gaussians.centred_at(mean, centred, REGULARISATION)
        return self

    def by_stage(self, known: Mapping[str, Tensor]) -> "GaussiansByStage":
        """What another's `stage_tensors` say of the same patches."""
        return GaussiansByStage(known, self.positions, self._grids, self.size)

    def stage_tensors(self) -> dict[str, Tensor]:
        """All that `GaussiansByStage` needs."""
        own = {name: tensor for name, tensor in self.tensors().items() if name != "grids"}
        return own | {"inner": self._gaussians.inner.float()}

    def maps(self, features: ImageFeatures) -> Tensor:
        """d^2 / (d^2 + mu^2) of B images, (B, S, S) in [0, 1]: d the distance, mu its typical maximum in references."""
        maps = upsampled(self._gaussians.distance(self._joined(features)), self._grids[0], self.size, SIGMA)
        return hill(maps, self._typical_max, EXPONENT)

    def to(self, device: torch.device) -> None:
        """Move what is remembered."""
        self._gaussians = self._gaussians.moved(lambda tensor: tensor.to(device))
        self._typical_max, self.alignment = self._typical_max.to(device), self.alignment.to(device)
        self.left_out = self.left_out.to(device)

    def _compared(self, tokens: Tensor, flipped: Tensor | None) -> tuple[Tensor, Tensor]:
        """The distances (K, P) of references left out, and their alignment."""
        height, width = self._grids[0]
        moves = ((height // 2, 0), (0, width // 2), (height // 2, width // 2))
        own, moved = [], []
        for part in torch.arange(len(tokens), device=tokens.device).chunk(PARTS):
            others = Gaussians.of(_without(part, tokens) if flipped is None else flipped, REGULARISATION)
            patches = tokens[part].unflatten(1, self._grids[0])
            own.append(others.distance(tokens[part]))
            moved += [others.distance(patches.roll(move, (1, 2)).flatten(1, 2)) for move in moves]
        distance, apart = torch.cat(own), torch.cat(moved).mean()
        return distance, (1 - distance.mean() / apart.clamp(min=torch.finfo(apart.dtype).tiny)).clamp(0, 1) * (
            apart > 0
        )

    def _joined(self, features: ImageFeatures) -> Tensor:
        """The stages' tokens, each of length 1, on the grid of the first by the nearest value: (B, P, C)."""
        stages = []
        for position in self.positions:
            tokens = F.normalize(features.stages[position], dim=-1)
            maps = tokens.transpose(1, 2).unflatten(2, features.grids[position])
            stages.append(F.interpolate(maps, self._grids[0], mode="nearest"))
        return torch.cat(stages, dim=1).flatten(2).transpose(1, 2)


class GaussiansByStage:
    """The maps of `PatchGaussians` in float32, each stage worked out on its own grid: the finest repeats nothing.

    Args:
        known: `PatchGaussians.stage_tensors`.
        positions: of the stages in `ImageFeatures.stages`.
        grids: of each, the finest first.
        size: side of the maps in pixels.
    """

    def __init__(
        self, known: Mapping[str, Tensor], positions: Sequence[int], grids: Sequence[tuple[int, int]], size: int
    ):
        self.known, self.positions, self.grids, self.size = known, positions, grids, size
        self.alignment = known["alignment"]

    def maps(self, features: ImageFeatures) -> Tensor:
        """(B, S, S) in [0, 1]."""
        own, along = [], []
        for n, position in enumerate(self.positions):
            apart = F.normalize(features.stages[position], dim=-1) - self.known[f"mean{n}"]  # (B, P_n, C_n)
            _, cells = _cells(self.grids[n], self.grids[0])
            own.append((apart * apart).sum(dim=2).index_select(1, cells))
            along.append((self.known[f"centred{n}"] @ apart[..., None])[..., 0].index_select(1, cells))
        across = torch.stack(along).sum(dim=0)  # (B, P, K)
        explained = ((self.known["inner"] * across[:, :, None]).sum(dim=3) * across).sum(dim=2)
        distance = ((torch.stack(own).sum(dim=0) - explained) / REGULARISATION).clamp(min=0).sqrt()
        return hill(upsampled(distance, self.grids[0], self.size, SIGMA), self.known["typical_max"], EXPONENT)


@lru_cache(maxsize=16)
def _cells(grid: tuple[int, int], finest: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A stage's cells on the finest grid, by the nearest value: the first patch of each, the cell of each patch."""
    numbers = torch.arange(grid[0] * grid[1], dtype=torch.float64).view(1, 1, *grid)
    spread = F.interpolate(numbers, finest, mode="nearest").flatten().numpy()
    _, first, cell = np.unique(spread, return_index=True, return_inverse=True)
    return torch.from_numpy(first), torch.from_numpy(cell)


def _without(part: Tensor, tokens: Tensor) -> Tensor:
    others = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    others[part] = False
    return tokens[others]
