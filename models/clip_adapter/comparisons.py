"""How odd a patch is in its image, and how far from the references: what a `ContextAdapter` reads beside the tokens.

Standardised deviations; the density of a token among the others of its image, after the mutual scoring of SAA+ (Eq. 5
to 7) made differentiable; the distance to the nearest reference token (APRIL-GAN Eq. 4).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.frozen import autocast, in_one_graph
from models.maps import averaged, interpolated
from models.nearest import ROUNDING

DEVIATION_FLOOR = 1e-3
"""Added to the standard deviation, so that the channels of a flat image give no noise."""
MEMORY_GRID = 20
"""Finer grids are averaged down to at most this many tokens a side before they are compared with one another."""
BULK_TEMPERATURE = 0.1
"""Of the density of a token among the others; a fifth of it is near the distance to the nearest."""
LOCAL_REACH = 0.15
"""A patch's own surroundings in a reference, as a share of the side to either direction."""
OWN_REACH = 0.05
"""A token's own surroundings in its image, which always resemble it."""
NOTHING = 1e-20
"""In position of an empty sum: a grid may be so small that all patches are near one another."""
REFERENCES_AT_ONCE = 16
"""So many similarity matrices are held at a time, or one for each image of a larger batch."""
DENSITIES = 3
DISTANCES = 3
COMPARISONS = DENSITIES + DISTANCES + 1
"""Channels that comparing adds: densities, distances, and whether there are references."""

Grid = tuple[int, int]


def comparisons(
    tokens: Tensor, grid: Grid, references: Tensor | None, own: bool = False, left_out: Tensor | None = None
) -> tuple[Tensor, Grid]:
    """How odd each patch is in its image and beside references: (B, h*w, COMPARISONS) on a coarser grid.

    `references` is (K, h*w, C) or (B, K, h*w, C), normalised, of that coarser grid. Without them their channels are 0;
    the last says whether there are any. `own` and `left_out` are those of `References`.
    """
    with autocast(tokens.device, "float32"):  # distances near 0 need their digits
        unit, coarse = compared_tokens(tokens.float(), grid)
        density = densities(unit, coarse)
        if references is None:
            nothing = density.new_zeros(*density.shape[:2], DISTANCES + 1)
            return torch.cat([density, nothing], dim=-1), coarse
        distance = distances(unit, coarse, references, own, left_out)
        return torch.cat([density, distance, torch.ones_like(density[..., :1])], dim=-1), coarse


def compared_tokens(tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
    """Tokens (B, h*w, C) of unit length, on a grid of at most `MEMORY_GRID` a side."""
    size = (min(grid[0], MEMORY_GRID), min(grid[1], MEMORY_GRID))
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    if size != grid:
        maps = averaged(maps, size)
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=-1), size


def densities(unit: Tensor, grid: Grid) -> Tensor:
    """How little the other patches of the image resemble each, (B, N, DENSITIES), standardised over the image.

    Soft maxima of the cosines at two temperatures, 0.1 and a fifth of it, and their mean; a patch's own
    surroundings do not count in the former.
    """
    far = (~_near(grid, OWN_REACH, unit.device)).to(unit.dtype)
    bulk = torch.exp((unit @ unit.transpose(1, 2)) / BULK_TEMPERATURE) * far
    square = bulk * bulk
    sums = torch.stack([(square * square * bulk).sum(dim=2), bulk.sum(dim=2)]).clamp(min=NOTHING).log()  # (2, B, N)
    mean = (unit @ unit.mean(dim=1)[..., None])[..., 0]
    density = torch.stack([sums[0] * (BULK_TEMPERATURE / 5), sums[1] * BULK_TEMPERATURE, mean], dim=-1)
    std, middle = torch.std_mean(density, dim=1, keepdim=True, correction=0)
    return (middle - density) / (std + 0.01)


def distances(
    unit: Tensor, grid: Grid, references: Tensor, own: bool = False, left_out: Tensor | None = None
) -> Tensor:
    """Distance to the nearest reference token, (B, N, DISTANCES): as it is, and beside the image's median, also local.

    The median of a picture that is mostly normal says how far its normal patches are from the references.
    """
    bank = references if references.ndim == 4 else references[None].expand(unit.shape[0], *references.shape)
    reach = LOCAL_REACH / 2 if own else LOCAL_REACH
    if torch.is_grad_enabled():  # gradients flow through the tokens that are nearest, not through the search
        tokens = bank.flatten(1, 2)
        anywhere, nearby = (
            _distance(unit, tokens, position)
            for position in _nearest(unit, bank, _near(grid, reach, unit.device), own, left_out)
        )
    else:
        anywhere, nearby = _nearest_distances(unit, bank, _barred(grid, reach, own, unit.device), own, left_out)

    def beside(distance: Tensor) -> Tensor:
        middle = (int(distance.shape[1]) - 1) // 2  # the lower of two
        median = distance.sort(dim=1).values[:, middle, None]
        return (distance / (median + 0.005)).clamp(max=20) / 4

    return torch.stack([4 * anywhere, beside(anywhere), beside(nearby)], dim=-1)


