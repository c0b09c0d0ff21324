"""Distances among the patches of one image, a block of rows at a time, and from them to those of normal references."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.nearest import Excluded, near_own_position, nearest_distance

MAX_ELEMENTS = 2**24
"""Largest similarity matrix held at a time: 64 MiB of float32."""
BLOCK = 1024
"""Rows of a block at the most: small, so that many blocks lie in one object alone."""
SCALE = 0.5
"""Of the distance 1 - cosine to references."""


def mean_distance(tokens: Tensor, count: int, farthest: bool) -> Tensor:
    """Mean over the `count` nearest (or farthest) others of 1 - cosine, for each of P rows of length 1: (P,) >= 0.

    A row itself does not count; all others do where there are fewer than `count`; a single row has distance 0.
    """
    num_rows = max(1, MAX_ELEMENTS // max(1, len(tokens)))
    count = min(count, len(tokens) - 1)
    mean = tokens.new_zeros(len(tokens))
    if count < 1:
        return mean
    for top in range(0, len(tokens), num_rows):
        rows = slice(top, top + num_rows)
        cosine = tokens[rows] @ tokens.T
        own = torch.arange(top, top + len(cosine), device=tokens.device)
        cosine.scatter_(1, own[:, None], torch.inf if farthest else -torch.inf)
        mean[rows] = 1 - cosine.topk(count, dim=1, largest=not farthest, sorted=False).values.mean(dim=1)
    return mean.clamp(min=0)


def distance_elsewhere(tokens: Tensor, members: Tensor) -> Tensor:
    """1 - cosine to the nearest row that belongs to another object, (P,) >= 0; over a row's objects, the highest.

    `tokens` (P, C) have length 1, `members` (M, P) bool say which objects a row belongs to, at least one. Rows that
    two objects share belong to neither's "others"; where that leaves no other, the distance is 1.
    """
    order = torch.unique(members, dim=1, return_inverse=True)[1].argsort()  # rows of the same objects lie together
    nearest = _nearest_elsewhere(tokens[order], members[:, order])
    distance = torch.where(nearest.isinf(), 1.0, 1 - nearest).masked_fill_(~members[:, order], 0).clamp_(min=0)
    highest = torch.empty_like(distance[0])
    highest[order] = distance.amax(dim=0)
    return highest


def _nearest_elsewhere(tokens: Tensor, members: Tensor) -> Tensor:
    """(M, P): for each object, each row's largest cosine to a row outside it; what is not its own row has no meaning.

    Each pair of blocks is multiplied once for both directions, and not at all where nothing in it counts.
    """
    side = max(1, min(BLOCK, math.isqrt(MAX_ELEMENTS)))
    blocks = [slice(top, min(top + side, len(tokens))) for top in range(0, len(tokens), side)]
    some = torch.stack([members[:, block].any(dim=1) for block in blocks]).cpu()  # (blocks, M)
    whole = torch.stack([members[:, block].all(dim=1) for block in blocks]).cpu()
    nearest = tokens.new_full(members.shape, -torch.inf)
    for i, rows in enumerate(blocks):
        for j, columns in enumerate(blocks[i:], start=i):
            down = (some[i] & ~whole[j]).nonzero()[:, 0].tolist()
            across = (some[j] & ~whole[i]).nonzero()[:, 0].tolist() if j > i else []
            if down or across:
                cosine = tokens[rows] @ tokens[columns].T
                _take_nearest(nearest[:, rows], cosine, members[:, columns], down, some[j])
                _take_nearest(nearest[:, columns], cosine.T, members[:, rows], across, some[i])
    return nearest


def _take_nearest(nearest: Tensor, cosine: Tensor, members: Tensor, objects: list[int], some: Tensor) -> None:
    """Raise an object's (R,) row of `nearest` to the largest cosine (R, Q) among the Q that are not its members."""
    if not objects:
        return
    unmasked = cosine.amax(dim=1)
    for number in objects:
        largest = cosine.masked_fill(members[number], -torch.inf).amax(dim=1) if some[number] else unmasked
        torch.maximum(nearest[number], largest, out=nearest[number])


@dataclass
class Reference:
    """One normal image: its patches as rows (P, C) of length 1, their grid, and the image's own (height, width)."""

    tokens: Tensor
    grid: tuple[int, int]
    size: tuple[int, int]


class ReferenceBank:
    """The references of one category, one at the least; their grids may differ.

    Args:
        references: what they look like.
        own_window: with one reference, patches closer than this fraction of the side are excluded where it is compared
            with itself.
    """

    def __init__(self, references: Sequence[Reference], own_window: float):
        self.references = list(references)
        self.own_window = own_window

    def distance(self, tokens: Tensor) -> Tensor:
        """Half of 1 - cosine to the nearest patch of any reference, for each of P rows of length 1: (P,) in [0, 1]."""
        return self._nearest(tokens, self.references)

    def left_out(self) -> Iterator[tuple[Tensor, Reference]]:
        """The same for each reference as if it were not among them; with one, against itself."""
        for own in self.references:
            others = [reference for reference in self.references if reference is not own]
            excluded = None if others else near_own_position(own.grid, self.own_window, own.tokens.device)
            yield self._nearest(own.tokens, others or [own], excluded), own

    def move(self, to_device: Callable[[Tensor], Tensor]) -> None:
        """Move the references to another device."""
        for reference in self.references:
            reference.tokens = to_device(reference.tokens)

    def _nearest(self, tokens: Tensor, references: Sequence[Reference], excluded: Excluded | None = None) -> Tensor:
        distances = [
            nearest_distance(tokens, each.tokens, max_elements=MAX_ELEMENTS, excluded=excluded) for each in references
        ]
        return SCALE * torch.stack(distances).amin(dim=0)
