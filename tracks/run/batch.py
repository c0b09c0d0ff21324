"""Preprocessed images on their way into a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.base import Images


def as_batch(images: Sequence[Tensor], device: str) -> Images:
    """B images (3, h, w) as one (B, 3, h, w) tensor, on its way to the device; or as a list where their sizes differ.

    Images of bytes stay where they are: models that take them resize them on the processor first.
    """
    if len({image.shape for image in images}) > 1 or not images[0].is_floating_point():
        return list(images)
    batch = torch.stack(list(images))
    return batch.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else batch.to(device)
