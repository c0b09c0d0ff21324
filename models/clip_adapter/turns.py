"""Parts that lie turned: references after quarter turns and flips as well, where the references say that it helps."""

import torch
from torch import Tensor

MOST_COMPARED = 8
"""References that the decision looks at."""
TURNS = tuple((quarters, flip) for flip in (False, True) for quarters in range(4))[1:]
"""Quarter turns, and whether the image is flipped before: all ways but the plain one."""


def turned(images: Tensor) -> Tensor:
    """The K square images (K, 3, S, S) in the seven other ways, way by way: (7 K, 3, S, S)."""
    return torch.cat([torch.rot90(images.flip(-1) if flip else images, quarters, (2, 3)) for quarters, flip in TURNS])


def turning_gain(plain: Tensor, others: Tensor) -> float:
    """By what share the distance of a reference left out falls when the others' turned views join the others.

    `plain` (K, N, C) and `others` (7 K, N, C) are tokens of unit length. Near 0 where parts always lie alike. A single
    reference cannot tell: 0.
    """
    count = len(plain)
    if count < 2:
        return 0.0
    every = torch.cat([plain, others]).unflatten(0, (-1, count))  # (8, K, N, C)
    alike, best = [], []
    for i in range(0, count, -(-count // MOST_COMPARED)):
        rest = [j for j in range(count) if j != i]
        distance = 1 - torch.stack([(plain[i] @ way[rest].flatten(0, 1).T).amax(dim=1) for way in every])  # (8, N)
        alike.append(distance[0].mean())
        best.append(distance.amin(dim=0).mean())
    before, after = torch.stack(alike).mean(), torch.stack(best).mean()
    return float(1 - after / before) if before > 0 else 0.0
