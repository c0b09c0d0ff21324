"""PatchCore's greedy coreset: few rows that leave no other row far from all of them (K. Roth et al., Algorithm 1)."""

import torch
from torch import Tensor


def greedy_coreset(tokens: Tensor, count: int) -> Tensor:
    """Indices (count,) of rows of (N, C), each the farthest (Euclidean) from those taken before it.

    Exact: every distance counts, none is estimated by a random projection. The first row is the one farthest from the
    mean, so that nothing is drawn by chance. One product of the matrix with a row to each row taken: O(N C count).
    """
    count = min(count, len(tokens))
    squares = tokens.square().sum(dim=1)
    centre = tokens.mean(dim=0)
    farthest = (squares - 2 * (tokens @ centre)).argmax()
    least = torch.full_like(squares, torch.inf)
    chosen = torch.empty(count, dtype=torch.long, device=tokens.device)
    for number in range(count):
        chosen[number] = farthest
        squared = squares + squares[farthest] - 2 * (tokens @ tokens[farthest])
        torch.minimum(least, squared, out=least)
        least[farthest] = -torch.inf  # taken
        farthest = least.argmax()
    return chosen
