"""What the references look like: their tokens by stage, and the distance to the nearest of them (APRIL-GAN Eq. 4)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures

MAX_ELEMENTS = 2**25
"""Largest similarity matrix held at a time: 128 MiB of float32."""
ROUNDING = 2e-6
"""A distance 1 - cosine below it is 0: no more than float32 leaves of the product of two equal rows."""

Excluded = Callable[[slice, slice], Tensor]
"""Rows of the query and columns of the bank to a bool matrix: which pairs do not count."""


def nearest_distance(
    tokens: Tensor, bank: Tensor, *, max_elements: int = MAX_ELEMENTS, excluded: Excluded | None = None
) -> Tensor:
    """Minimum over the bank of 1 - cosine, exact, (Q,) in [0, 2]; 0 where it is within rounding of 0.

    `tokens` (Q, C) and `bank` (M, C) have rows of length 1. No matrix of more than `max_elements`
    elements is ever made (a row of one element at the least).
    """
    num_columns = min(len(bank), max_elements)
    num_rows = max(1, max_elements // num_columns)
    nearest = tokens.new_full((len(tokens),), -torch.inf)
    for left in range(0, len(bank), num_columns):
        columns = slice(left, left + num_columns)
        for top in range(0, len(tokens), num_rows):
            rows = slice(top, top + num_rows)
            cosine = tokens[rows] @ bank[columns].T
            if excluded is not None:
                cosine.masked_fill_(excluded(rows, columns), -torch.inf)
            nearest[rows] = torch.maximum(nearest[rows], cosine.amax(dim=1))
    distance = 1 - nearest
    return distance.masked_fill_(distance < ROUNDING, 0)


class MemoryBank:
    """The raw tokens of K references at one stage.

    Args:
        tokens: (K, h*w, C), as the backbone gives them.
        grid: (h, w).
        smoothing: side in tokens (odd) of the window over which tokens are averaged first; 1 for not at all.
        own_window: share of the grid's side around a token's own place that does not count when the only
            reference is scored against itself.
        images: how many pictures the K are views of, all of the first view before those of the next; K by default.
    """

    def __init__(
        self, tokens: Tensor, grid: tuple[int, int], *, smoothing: int = 1, own_window: float = 0.15,
        max_elements: int = MAX_ELEMENTS, images: int | None = None,
    ):  # fmt: skip
        self.grid = grid
        self.images = images or len(tokens)
        self.smoothing = smoothing
        self.own_radius = min(round(own_window * min(grid) / 2), min(grid) // 2 - 1)  # leaves every token a neighbour
        self.max_elements = max_elements
        self.tokens = self._prepared(tokens)

    def distance(self, tokens: Tensor, leave_out: int | None = None) -> Tensor:
        """Distance of each token of B images, (B, h*w, C), to the nearest in the bank: (B, h, w) in [0, 2].

        With `leave_out`, B is 1 and the image is that reference: its own tokens do not count, or,
        where it is the only one, those in a window around each token's own place do not.
        """
        queries = self._prepared(tokens).flatten(0, 1)
        if leave_out is None:
            distance = self._nearest(queries, self.tokens)
        elif len(self.tokens) == 1:
            distance = self._nearest(queries, self.tokens, self._near_own_place)
        else:
            views = self.tokens.split(self.images)
            others = [part for view in views for part in (view[:leave_out], view[leave_out + 1 :]) if len(part)]
            distance = torch.stack([self._nearest(queries, part) for part in others]).amin(dim=0)
        return distance.unflatten(0, (len(tokens), *self.grid))

    def to(self, device: torch.device) -> None:
        """Move the bank."""
        self.tokens = self.tokens.to(device)

    def _prepared(self, tokens: Tensor) -> Tensor:
        if self.smoothing > 1:
            maps = tokens.transpose(1, 2).unflatten(2, self.grid)  # (B, C, h, w)
            padding = self.smoothing // 2
            smooth = F.avg_pool2d(maps, self.smoothing, stride=1, padding=padding, count_include_pad=False)
            tokens = smooth.flatten(2).transpose(1, 2)
        return F.normalize(tokens, dim=-1)

    def _nearest(self, queries: Tensor, references: Tensor, excluded: Excluded | None = None) -> Tensor:
        bank = references.flatten(0, 1)
        return nearest_distance(queries, bank, max_elements=self.max_elements, excluded=excluded)

    def _near_own_place(self, rows: slice, columns: slice) -> Tensor:
        places = torch.arange(self.grid[0] * self.grid[1], device=self.tokens.device)
        across, down = places % self.grid[1], places // self.grid[1]

        def near(axis: Tensor) -> Tensor:
            return (axis[rows, None] - axis[None, columns]).abs() <= self.own_radius

        return near(across) & near(down)


class CategoryMemory:
    """The banks of one category, one per stage, and the map they give."""

    def __init__(self, banks: Sequence[MemoryBank], stages: Sequence[int], size: int):
        self.banks = list(banks)
        self.stages = tuple(stages)
        """Positions of the banks' stages in `ImageFeatures.stages`."""
        self.size = size

    def maps(self, features: ImageFeatures, leave_out: int | None = None) -> Tensor:
        """Sum over the stages of the distance, upsampled (bilinear, corners aligned): (B, S, S) (Eq. 4)."""
        total = features.embedding.new_zeros(len(features.embedding), self.size, self.size)
        for position, bank in zip(self.stages, self.banks, strict=True):
            distance = bank.distance(features.stages[position], leave_out)
            size = (self.size, self.size)
            total += F.interpolate(distance[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
        return total

    def to(self, device: torch.device) -> None:
        """Move all banks."""
        for bank in self.banks:
            bank.to(device)
