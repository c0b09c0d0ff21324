"""PatchCore's greedy coreset: few rows that leave no other row far from all of them (K. Roth et al., Algorithm 1)."""

import torch
from torch import Tensor

CANDIDATES = 512
STEPS_UNSEEN = 32
"""So many rows are taken before it is asked whether they are sure: each question makes a GPU wait."""
MAX_ELEMENTS = 2**23
"""Largest matrix of distances held at a time, in elements (32 MiB)."""


def greedy_coreset(tokens: Tensor, count: int, *, candidates: int = CANDIDATES) -> Tensor:
    """Indices (count,) of rows of (N, C), each the farthest (Euclidean) from those taken before it.

    Exact: every distance counts, none is estimated by a random projection. The first row is the one farthest from the
    mean, so that nothing is drawn by chance.

    A row's distance to those taken only shrinks as more are taken. So the next rows are found among the `candidates`
    that are farthest now, whose distances to each other are known, until the best of them is nearer than the others
    were; only then do all rows meet what was taken, many at a time. O(N C count) as by the plain loop, but in products
    of matrices rather than with single rows.
    """
    count = min(count, len(tokens))
    if count < 1:
        return torch.empty(0, dtype=torch.long, device=tokens.device)
    rows = tokens - tokens.mean(dim=0)  # distances stay as they are, and fewer digits cancel in the products
    squares = rows.square().sum(dim=1)
    least = torch.full_like(squares, torch.inf)  # squared distance to the nearest row taken
    taken = squares.argmax()[None]
    chosen = [taken]
    missing = count - 1
    while missing:
        _meet(least, rows, squares, taken)
        taken = _farthest_first(least, rows, squares, min(candidates, len(rows)), missing)
        chosen.append(taken)
        missing -= len(taken)
    return torch.cat(chosen)


def _meet(least: Tensor, rows: Tensor, squares: Tensor, taken: Tensor) -> None:
    """Bring `least` (N,) up to date with rows just taken, which are never taken again."""
    for part in taken.split(max(1, MAX_ELEMENTS // len(rows))):
        between = torch.addmm(squares[part, None], rows[part], rows.T, alpha=-2)  # less each row's own square
        torch.minimum(least, between.amin(dim=0).add_(squares), out=least)
    least[taken] = -torch.inf


def _farthest_first(least: Tensor, rows: Tensor, squares: Tensor, candidates: int, most: int) -> Tensor:
    """The next rows, up to `most` and at least one, as long as the best is sure to be among the candidates."""
    highest = least.topk(min(candidates + 1, len(least)))
    among = highest.indices[:candidates]
    least_sure = highest.values[candidates] if len(highest.values) > candidates else least.new_tensor(-torch.inf)
    apart = highest.values[:candidates].clone()
    between = torch.addmm(squares[among], rows[among], rows[among].T, alpha=-2).add_(squares[among, None])
    found, values = [], []
    for step in range(min(most, len(among))):
        value, best = apart.max(dim=0, keepdim=True)
        found.append(best)
        values.append(value)
        torch.minimum(apart, between.index_select(0, best)[0], out=apart)
        apart.index_fill_(0, best, -torch.inf)
        if step % STEPS_UNSEEN == 0 and step and bool(value < least_sure):
            break
    sure = torch.cat(values) >= least_sure.clamp(min=torch.finfo(least.dtype).min)
    return among[torch.cat(found)[: max(1, int(sure.sum()))]]
