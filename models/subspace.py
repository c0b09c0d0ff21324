"""The subspace that holds most of the variance of tokens, from sums that add up (`Moments`), and the distance to it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Of n tokens of C channels, float64: their number (), sum (C,) and second moments (C, C), sum of x x^T.

    They add up, and what was added can be taken away again, up to the rounding of float64.
    """

    count: Tensor
    total: Tensor
    second: Tensor

    @staticmethod
    def of(tokens: Tensor) -> "Moments":
        """Of tokens (n, C)."""
        rows = tokens.double()
        return Moments(rows.new_tensor(len(rows)), rows.sum(dim=0), rows.T @ rows)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.second + other.second)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.count - other.count, self.total - other.total, self.second - other.second)

    def subspace(self, variance: float) -> "Subspace":
        """The fewest principal axes that explain this share of the variance, those of the largest before others."""
        mean = self.total / self.count
        covariance = (self.second - self.count * torch.outer(mean, mean)) / (self.count - 1).clamp(min=1)
        values, axes = torch.linalg.eigh(covariance)  # increasing
        explained = values.flip(0).cumsum(0) / values.sum()
        dimensions = min(int(torch.searchsorted(explained, variance)) + 1, len(values))
        return Subspace(mean.float(), axes[:, : len(values) - dimensions].float().contiguous())


@dataclass(frozen=True)
class Subspace:
    """An affine subspace of k dimensions: a point of it, (C,), and the axes orthogonal to it, (C, C - k)."""

    mean: Tensor
    outside: Tensor

    def residuals(self, tokens: Tensor) -> Tensor:
        """The squared distance (...) of tokens (..., C) to the subspace: the error of a reconstruction by it."""
        return ((tokens - self.mean) @ self.outside).square().sum(dim=-1)
