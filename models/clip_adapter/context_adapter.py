"""An adapter that reads all stages together, how odd a token is in its image, and how far from the references.

Not the paper's, whose adapters are one linear map per stage: a small encoder has too few layers to compare a patch with
the rest of its image or with a reference by itself (`comparisons`). The stages meet on the top-down path of a feature
pyramid (Lin et al. 2017). The result are tokens on the finest grid, compared with the same words as the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip_adapter.adapter import LOGIT_SCALE, Adapter
from models.clip_adapter.comparisons import COMPARISONS, Grid, compared_tokens, comparisons, deviations, enlarged
from models.features import ImageFeatures
from models.maps import interpolated

COMPARED_STAGES = 3
"""The first stages, whose tokens are compared; those of the last are too few."""
SMALLEST = 1e-24
"""Least squared length of a token."""
COMPARED_WIDTH = 48
"""Channels that tokens are compared in."""
TOP_SHARES = (0.002, 0.01, 0.05, 0.2)
"""The image score sees the mean of these shares of the highest patches."""


@dataclass(frozen=True)
class References:
    """Normalised tokens of K references, (K, h*w, C) or (B, K, h*w, C) for each of B images, per compared stage.

    With `own` the K is 1 and the reference is the image itself: patches near a token's own do not count. `left_out` (B,
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
                read.append(enlarged(found, grid))
            here = self.read[n](torch.cat(read, dim=-1)).transpose(1, 2).unflatten(2, grid)
            if total is not None:
                here = here + interpolated(total, grid)
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
        count = int(difference.shape[1])
        top = [ranked[:, : max(1, round(share * count))].mean(dim=1) for share in TOP_SHARES]
        return self.score(torch.stack([*top, ranked.mean(dim=1), text_logit], dim=1))[:, 0]


def difference_of(tokens: Tensor, text: Tensor) -> Tensor:
    """Anomalous less normal logit of tokens (B, N, D) with text (B, D, 2) of unit columns: (B, N)."""
    logits = LOGIT_SCALE * F.normalize(tokens.float(), dim=-1) @ text
    return logits[..., 1] - logits[..., 0]


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
    )
