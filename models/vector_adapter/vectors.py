"""All that a `VectorAdapter` learns: a normal and an abnormal vector for each stage, and a pair for the image."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip_adapter.adapter import AdapterHeader
from models.features import ImageFeatures
from models.frozen import seeded
from models.maps import interpolated

FIRST_SCALE = 10.0
"""Factor on cosines before the softmax when training begins; it is learnt, one for pixels and one for images."""
MAP_SHARE = 0.5
"""Share of the map's maximum in the zero-shot image score, where nothing else is said."""


class ClassVectors(nn.Module):
    """A pair of vectors (normal, abnormal) per stage, which patch tokens are compared with, and one for the embedding.

    Args:
        stage_widths: C_n, channels of each stage's tokens.
        embed_dim: D, channels of the image's embedding.
    """

    kind = "vectors"

    def __init__(self, stage_widths: Sequence[int], embed_dim: int):
        super().__init__()
        self.stage_widths = tuple(stage_widths)
        self.embed_dim = embed_dim
        self.pixel = nn.ParameterList(torch.randn(2, width) / math.sqrt(width) for width in self.stage_widths)
        self.image = nn.Parameter(torch.randn(2, embed_dim) / math.sqrt(embed_dim))
        self.log_scales = nn.Parameter(torch.full((2,), math.log(FIRST_SCALE)))
        """Of pixels, of images."""
        self.header: AdapterHeader | None = None
        """What the checkpoint says; None if untrained."""
        self.trained_on: tuple[str, ...] = ()
        """Names of the data sets it was trained on; empty if not known."""

    def stage_logits(self, features: ImageFeatures, size: int) -> list[Tensor]:
        """Per stage how much further a token's scaled cosine with abnormal is than with normal, (B, size, size)."""
        scale = self.log_scales[0].exp()
        logits = []
        for tokens, pair, grid in zip(features.stages, self.pixel, features.grids, strict=True):
            normal, abnormal = F.normalize(pair, dim=1)
            apart = scale * (abnormal - normal)[:, None]  # a matrix: OpenVINO 2026 fails on a scaled vector
            found = (F.normalize(tokens, dim=-1) @ apart)[..., 0]
            logits.append(interpolated(found.unflatten(1, (1, *grid)), (size, size), align_corners=True)[:, 0])
        return logits

    def stage_maps(self, features: ImageFeatures, size: int) -> list[Tensor]:
        """Per stage the softmax over normal and abnormal, (B, 2, size, size), of the scaled cosines of its tokens."""
        return [torch.stack([-each, each], dim=1).sigmoid() for each in self.stage_logits(features, size)]

    def image_logits(self, features: ImageFeatures) -> Tensor:
        """Scaled cosines of the embedding with the image's pair, (B, 2): normal, abnormal."""
        cosines = F.normalize(features.embedding, dim=1) @ F.normalize(self.image, dim=1).T
        return self.log_scales[1].exp() * cosines

    def assessed(self, features: ImageFeatures, size: int, map_share: float = MAP_SHARE) -> tuple[Tensor, Tensor]:
        """Zero-shot image scores (B,), the image's abnormal probability with a share of the map's maximum, and maps."""
        maps = self.map(features, size)
        scores = self.image_logits(features).softmax(dim=1)[:, 1]
        return torch.lerp(scores, maps.amax(dim=(1, 2)), map_share), maps

    def map(self, features: ImageFeatures, size: int) -> Tensor:
        """The zero-shot map (B, size, size) in [0, 1]: the mean over the stages of the abnormal probability."""
        return torch.stack([each.sigmoid() for each in self.stage_logits(features, size)]).mean(dim=0)


def random_vectors(stage_widths: Sequence[int], embed_dim: int, seed: int = 0) -> ClassVectors:
    """Untrained vectors, the same for the same seed: where a training begins."""
    with seeded(seed):
        vectors = ClassVectors(stage_widths, embed_dim)
    vectors.trained_on = ("nothing (random weights)",)
    return vectors