@torch.no_grad()
def _nearest(unit: Tensor, bank: Tensor, near: Tensor, own: bool, left_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which of the K * N tokens of a bank (B, K, N, C) is nearest to each of (B, N, C): anywhere and nearby, (B, N).

    `near` (N, N) says which patches are near which; with `own` these do not count and there is no nearby. Tokens of
    references in `left_out` (B, K) do not count.
    """
    anywhere, nearby = [], []
    for part, _ in _split(bank, unit.shape[0]):
        cosine = unit[:, None] @ part.transpose(2, 3)  # (B, k, N, N)
        if own:
            anywhere.append(cosine.masked_fill_(near, -torch.inf).max(dim=3))
        else:
            anywhere.append(cosine.max(dim=3))
            nearby.append(cosine.masked_fill_(~near, -torch.inf).max(dim=3))

    def best(found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        value, position = (torch.cat([part[i] for part in found], dim=1) for i in (0, 1))  # (B, K, N)
        if left_out is not None:
            value.masked_fill_(left_out[..., None], -torch.inf)
        reference = value.argmax(dim=1, keepdim=True)
        return (reference * bank.shape[2] + position.gather(1, reference))[:, 0]

    first = best(anywhere)
    return first, best(nearby) if nearby else first


def _nearest_distances(
    unit: Tensor, bank: Tensor, barred: Tensor, own: bool, left_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """1 - cosine with what `_nearest` finds, (B, N) each, without its numbers: several times as quick."""
    if unit.device.type == "cpu" and unit.shape[0] > 1 and not in_one_graph():  # the cache holds one image's matrix
        each = [
            _nearest_distances(*one, barred, own, None if left_out is None else left_out[i : i + 1])
            for i, one in enumerate(zip(unit.split(1), bank.split(1), strict=True))
        ]
        return torch.cat([anywhere for anywhere, _ in each]), torch.cat([nearby for _, nearby in each])
    best: list[Tensor] = []
    for part, start in _split(bank, unit.shape[0]):
        cosine = (unit @ part.flatten(1, 2).transpose(1, 2)).unflatten(2, (-1, part.shape[2]))  # (B, N, k, N)
        if left_out is not None:
            cosine.masked_fill_(left_out[:, None, start : start + part.shape[1], None], -torch.inf)
        anywhere = [] if own else [cosine.amax(dim=(2, 3))]
        best.append(torch.stack([*anywhere, cosine.add_(barred[:, None]).amax(dim=(2, 3))]))
    distance = 1 - (best[0] if len(best) == 1 else torch.stack(best).amax(dim=0))
    distance.masked_fill_(distance < ROUNDING, 0)
    return distance[0], distance[-1]


def _split(bank: Tensor, batch: int) -> Iterator[tuple[Tensor, int]]:
    """A few of the K references of each image at a time, and the number of the first."""
    if in_one_graph():
        yield bank, 0
        return
    at_once = max(1, REFERENCES_AT_ONCE // batch)
    for start in range(0, bank.shape[1], at_once):
        yield bank[:, start : start + at_once], start


def _distance(unit: Tensor, bank: Tensor, positions: Tensor) -> Tensor:
    """1 - cosine of tokens (B, N, C) with those of the bank (B, M, C) at their positions (B, N); 0 within rounding."""
    chosen = bank.gather(1, positions[..., None].expand(-1, -1, bank.shape[2]))
    distance = 1 - (unit * chosen).sum(dim=2)
    return distance.masked_fill(distance < ROUNDING, 0)


@lru_cache(maxsize=16)
def _near(grid: Grid, reach: float, device: torch.device) -> Tensor:
    """Which of two patches lie within a share of the side of each other, (N, N) bool; a patch and itself always do."""
    across, down = torch.arange(grid[1], device=device), torch.arange(grid[0], device=device)
    y, x = (part.flatten() for part in torch.meshgrid(down, across, indexing="ij"))
    radius = max(1, round(reach * min(grid)))
    return ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)


@lru_cache(maxsize=16)
def _barred(grid: Grid, reach: float, near: bool, device: torch.device) -> Tensor:
    """Added to similarities (N, N) of patches: -inf where they are near each other, or where they are not; else 0."""
    is_near = _near(grid, reach, device)
    return torch.zeros(is_near.shape, device=device).masked_fill(is_near if near else ~is_near, -torch.inf)


def enlarged(found: tuple[Tensor, Grid], grid: Grid) -> Tensor:
    """What was found on a coarser grid, (B, n, C), on a finer one, bilinear: (B, h*w, C)."""
    tokens, coarse = found
    if coarse == grid:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, coarse)
    return interpolated(maps, grid).flatten(2).transpose(1, 2)


def deviations(tokens: Tensor) -> Tensor:
    """How each token differs from its image's others: (B, N, C) to (B, N, 2C), z-scores per channel and their sizes.

    What is odd in an image is odd beside the rest of it, and a linear map of raw features
    cannot see that; a small encoder does not learn by itself to subtract its image.
    """
    std, mean = torch.std_mean(tokens, dim=1, keepdim=True, correction=0)
    z = (tokens - mean) / (std + DEVIATION_FLOOR)
    return torch.cat([z, z.abs()], dim=-1)
