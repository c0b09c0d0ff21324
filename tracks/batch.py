"""Preprocessed images on their way into a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.base import Images


def as_batch(images: Sequence[Tensor], device: str) -> Images:
    """B images (3, h, w) on a device: one (B, 3, h, w) tensor, or the list where their sizes differ."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(list(images)).to(device)
    return [image.to(device) for image in images]
