"""From values of patches to maps of pixels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampled(values: Tensor, grid: tuple[int, int], size: int, sigma: float) -> Tensor:
    """(B, h * w) values of patches to (B, S, S) pixels: bilinear, then a Gaussian of `sigma` pixels (0 for none)."""
    maps = F.interpolate(values.view(-1, 1, *grid), (size, size), mode="bilinear", align_corners=False)
    return blurred(maps, sigma)[:, 0]


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """(B, 1, H, W) maps under a Gaussian cut off at 4 sigma (or the map's side), edges reflected."""
    if sigma <= 0:
        return maps
    radius = min(math.ceil(4 * sigma), min(maps.shape[2:]) - 1)
    steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))


def hill(values: Tensor, half: Tensor, exponent: float) -> Tensor:
    """values^k / (values^k + half^k) for values >= 0: 0 at 0, 0.5 where a value equals `half`, towards 1 beyond."""
    tiny = torch.finfo(values.dtype).tiny
    return torch.sigmoid(exponent * (values.clamp(min=tiny).log() - half.clamp(min=tiny).log()))
