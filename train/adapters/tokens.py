"""Where the encoder's output comes from: computed anew for every batch, unless a cache has it (token_cache.py)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.features import ImageFeatures, PatchBackbone
from train.adapters.images import ImageBatch, TrainingImages


@dataclass(frozen=True)
class TokenBatch:
    """What the encoder made of B images, their masks (B, h, w) bool and their categories."""

    features: ImageFeatures
    masks: Tensor
    categories: tuple[str, ...]


class TokenSource(Protocol):
    """Gives the tokens of the images of `order`, batch by batch, on the device of the backbone."""

    def batches(self, order: Sequence[int], batch_size: int, *, epoch: int = 0) -> Iterator[TokenBatch]:
        """The last batch is kept though it may be small."""


@dataclass(frozen=True)
class LiveTokens:
    """Encodes every batch when it is asked for."""

    backbone: PatchBackbone
    images: TrainingImages
    device: str
    workers: int = 2

    def batches(self, order: Sequence[int], batch_size: int, *, epoch: int = 0) -> Iterator[TokenBatch]:
        """Load, encode, hand over."""
        for batch in self.images.batches(order, batch_size, epoch=epoch, workers=self.workers):
            yield encode(self.backbone, batch, self.device)


def merged(parts: Sequence[tuple[Sequence[int], TokenBatch]], order: Sequence[int]) -> TokenBatch:
    """One batch of several, its images in the order of their numbers in `order`; each part comes with its numbers."""
    if len(parts) == 1:
        return parts[0][1]
    place = {number: at for at, number in enumerate(number for numbers, _ in parts for number in numbers)}
    places = [place[number] for number in order]
    batches = [batch for _, batch in parts]
    features = [batch.features for batch in batches]
    stages = zip(*(each.stages for each in features), strict=True)
    categories = [category for batch in batches for category in batch.categories]
    return TokenBatch(
        ImageFeatures(
            embedding=torch.cat([each.embedding for each in features])[places],
            stages=tuple(torch.cat(stage)[places] for stage in stages),
            grids=features[0].grids,
        ),
        torch.cat([batch.masks for batch in batches])[places],
        tuple(categories[at] for at in places),
    )


def encode(backbone: PatchBackbone, batch: ImageBatch, device: str) -> TokenBatch:
    """One pass of the frozen encoder."""
    with torch.no_grad():
        features = backbone.encode_image(batch.images.to(device))
    return TokenBatch(features, batch.masks.to(device), batch.categories)
