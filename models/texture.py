"""How odd a fine patch is beside one Gaussian of all of them: for materials, which look alike all over.

The detector of I. S. Reed and X. Yu (Adaptive multiple-band CFAR detection of an optical pattern with unknown spectral
distribution, IEEE Trans. ASSP 38(10), 1990) on the first maps of a convolutional net, at a stride of 2, in place of a
camera's bands. The patches of later stages are too coarse for specks and threads of a few pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures
from models.frozen import in_one_graph
from models.maps import averaged, hill, interpolated

SIDE = 3
"""A patch is the mean of so many fine cells along each side."""
BORDER = 2
"""Cells along the border, odd by the net's padding with zeros, that count as the nearest further in."""
BLOCKS = 8
"""Along each side, whose means tell a part from a material."""
BETWEEN = 3.0
"""So many times the share of the variance that lies between blocks is what an image lacks of being even."""
REGULARISATION = 1e-3
"""Added to the variance of each channel. Cells are of length 1; those of leather-like papers vary by 0.005 to 0.014."""
EXPONENT = 4.0
"""k of d^k / (d^k + mu^k)."""
LEAST_MAX = 4.0
"""mu is at least this, so that noise on a background without any is nothing; of materials it is 5 to 8."""
ROUNDS = 20
"""Of Newton's iteration for an inverse; 14 suffice for the least even of images."""


class Texture:
    """A Gaussian of all fine patches of a category's references, calibrated on them: each left out of the others.

    Args:
        features: of K references, with `fine`; a single one is compared with itself.
        size: side of the maps in pixels.

    Attributes:
        mean, precision: of the Gaussian, (C,) and (C, C).
        evenness: how much the references look alike all over, () in [0, 1]: near 1 for materials, 0 for parts.
        typical_max: mu, the largest distance of a reference left out, their mean, at least `LEAST_MAX`, ().
        left_out: the references' own maps, left out, (K, S, S) in [0, 1]; empty after `of_tensors`.
    """

    def __init__(self, features: ImageFeatures, size: int):
        self.size = size
        maps = fine_patches(features)
        patches = maps.flatten(2).transpose(1, 2)  # (K, P, C)
        middle = patches.double().mean(dim=(0, 1))
        sums, squares = [], []
        for each in patches:
            apart = each.double() - middle
            sums.append(apart.mean(dim=0))
            squares.append(apart.T @ apart / len(apart))
        distances = []
        for k, left in enumerate(patches):
            others = [n for n in range(len(patches)) if n != k] or [k]
            mean, precision = _gaussian(middle, sums, squares, others)
            distances.append(_distance(left[None] - mean, precision))
        every = torch.stack(squares).mean(dim=0).diagonal().sum().float()
        self.evenness = _evenness(_between(maps, middle.float()[:, None, None]).mean(), every)
        self.mean, self.precision = _gaussian(middle, sums, squares, range(len(patches)))
        self.typical_max = torch.cat(distances).amax(dim=1).mean().clamp(min=LEAST_MAX)
        self.left_out = self._calibrated(torch.cat(distances), maps)

    def maps(self, features: ImageFeatures) -> Tensor:
        """d^k / (d^k + mu^k) of B images, (B, S, S) in [0, 1]: d the Mahalanobis distance."""
        maps = fine_patches(features)
        return self._calibrated(_distance(maps.flatten(2).transpose(1, 2) - self.mean, self.precision), maps)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered but `left_out`, by name; `of_tensors` takes it back."""
        return {name: getattr(self, name) for name in ("mean", "precision", "evenness", "typical_max")}

    @classmethod
    def of_tensors(cls, known: Mapping[str, Tensor], size: int) -> Self:
        """What `tensors` gave, without the features that it was made of."""
        self = cls.__new__(cls)
        self.size, self.left_out = size, known["mean"].new_empty(0)
        for name in ("mean", "precision", "evenness", "typical_max"):
            setattr(self, name, known[name])
        return self

    def to(self, device: torch.device) -> None:
        """Move what is remembered."""
        for name in ("mean", "precision", "evenness", "typical_max", "left_out"):
            setattr(self, name, getattr(self, name).to(device))

    def _calibrated(self, distances: Tensor, maps: Tensor) -> Tensor:
        share = hill(distances, self.typical_max, EXPONENT).unflatten(1, (1, *maps.shape[2:]))
        return interpolated(share, (self.size, self.size))[:, 0]


def own_texture(features: ImageFeatures) -> tuple[Tensor, Tensor]:
    """How far fine patches of B images are from their own image's Gaussian, (B, h, w), and how even these are, (B,)."""
    maps = fine_patches(features)
    mean = maps.mean(dim=(2, 3), keepdim=True)
    patches, middle = maps.flatten(2).transpose(1, 2), mean.flatten(1)[:, None]
    apart = patches - middle
    covariance = apart.transpose(1, 2) @ apart / apart.shape[1]
    evenness = _evenness(_between(maps, mean), covariance.diagonal(dim1=1, dim2=2).sum(dim=1))
    return _distance(apart, _precision(covariance)).unflatten(1, maps.shape[2:]), evenness


def fine_patches(features: ImageFeatures) -> Tensor:
    """The mean of the `SIDE` x `SIDE` fine cells, of length 1, around each: (B, C, h, w)."""
    assert features.fine is not None  # a model asks for no texture of another net
    cells = F.normalize(features.fine, dim=1)
    square = cells.new_ones(1, 1, SIDE, SIDE)  # a convolution is quicker than an average
    sums = F.conv2d(cells, square.expand(cells.shape[1], -1, -1, -1), padding=SIDE // 2, groups=cells.shape[1])
    maps = sums / F.conv2d(torch.ones_like(cells[:1, :1]), square, padding=SIDE // 2)
    return F.pad(maps[:, :, BORDER:-BORDER, BORDER:-BORDER], (BORDER,) * 4, mode="replicate")


def _distance(apart: Tensor, precision: Tensor) -> Tensor:
    """Mahalanobis distance (B, P) of patches (B, P, C) less the mean."""
    return ((apart @ precision) * apart).sum(dim=2).clamp(min=0).sqrt()


def _between(maps: Tensor, mean: Tensor) -> Tensor:
    """The variance of blocks' means of (B, C, h, w) around a mean, summed over channels: (B,)."""
    return (averaged(maps, (BLOCKS, BLOCKS)) - mean).square().sum(dim=1).mean(dim=(1, 2))


def _evenness(between: Tensor, every: Tensor) -> Tensor:
    """1 less `BETWEEN` times the share of the variance that lies between blocks, at least 0."""
    return (1 - BETWEEN * between / every.clamp(min=torch.finfo(every.dtype).tiny)).clamp(min=0)


def _gaussian(
    middle: Tensor, sums: Sequence[Tensor], squares: Sequence[Tensor], images: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Mean and precision, float32, of some images' patches, of each of which the means of x and x x^T are known."""
    shift = torch.stack([sums[n] for n in images]).mean(dim=0)
    covariance = torch.stack([squares[n] for n in images]).mean(dim=0) - torch.outer(shift, shift)
    return (middle + shift).float(), _precision(covariance).float()


def _precision(covariance: Tensor) -> Tensor:
    """The inverse of regularised covariances (..., C, C)."""
    own = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    matrix = covariance + REGULARISATION * own
    if not in_one_graph():
        return torch.linalg.inv_ex(matrix).inverse  # a regularised one has an inverse: a GPU need not be asked
    inverse = own / matrix.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    for _ in range(ROUNDS):
        inverse = 2 * inverse - inverse @ matrix @ inverse
    return inverse
