"""SuperADD's smaller bank: where tokens crowd, few stay. Unlike a greedy coreset, rare ones are not preferred."""

import torch
from torch import Tensor

from models.nearest import nearest_rows

PARTS, NEIGHBOURS = 100, 100
FIRST, GROWTH = 0.1, 1.1
"""Of the radius within which neighbours crowd: at first, as a share of the mean distance to them; from step to step."""


def thinned(tokens: Tensor, count: int, seed: int, *, parts: int = PARTS, neighbours: int = NEIGHBOURS) -> Tensor:
    """Increasing indices (count,) of rows of (N, C), fewer where they crowd; all of them where there are no more.

    Rows are dealt into `parts` by chance. In each, a row stays with the probability 1 / (1 + m), m being how many of
    its `neighbours` nearest are within a radius that grows until no more stay than are wanted; what then lacks is drawn
    from the others.
    """
    if len(tokens) <= count:
        return torch.arange(len(tokens), device=tokens.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(tokens), generator=generator).to(tokens.device)
    chance = torch.rand(len(tokens), generator=generator).to(tokens.device)
    chosen, dealt = [], 0
    for part in order.tensor_split(parts):
        before, dealt = dealt, dealt + len(part)
        wanted = count * dealt // len(tokens) - count * before // len(tokens)
        chosen.append(part[_uncrowded(tokens[part], wanted, chance[part], neighbours)])
    return torch.cat(chosen).sort().values


def _uncrowded(rows: Tensor, wanted: int, chance: Tensor, neighbours: int) -> Tensor:
    """`wanted` of rows that lie in random order; one stays if its chance (n,) is below its probability."""
    stays = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    if len(rows) <= wanted or not wanted:
        return stays.nonzero()[:wanted, 0]
    apart, _ = nearest_rows(rows, rows, min(neighbours + 1, len(rows)))
    apart = apart[:, 1:]  # without itself
    radius, farthest = FIRST * apart.mean(), apart.max()
    while int(stays.sum()) > wanted:
        stays = chance < 1 / (1 + (apart < radius).sum(dim=1))
        if radius > farthest or not farthest:
            break  # no more crowding to be found
        radius = GROWTH * radius
    return torch.cat([stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]])[:wanted]
