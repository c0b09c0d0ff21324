"""Distances among the places of one image, a block of rows at a time."""

import torch
from torch import Tensor

MAX_ELEMENTS = 2**24
"""Largest similarity matrix held at a time: 64 MiB of float32."""


def mean_distance(tokens: Tensor, count: int, farthest: bool, max_elements: int = MAX_ELEMENTS) -> Tensor:
    """Mean over the `count` nearest (or farthest) others of 1 - cosine, for each of P rows of length 1: (P,) >= 0.

    A row itself does not count; all others do where there are fewer than `count`; a single row has distance 0.
    """
    num_rows = max(1, max_elements // max(1, len(tokens)))
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


def distance_elsewhere(tokens: Tensor, members: Tensor, max_elements: int = MAX_ELEMENTS) -> Tensor:
    """1 - cosine to the nearest row that belongs to another object, (P,) >= 0; over a row's objects, the highest.

    `tokens` (P, C) have length 1, `members` (M, P) bool say which objects a row belongs to, at least one. Rows that
    two objects share belong to neither's "others"; where that leaves no other, the distance is 1.
    """
    highest = tokens.new_zeros(len(tokens))
    num_rows = max(1, max_elements // len(tokens))
    for top in range(0, len(tokens), num_rows):
        rows = slice(top, top + num_rows)
        cosine = tokens[rows] @ tokens.T
        for own in members:
            here = own[rows].nonzero()[:, 0]
            if len(here):
                nearest = cosine[here].masked_fill_(own, -torch.inf).amax(dim=1)
                distance = torch.where(nearest.isinf(), 1.0, 1 - nearest)
                highest[here + top] = torch.maximum(highest[here + top], distance)
    return highest
