"""The nearest patch of a bank: by cosine or Euclidean distance, with patches near an own position left out.

`MemoryBank` and `CategoryMemory` hold the references' tokens by stage (APRIL-GAN Eq. 4).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import ImageFeatures
from models.frozen import in_one_graph
from models.maps import interpolated

MAX_ELEMENTS = 2**25
"""Largest similarity matrix held at a time: 128 MiB of float32."""
CPU_ELEMENTS = 2**22
"""The same on a processor, where 16 MiB stay in its cache and are used again: quicker than larger matrices."""
ROUNDING = 2e-6
"""A distance 1 - cosine below it is 0: no more than float32 leaves of the product of two equal rows."""
EUCLIDEAN_ROUNDING = 1e-5
"""Rows are equal that are no farther apart than this share of their length: one image, encoded in another batch,
differs by that much."""

Excluded = Callable[[slice, slice], Tensor]
"""Rows of the query and columns of the bank to a bool matrix: which pairs do not count."""


def nearest_distance(
    tokens: Tensor, bank: Tensor, *, max_elements: int = MAX_ELEMENTS, excluded: Excluded | None = None
) -> Tensor:
    """Minimum over the bank of 1 - cosine, exact, (Q,) in [0, 2]; 0 where it is within rounding of 0.

    `tokens` (Q, C) and `bank` (M, C) have rows of length 1. No matrix of more than `max_elements`
    elements is ever made (a row of one element at the least), on a processor of no more than `CPU_ELEMENTS`.
    """
    if in_one_graph():
        return _beyond_rounding(1 - (tokens @ bank.T).amax(dim=1))
    max_elements = held(max_elements, bank.device)
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
    return _beyond_rounding(1 - nearest)


def _beyond_rounding(distance: Tensor) -> Tensor:
    return distance.masked_fill_(distance < ROUNDING, 0)


def nearest_rows(
    queries: Tensor, bank: Tensor, count: int = 1, *, max_elements: int = MAX_ELEMENTS, excluded: Excluded | None = None
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of a bank by Euclidean distance: distances (Q, count), increasing, and rows (Q, count).

    `queries` (Q, C), `bank` (M, C), M >= count. Found by products of matrices, of which no more than `max_elements`
    elements are held; the distances of those found are then worked out by differences, and rows that are equal within
    rounding are 0 apart.
    """
    within_rounding = EUCLIDEAN_ROUNDING * queries.norm(dim=1, keepdim=True)
    centre = bank.mean(dim=0)  # distances stay as they are, and far fewer digits cancel in the products
    queries, bank = queries - centre, bank - centre
    squares = bank.square().sum(dim=1)
    found = []
    for rows in _row_slices(queries, bank, max_elements):
        squared = torch.addmm(squares, queries[rows], bank.T, alpha=-2)  # less the query's own square, the same for all
        if excluded is not None:
            squared.masked_fill_(excluded(rows, slice(0, bank.shape[0])), torch.inf)
        nearest = squared.argmin(dim=1, keepdim=True) if count == 1 else squared.topk(count, largest=False).indices
        found.append(nearest)
    chosen = torch.cat(found)
    distances = torch.stack([(queries - bank[chosen[:, i]]).norm(dim=1) for i in range(count)], dim=1)
    order = distances.argsort(dim=1) if in_one_graph() else distances.argsort(dim=1, stable=True)
    distances, chosen = distances.gather(1, order), chosen.gather(1, order)
    return distances.masked_fill_(distances <= within_rounding, 0), chosen


def held(max_elements: int, device: torch.device) -> int:
    """How many elements of a matrix of distances a device holds at a time, of so many allowed."""
    return min(max_elements, CPU_ELEMENTS) if device.type == "cpu" else max_elements


