"""An adapter that reads all stages together, how odd a token is in its image, and how far from the references.

Not the paper's, whose adapters are one linear map per stage: a small encoder has too few layers to compare a place
with the rest of its image or with a reference by itself. Sources of the parts: standardised deviations as in
`deviations`; the density of a token among the others of its image, after the mutual scoring of SAA+ (Eq. 5-7)
made differentiable; the distance to the nearest reference token (APRIL-GAN Eq. 4); the top-down path of a feature
pyramid (Lin et al. 2017). The result are tokens on the finest grid, compared with the same words as the paper's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip_adapter.adapter import LOGIT_SCALE, Adapter
from models.features import ImageFeatures
from models.nearest import ROUNDING

DEVIATION_FLOOR = 1e-3
"""Added to the standard deviation, so that the channels of a flat image give no noise."""
MEMORY_GRID = 20
"""Finer grids are averaged down to at most this many tokens a side before they are compared with one another."""
COMPARED_STAGES = 3
"""The first stages, whose tokens are compared; those of the last are too few."""
BULK_TEMPERATURE = 0.1
"""Of the density of a token among the others; a fifth of it is near the distance to the nearest."""
LOCAL_REACH = 0.15
"""A place's own surroundings in a reference, as a share of the side to either direction."""
OWN_REACH = 0.05
"""A token's own surroundings in its image, which always resemble it."""
SMALLEST = 1e-24
"""Least squared length of a token."""
NOTHING = 1e-20
"""In place of an empty sum: a grid may be so small that all places are near one another."""
REFERENCES_AT_ONCE = 16
"""So many similarity matrices are held at a time, or one for each image of a larger batch."""
COMPARED_WIDTH = 48
"""Channels that tokens are compared in."""
DENSITIES = 3
DISTANCES = 3
COMPARISONS = DENSITIES + DISTANCES + 1
"""Channels that comparing adds: densities, distances, and whether there are references."""
TOP_SHARES = (0.002, 0.01, 0.05, 0.2)
"""The image score sees the mean of these shares of the highest places."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class References:
    """Normalised tokens of K references, (K, h*w, C) or (B, K, h*w, C) for each of B images, per compared stage.

    With `own` the K is 1 and the reference is the image itself: places near a token's own do not count. `left_out` (B,
    K) bool says for each of B images which references do not count. The K may be several views of `images` pictures,
    all of the first view before those of the next.
    """

    tokens: tuple[Tensor, ...]
    own: bool = False
    left_out: Tensor | None = None
    images: int | None = None

    def without(self, indices: Tensor) -> "References":
        """For B images that are themselves among the references: all but the image's own views, by its number.

        The only one, marked as the image's own, where there is no other.
        """
        if len(self.tokens[0]) == 1:
            return References(self.tokens, own=True)
        number = torch.arange(len(self.tokens[0]), device=self.tokens[0].device) % (self.images or len(self.tokens[0]))
        return replace(self, left_out=number == indices.to(number.device)[:, None])

    def to(self, device: torch.device) -> "References":
        """On another device."""
        left_out = None if self.left_out is None else self.left_out.to(device)
        return replace(self, tokens=tuple(tokens.to(device) for tokens in self.tokens), left_out=left_out)


class ContextAdapter(Adapter):
    """Stages (B, h_n*w_n, C_n) of a convolutional net to tokens (B, h_1*w_1, D) on the finest grid, and an image score.

    Args:
        stage_widths: C_n, finest stage first; each grid half the one before.
        embed_dim: D.
        hidden: channels of the top-down path.
    """

    kind = "context"
    num_maps = 1
    reads = (
        "all stages together: deviations of tokens from their image, their density in it, and with references the "
        "distance to the nearest reference token"
    )

    def __init__(self, stage_widths: Sequence[int], embed_dim: int, hidden: int = 64):
        super().__init__(stage_widths, embed_dim)
        self.hidden = hidden
        compared = self.compared = min(COMPARED_STAGES, len(stage_widths))
        self.read = nn.ModuleList(
            nn.Linear(2 * width + COMPARISONS * (n < compared), hidden) for n, width in enumerate(stage_widths)
        )
        self.compare = nn.ModuleList(nn.Linear(width, COMPARED_WIDTH) for width in stage_widths[:compared])
        self.merge = nn.ModuleList(_block(hidden) for _ in stage_widths)
        self.out = nn.Linear(hidden, embed_dim)
        self.score = nn.Linear(len(TOP_SHARES) + 2, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        nn.init.constant_(self.score.weight[:, : len(TOP_SHARES)], 0.1)

    def adapt(self, features: ImageFeatures, references: References | None = None) -> tuple[list[Tensor], list[Grid]]:
        """Tokens (B, h_1*w_1, D), not normalised, and their grid, each alone in a list."""
        return [self.out(self._hidden(features, references))], [features.grids[0]]

    def difference(self, features: ImageFeatures, text: Tensor, references: References | None = None) -> Tensor:
        """`difference_of` the adapted tokens with text (B, D, 2), (B, h_1*w_1): without writing them out.

        A token is W h + b: its product with the text is h W^T t + b t, its squared length h W^T W h + 2 h W^T b + b b.
        """
        hidden = self._hidden(features, references)
        weight, bias = self.out.weight, self.out.bias
        apart = (text[..., 1] - text[..., 0])[..., None]  # (B, D, 1)
        product = hidden @ (weight.T @ apart) + (bias * apart[..., 0]).sum(dim=1)[:, None, None]
        longer = 2 * (hidden @ (weight.T @ bias[:, None])) + bias.square().sum()
        squared = (hidden @ (weight.T @ weight)).mul_(hidden).sum(dim=2) + longer[..., 0]
        return LOGIT_SCALE * product[..., 0] / squared.clamp(min=SMALLEST).sqrt()

    def _hidden(self, features: ImageFeatures, references: References | None) -> Tensor:
        """What is read of all stages, on the finest grid: (B, h_1*w_1, hidden)."""
        total: Tensor | None = None
        for n in reversed(range(len(self.read))):
            tokens, grid = features.stages[n], features.grids[n]
            read = [deviations(tokens)]
            if n < self.compared:
                known = (None,) if references is None else (references.tokens[n], references.own, references.left_out)
                found = comparisons(self.compare[n](tokens), grid, *known)
                read.append(_enlarged(found, grid))
            here = self.read[n](torch.cat(read, dim=-1)).transpose(1, 2).unflatten(2, grid)
            if total is not None:
                here = here + F.interpolate(total, size=grid, mode="bilinear", align_corners=False)
            total = here + self.merge[n](here)
        assert total is not None
        return F.gelu(total).flatten(2).transpose(1, 2)

    def remember(self, features: ImageFeatures) -> References:
        """What is kept of K references."""
        parts = zip(self.compare, features.stages, features.grids, strict=False)
        return References(tuple(compared_tokens(compare(tokens).float(), grid)[0] for compare, tokens, grid in parts))

    def score_logit(self, difference: Tensor, text_logit: Tensor) -> Tensor:
        """Image score before the sigmoid, (B,), from the tokens' logits (B, N) and the embedding's, (B,).

        Both are differences of the two logits, anomalous less normal.
        """
        ranked = difference.sort(dim=1, descending=True).values
        count = difference.shape[1]
        top = [ranked[:, : max(1, round(share * count))].mean(dim=1) for share in TOP_SHARES]
        return self.score(torch.stack([*top, ranked.mean(dim=1), text_logit], dim=1))[:, 0]


def deviations(tokens: Tensor) -> Tensor:
    """How each token differs from its image's others: (B, N, C) to (B, N, 2C), z-scores per channel and their sizes.

    What is odd in an image is odd beside the rest of it, and a linear map of raw features
    cannot see that; a small encoder does not learn by itself to subtract its image.
    """
    std, mean = torch.std_mean(tokens, dim=1, keepdim=True, correction=0)
    z = (tokens - mean) / (std + DEVIATION_FLOOR)
    return torch.cat([z, z.abs()], dim=-1)


def difference_of(tokens: Tensor, text: Tensor) -> Tensor:
    """Anomalous less normal logit of tokens (B, N, D) with text (B, D, 2) of unit columns: (B, N)."""
    logits = LOGIT_SCALE * F.normalize(tokens.float(), dim=-1) @ text
    return logits[..., 1] - logits[..., 0]


def comparisons(
    tokens: Tensor, grid: Grid, references: Tensor | None, own: bool = False, left_out: Tensor | None = None
) -> tuple[Tensor, Grid]:
    """How odd each place is in its image and beside references: (B, h*w, COMPARISONS) on a coarser grid.

    `references` is (K, h*w, C) or (B, K, h*w, C), normalised, of that coarser grid. Without them their channels are 0;
    the last says whether there are any. `own` and `left_out` are those of `References`.
    """
    with torch.autocast(tokens.device.type, enabled=False):  # distances near 0 need their digits
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
        maps = F.adaptive_avg_pool2d(maps, size)
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=-1), size


def densities(unit: Tensor, grid: Grid) -> Tensor:
    """How little the other places of the image resemble each, (B, N, DENSITIES), standardised over the image.

    Soft maxima of the cosines at two temperatures, 0.1 and a fifth of it, and their mean; a place's own
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

    The median of a picture that is mostly normal says how far its normal places are from the references.
    """
    bank = references if references.ndim == 4 else references[None].expand(len(unit), *references.shape)
    near = _near(grid, LOCAL_REACH / 2 if own else LOCAL_REACH, unit.device)
    if torch.is_grad_enabled():  # gradients flow through the tokens that are nearest, not through the search
        tokens = bank.flatten(1, 2)
        anywhere, nearby = (_distance(unit, tokens, place) for place in _nearest(unit, bank, near, own, left_out))
    else:
        anywhere, nearby = _nearest_distances(unit, bank, near, own, left_out)

    def beside(distance: Tensor) -> Tensor:
        return (distance / (distance.median(dim=1, keepdim=True).values + 0.005)).clamp(max=20) / 4

    return torch.stack([4 * anywhere, beside(anywhere), beside(nearby)], dim=-1)


@torch.no_grad()
def _nearest(unit: Tensor, bank: Tensor, near: Tensor, own: bool, left_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which of the K * N tokens of a bank (B, K, N, C) is nearest to each of (B, N, C): anywhere and nearby, (B, N).

    `near` (N, N) says which places are near which; with `own` these do not count and there is no nearby. Tokens of
    references in `left_out` (B, K) do not count.
    """
    anywhere, nearby = [], []
    for part, _ in _split(bank, len(unit)):
        cosine = unit[:, None] @ part.transpose(2, 3)  # (B, k, N, N)
        if own:
            anywhere.append(cosine.masked_fill_(near, -torch.inf).max(dim=3))
        else:
            anywhere.append(cosine.max(dim=3))
            nearby.append(cosine.masked_fill_(~near, -torch.inf).max(dim=3))

    def best(found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        value, place = (torch.cat([part[i] for part in found], dim=1) for i in (0, 1))  # (B, K, N)
        if left_out is not None:
            value.masked_fill_(left_out[..., None], -torch.inf)
        reference = value.argmax(dim=1, keepdim=True)
        return (reference * bank.shape[2] + place.gather(1, reference))[:, 0]

    first = best(anywhere)
    return first, best(nearby) if nearby else first


def _nearest_distances(
    unit: Tensor, bank: Tensor, near: Tensor, own: bool, left_out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """1 - cosine with what `_nearest` finds, (B, N) each, without its numbers: three times as quick."""
    best: list[Tensor] = []
    for part, start in _split(bank, len(unit)):
        cosine = unit[:, None] @ part.transpose(2, 3)  # (B, k, N, N)
        ways = [near] if own else [None, ~near]
        found = torch.stack(
            [(cosine if way is None else cosine.masked_fill_(way, -torch.inf)).amax(dim=3) for way in ways]
        )
        if left_out is not None:
            found.masked_fill_(left_out[:, start : start + part.shape[1], None], -torch.inf)
        best.append(found.amax(dim=2))  # (ways, B, N)
    distance = 1 - torch.stack(best).amax(dim=0)
    distance.masked_fill_(distance < ROUNDING, 0)
    return distance[0], distance[-1]


def _split(bank: Tensor, batch: int) -> Iterator[tuple[Tensor, int]]:
    """A few of the K references of each image at a time, and the number of the first."""
    at_once = max(1, REFERENCES_AT_ONCE // batch)
    for start in range(0, bank.shape[1], at_once):
        yield bank[:, start : start + at_once], start


def _distance(unit: Tensor, bank: Tensor, places: Tensor) -> Tensor:
    """1 - cosine of each token (B, N, C) with the one of the bank (B, M, C) at its place (B, N); 0 within rounding."""
    chosen = bank.gather(1, places[..., None].expand(-1, -1, bank.shape[2]))
    distance = 1 - (unit * chosen).sum(dim=2)
    return distance.masked_fill(distance < ROUNDING, 0)


@lru_cache(maxsize=16)
def _near(grid: Grid, reach: float, device: torch.device) -> Tensor:
    """Which of two places lie within a share of the side of each other, (N, N) bool; a place and itself always do."""
    across, down = torch.arange(grid[1], device=device), torch.arange(grid[0], device=device)
    y, x = (part.flatten() for part in torch.meshgrid(down, across, indexing="ij"))
    radius = max(1, round(reach * min(grid)))
    return ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)


def _enlarged(found: tuple[Tensor, Grid], grid: Grid) -> Tensor:
    tokens, coarse = found
    if coarse == grid:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, coarse)
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
    )
