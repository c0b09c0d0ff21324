"""Where the encoder's output comes from: computed anew for every batch, unless a cache has it (token_cache.py)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.clip_adapter.backbone import ClipBackbone
from models.clip_adapter.features import ImageFeatures
from train.images import ImageBatch, TrainingImages


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

    backbone: ClipBackbone
    images: TrainingImages
    device: str
    workers: int = 2

    def batches(self, order: Sequence[int], batch_size: int, *, epoch: int = 0) -> Iterator[TokenBatch]:
        """Load, encode, hand over."""
        for batch in self.images.batches(order, batch_size, epoch=epoch, workers=self.workers):
            yield encode(self.backbone, batch, self.device)


def encode(backbone: ClipBackbone, batch: ImageBatch, device: str) -> TokenBatch:
    """One pass of the frozen encoder."""
    with torch.no_grad():
        features = backbone.encode_image(batch.images.to(device))
    return TokenBatch(features, batch.masks.to(device), batch.categories)