def _row_slices(queries: Tensor, bank: Tensor, max_elements: int) -> list[slice]:
    """The rows of the queries, so many at a time that their products with a bank hold at most `max_elements`."""
    if in_one_graph():
        return [slice(None)]
    at_once = max(1, held(max_elements, bank.device) // len(bank))
    return [slice(top, top + at_once) for top in range(0, len(queries), at_once)]


def near_own_position(grid: tuple[int, int], share: float, device: torch.device) -> Excluded:
    """Which patches of a grid lie within a window of a share of its side around each other; leaves all some others.

    With one reference, patches closer than that are excluded where it is scored against itself.
    """
    radius = min(round(share * min(grid) / 2), min(grid) // 2 - 1)
    patches = torch.arange(grid[0] * grid[1], device=device)
    down, across = patches // grid[1], patches % grid[1]

    def near(rows: slice, columns: slice) -> Tensor:
        apart = [(axis[rows, None] - axis[None, columns]).abs() for axis in (down, across)]
        return torch.maximum(*apart) <= radius

    return near


def beyond_positions(
    grid: tuple[int, int], views: Sequence[tuple[tuple[int, int], int]], radius: int, device: torch.device,
    images: int = 1,
) -> Excluded:  # fmt: skip
    """Which rows of a bank lie more than `radius` cells, down or across, from a query's position (RAD, pos_radius).

    The queries are those of so many `images`, one after the other, on one grid. The bank holds, one after the other, so
    many views on each grid; where a grid is not the query's, its positions count as shares of the picture, and a radius
    reaches at least the nearest cell.
    """
    numbers = torch.arange(grid[0] * grid[1], device=device).repeat(images)
    own = [numbers // grid[1], numbers % grid[1]]
    at_axis: list[list[Tensor]] = [[], []]
    slack: list[Tensor] = []
    for other, count in views:
        numbers = torch.arange(other[0] * other[1], device=device).repeat(count)
        for axis, at in enumerate((numbers // other[1], numbers % other[1])):
            at_axis[axis].append((at + 0.5) * grid[axis] / other[axis] - 0.5)
        slack.append(torch.full((len(numbers),), 0.0 if other == grid else 0.5, device=device))
    reach = radius + torch.cat(slack)
    theirs = [torch.cat(axis) for axis in at_axis]

    def beyond(rows: slice, columns: slice) -> Tensor:
        each = [(axis[rows, None] - at[None, columns]).abs() for axis, at in zip(own, theirs, strict=True)]
        return torch.maximum(*each) > reach[columns]

    return beyond


class MemoryBank:
    """The raw tokens of K references at one stage.

    Args:
        tokens: (K, h*w, C), as the backbone gives them.
        grid: (h, w).
        own_window: with one reference, patches closer than this fraction of the grid's side are excluded where it is
            scored against itself.
        images: how many pictures the K are views of, all of the first view before those of the next; K by default.
    """

    def __init__(
        self, tokens: Tensor, grid: tuple[int, int], *, own_window: float = 0.15,
        max_elements: int = MAX_ELEMENTS, images: int | None = None,
    ):  # fmt: skip
        self.grid = grid
        self.images = images or len(tokens)
        self.own_window = own_window
        self.max_elements = max_elements
        self.tokens = F.normalize(tokens, dim=-1)

    def distance(self, tokens: Tensor, leave_out: int | None = None) -> Tensor:
        """Distance of each token of B images, (B, h*w, C), to the nearest in the bank: (B, h, w) in [0, 2].

        With `leave_out`, B is 1 and the image is that reference: its own tokens do not count, or,
        where it is the only one, those within `own_window` of each token do not.
        """
        queries = F.normalize(tokens, dim=-1).flatten(0, 1)
        if leave_out is None:
            distance = self._nearest(queries, self.tokens)
        elif len(self.tokens) == 1:
            excluded = near_own_position(self.grid, self.own_window, self.tokens.device)
            distance = self._nearest(queries, self.tokens, excluded)
        else:
            views = self.tokens.split(self.images)
            others = [part for view in views for part in (view[:leave_out], view[leave_out + 1 :]) if len(part)]
            distance = torch.stack([self._nearest(queries, part) for part in others]).amin(dim=0)
        return distance.unflatten(0, (tokens.shape[0], *self.grid))

    def to(self, device: torch.device) -> None:
        """Move the bank."""
        self.tokens = self.tokens.to(device)

    def _nearest(self, queries: Tensor, references: Tensor, excluded: Excluded | None = None) -> Tensor:
        bank = references.flatten(0, 1)
        return nearest_distance(queries, bank, max_elements=self.max_elements, excluded=excluded)


class CategoryMemory:
    """The banks of one category, one per stage, and the map they give."""

    def __init__(self, banks: Sequence[MemoryBank], stages: Sequence[int], size: int):
        self.banks = list(banks)
        self.stages = tuple(stages)
        """Positions of the banks' stages in `ImageFeatures.stages`."""
        self.size = size

    def maps(self, features: ImageFeatures, leave_out: int | None = None) -> Tensor:
        """Sum over the stages of the distance, upsampled (bilinear, corners aligned): (B, S, S) (Eq. 4)."""
        total = features.embedding.new_zeros(features.embedding.shape[0], self.size, self.size)
        for position, bank in zip(self.stages, self.banks, strict=True):
            distance = bank.distance(features.stages[position], leave_out)
            size = (self.size, self.size)
            total += interpolated(distance[:, None], size, align_corners=True)[:, 0]
        return total

    def to(self, device: torch.device) -> None:
        """Move all banks."""
        for bank in self.banks:
            bank.to(device)
